"""What others would predict with: a function of the training rows for each baseline, to be judged by the same search.

ERM, ERM without the mutable variables, the whole stable set, graph surgery, invariant prediction (ICP and causal
transfer), GroupDRO, IRM, anchor regression, the mean. Leaves out: baselines for environments that are not named (HRM)
and IB-IRM. GroupDRO, IRM, anchor and the invariance tests are linear in a basis: every cell where all inputs are
discrete and cells are few, else the inputs themselves.
Sources: Peters et al. 2016 (ICP); Rojas-Carulla et al. 2018 (causal transfer); Sagawa et al. 2020 (GroupDRO); Arjovsky
et al. 2019 (IRMv1); Rothenhäusler et al. 2021 (anchor); Subbaswamy et al. 2019 (surgery).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from steersman.core.errors import UserError
from steersman.decide.invariance.data import Columns, Data, count, levels_of, stack
from steersman.decide.invariance.discrete import Function
from steersman.decide.invariance.graph import MutableSCM
from steersman.decide.invariance.invariant import causal_transfer, icp
from steersman.decide.invariance.regressors import Constant, Model, Regressor, fit

MAX_CELLS = 64
RIDGE = 1e-6
"""Added to the diagonal of standardised second moments, so that cells without rows are no trouble."""
ANCHOR_GAMMAS = (1.0, 2.0, 5.0, 10.0, 30.0, 100.0)
IRM_PENALTY = 10.0
DRO_STEPS, DRO_RATE = 200, 0.5

Maker = Callable[[Data], Function]
"""Training rows -> predictor."""


@dataclass(frozen=True)
class Regression:
    """A predictor from a regression on some columns."""

    columns: tuple[str, ...]
    model: Model

    def __call__(self, columns: Columns) -> np.ndarray:
        return self.model.predict(stack(columns, self.columns, count(columns)))


@dataclass(frozen=True)
class Weighted:
    """A predictor that is linear in a basis."""

    basis: "Basis"
    weight: np.ndarray
    bias: float

    def __call__(self, columns: Columns) -> np.ndarray:
        return self.basis(columns) @ self.weight + self.bias


@dataclass(frozen=True)
class Basis:
    """Inputs as features: an indicator of every cell but the first, or standardised columns."""

    names: tuple[str, ...]
    levels: tuple[np.ndarray, ...] | None
    mean: np.ndarray
    sd: np.ndarray

    @staticmethod
    def of(columns: Columns, names: Sequence[str]) -> "Basis":
        """The basis for some columns."""
        x = stack(columns, names, count(columns))
        found = [levels_of(c) for c in x.T]
        known = tuple(np.array(v) for v in found if v is not None)
        cells = int(np.prod([len(v) for v in known])) if known else 1
        sd = x.std(0)
        table = len(known) == len(names) > 0 and cells <= MAX_CELLS
        return Basis(tuple(names), known if table else None, x.mean(0), np.where(sd > 0, sd, 1.0))

    def __call__(self, columns: Columns) -> np.ndarray:
        x = stack(columns, self.names, count(columns))
        if self.levels is None:
            return (x - self.mean) / self.sd
        places = [np.abs(x[:, [j]] - v).argmin(1) for j, v in enumerate(self.levels)]
        shape = tuple(len(v) for v in self.levels)
        return np.eye(int(np.prod(shape)))[np.ravel_multi_index(tuple(places), shape)][:, 1:]


def baselines(graph: MutableSCM, regressor: Regressor = "mlp", seed: int = 0) -> dict[str, Maker]:
    """All baselines by name, each a function of training rows.

    Args:
        graph: the graph; only surgery uses more of it than the names.
        regressor: of ERM and surgery.
        seed: of networks.

    Those that compare environments refuse rows without at least two of them. The whole stable set is none of these: its
    predictor is a class of the search (`CausalMinimax.ranking_`).
    """
    y = graph.target
    everything = tuple(v for v in graph.nodes if v != y)
    below = {*graph.mutable_children, *graph.descendants(graph.mutable_children)}
    pruned = tuple(v for v in everything if v not in below)

    def plain(names: tuple[str, ...]) -> Maker:
        def make(data: Data) -> Function:
            x = stack(data.columns, names, len(data))
            return Regression(names, fit(regressor, x, data.columns[y], seed))

        return make

    return {
        "constant": lambda data: Regression((), Constant(float(data.columns[y].mean()))),
        "ERM": plain(everything),
        "ERM without mutable": plain(graph.stable),
        "surgery": plain(pruned),
        "ICP": partial(_accepted, y, everything, icp),
        "causal transfer": partial(_accepted, y, everything, causal_transfer),
        "GroupDRO": partial(group_dro, y, everything),
        "IRM": partial(irm, y, everything),
        "anchor": partial(anchor, y, everything),
    }


def _environments(data: Data, who: str) -> list[np.ndarray]:
    if len(data.environments) < 2:
        raise UserError(f"{who} compares environments, and there are {len(data.environments)}", where="environment",
                        allowed="two or more")  # fmt: skip
    assert data.env is not None
    return [np.flatnonzero(data.env == e) for e in data.environments]


def _accepted(y: str, names: tuple[str, ...], choose: Callable[..., tuple[str, ...]], data: Data) -> Function:
    """Least squares in the basis of the variables that an invariance test lets through."""
    kept = choose(data.columns, y, names, _environments(data, "an invariance test"))
    if not kept:
        return Regression((), Constant(float(data.columns[y].mean())))
    basis = Basis.of(data.columns, kept)
    return _solve(basis, basis(data.columns), data.columns[y], np.ones(len(data)))


def _solve(basis: Basis, phi: np.ndarray, y: np.ndarray, weight: np.ndarray) -> Weighted:
    """Weighted least squares with an intercept."""
    w = weight / weight.sum()
    mean, centre = w @ phi, float(w @ y)
    z = phi - mean
    gram = (z * w[:, None]).T @ z + RIDGE * np.eye(phi.shape[1])
    beta = np.linalg.solve(gram, (z * w[:, None]).T @ (y - centre))
    return Weighted(basis, beta, centre - float(mean @ beta))


def group_dro(y: str, names: tuple[str, ...], data: Data) -> Function:
    """Least squares with the environments' weights that make it worst: min over f max over e of R_e(f).

    q_e <- q_e exp(eta R_e(f)), f the weighted least squares; weights of all steps are averaged, f is solved for them.
    """
    rows = _environments(data, "GroupDRO")
    basis = Basis.of(data.columns, names)
    phi, target = basis(data.columns), data.columns[y]
    q, total = np.full(len(rows), 1 / len(rows)), np.zeros(len(rows))
    scale = max(float(target.var()), 1e-12)

    def solve(share: np.ndarray) -> Weighted:
        weight = np.zeros(len(target))
        for r, s in zip(rows, share, strict=True):
            weight[r] = s / len(r)
        return _solve(basis, phi, target, weight)

    for step in range(DRO_STEPS):
        f = solve(q)
        error = (target - phi @ f.weight - f.bias) ** 2
        risk = np.array([error[r].mean() for r in rows]) / scale
        q = q * np.exp(DRO_RATE / np.sqrt(step + 1) * risk)
        q /= q.sum()
        total += q
    return solve(total / total.sum())


def irm(y: str, names: tuple[str, ...], data: Data, penalty: float = IRM_PENALTY) -> Function:
    """IRMv1: mean over environments of R_e + penalty (d/ds R_e(s f) at s = 1)^2, by L-BFGS from least squares.

    For squared error d/ds R_e = 2 mean((f - y) f). The outcome is centred and scaled by its training spread, and the
    objective divided by 1 + penalty, as in the authors' code.
    """
    from scipy.optimize import minimize

    rows = _environments(data, "IRM")
    basis = Basis.of(data.columns, names)
    target = data.columns[y]
    centre, scale = float(target.mean()), max(float(target.std()), 1e-12)
    z = np.concatenate([np.ones((len(data), 1)), basis(data.columns)], 1)
    t = (target - centre) / scale

    def objective(w: np.ndarray) -> tuple[float, np.ndarray]:
        value, slope = RIDGE * float(w @ w), 2 * RIDGE * w
        for r in rows:
            f = z[r] @ w
            gap = f - t[r]
            d = 2 * float((gap * f).mean())
            value += (float((gap**2).mean()) + penalty * d * d) / len(rows)
            inner = 2 * z[r].T @ (2 * f - t[r]) / len(r)
            slope = slope + (2 * z[r].T @ gap / len(r) + 2 * penalty * d * inner) / len(rows)
        return value / (1 + penalty), slope / (1 + penalty)

    start = _solve(basis, z[:, 1:], t, np.ones(len(t)))
    found = minimize(objective, np.concatenate([[start.bias], start.weight]), jac=True, method="L-BFGS-B").x
    return Weighted(basis, found[1:] * scale, float(found[0]) * scale + centre)


def anchor(y: str, names: tuple[str, ...], data: Data) -> Function:
    """Anchor regression on the environments, gamma by leaving one environment out: the smallest mean error there."""
    rows = _environments(data, "anchor regression")
    basis = Basis.of(data.columns, names)
    phi, target = basis(data.columns), data.columns[y]
    errors = []
    for gamma in ANCHOR_GAMMAS:
        left = []
        for out in rows:
            kept = [r for r in rows if r is not out]
            f = _anchored(basis, phi, target, kept, gamma)
            left.append(float(((target[out] - phi[out] @ f.weight - f.bias) ** 2).mean()))
        errors.append(float(np.mean(left)))
    return _anchored(basis, phi, target, rows, ANCHOR_GAMMAS[int(np.argmin(errors))])


def _anchored(basis: Basis, phi: np.ndarray, y: np.ndarray, rows: list[np.ndarray], gamma: float) -> Weighted:
    """Least squares after each environment's mean is moved away from the grand mean by sqrt(gamma)."""
    kept = np.concatenate(rows)
    mean, centre = phi[kept].mean(0), float(y[kept].mean())
    xs, ys = [], []
    for r in rows:
        shift, lift = phi[r].mean(0) - mean, float(y[r].mean()) - centre
        xs.append(phi[r] - mean + (np.sqrt(gamma) - 1) * shift)
        ys.append(y[r] - centre + (np.sqrt(gamma) - 1) * lift)
    z, t = np.concatenate(xs), np.concatenate(ys)
    beta = np.linalg.solve(z.T @ z / len(z) + RIDGE * np.eye(z.shape[1]), z.T @ t / len(z))
    return Weighted(basis, beta, centre - float(mean @ beta))


def largest_error(function: Function, columns: Columns, y: str, env: np.ndarray) -> tuple[float, str]:
    """The largest mean squared error of a predictor over environments that were seen, and where.

    Edge cases: more environments never make it smaller.
    """
    error = (columns[y] - function(columns)) ** 2
    found = {str(e): float(error[env == e].mean()) for e in dict.fromkeys(env.tolist())}
    worst = max(found, key=lambda e: found[e])
    return found[worst], worst
