"""Regressions of one variable on several: lines, small networks, boosted trees, or anything with fit and predict.

Inputs and outcome are standardised with what was fitted on, never with new rows. Leaves out: choosing columns
(`world`).
Networks start from random weights; the authors' start from ones, which keeps all hidden units of a layer the same.
"""

from collections.abc import Callable
from copy import deepcopy
from typing import Any, Protocol

import numpy as np

from steersman.core import noise
from steersman.core.errors import UserError

NAMES = ("linear", "mlp", "boosting")
RIDGE = 1e-8
"""Relative to the largest singular value: directions below it are left out."""
HIDDEN, STEPS, RATE, DECAY, BATCH = 16, 250, 0.03, 1e-4, 1024
HELD, CHECK = 0.2, 25
"""Share of the rows that decides when a fit stops, and steps between looks at it."""
TREES = 150
EARNED = 2.0
"""Standard errors by which a fit has to beat the mean on held-out rows; else it is the mean."""


class Model(Protocol):
    """A fitted regression."""

    def predict(self, x: np.ndarray) -> np.ndarray:
        """[n, k] -> [n]."""


class Constant:
    """The mean, whatever the input."""

    def __init__(self, value: float) -> None:
        self.value = value

    def predict(self, x: np.ndarray) -> np.ndarray:
        """[n, k] -> [n]."""
        return np.full(len(x), self.value)


class Linear:
    """Least squares with an intercept."""

    def __init__(self, x: np.ndarray, y: np.ndarray) -> None:
        mean, sd = x.mean(0), _spread(x)
        beta = np.linalg.lstsq((x - mean) / sd, y - y.mean(), rcond=RIDGE)[0]
        self.weight = beta / sd
        self.bias = float(y.mean() - mean @ self.weight)

    def predict(self, x: np.ndarray) -> np.ndarray:
        """[n, k] -> [n]."""
        return x @ self.weight + self.bias

    def torch(self) -> Callable[[Any], Any]:
        """The same function of a tensor [n, k] float64."""
        import torch

        weight = torch.from_numpy(self.weight)
        return lambda x: x @ weight + self.bias


class Network:
    """One hidden layer of tanh units with a linear path beside it, by Adam, stopped by held-out rows."""

    def __init__(self, x: np.ndarray, y: np.ndarray, seed: int, copies: int = 1) -> None:
        self.mean, self.sd = x.mean(0), _spread(x)
        self.centre, self.scale = float(y.mean()), float(_spread(y[:, None])[0])
        self.parts = _train((x - self.mean) / self.sd, (y - self.centre) / self.scale, seed, copies)

    def predict(self, x: np.ndarray) -> np.ndarray:
        """[n, k] -> [n]."""
        w1, b1, w2, b2, line = self.parts
        z = (x - self.mean) / self.sd
        return (np.tanh(z @ w1 + b1) @ w2 + b2 + z @ line) * self.scale + self.centre

    def torch(self) -> Callable[[Any], Any]:
        """The same function of a tensor [n, k] float64."""
        import torch

        w1, b1, w2, b2, line = (torch.from_numpy(p) for p in self.parts)
        mean, sd = torch.from_numpy(self.mean), torch.from_numpy(self.sd)

        def value(x: Any) -> Any:
            z = (x - mean) / sd
            return (torch.tanh(z @ w1 + b1) @ w2 + b2 + z @ line) * self.scale + self.centre

        return value


def _spread(x: np.ndarray) -> np.ndarray:
    sd = x.std(0)
    return np.where(sd > 0, sd, 1.0)


def held_out(rows: int, seed: int, copies: int) -> np.ndarray:
    """[n] mask of the rows that decide when to stop; copies of one row lie on one side.

    Args:
        rows: n.
        seed: of the choice.
        copies: the rows are so many blocks of the same original rows.
    """
    own = rows // copies
    out = np.zeros(own, bool)
    out[noise.generator(seed, "invariance/held").permutation(own)[: max(1, int(HELD * own))]] = True
    return np.tile(out, copies)


def helps(y: np.ndarray, told: np.ndarray, mean: float, copies: int) -> bool:
    """Whether predictions beat the mean on held-out rows by more than `EARNED` standard errors.

    What follows noise alone is what an adversary looks for, so a fit has to earn its place.
    """
    gain = ((y - mean) ** 2 - (y - told) ** 2).reshape(copies, -1).mean(0)
    return bool(gain.mean() > EARNED * gain.std() / np.sqrt(len(gain)))


def _train(x: np.ndarray, y: np.ndarray, seed: int, copies: int) -> tuple[np.ndarray, ...]:
    """Weights of a network on standardised rows; those that did best on the held-out rows."""
    import torch

    held = held_out(len(y), seed, copies)
    rng, k = noise.generator(seed, "invariance/network"), x.shape[1]
    start = [rng.standard_normal((k, HIDDEN)) / np.sqrt(max(k, 1)), rng.standard_normal(HIDDEN),
             rng.standard_normal(HIDDEN) / HIDDEN, np.zeros(1), np.zeros(k)]  # fmt: skip
    parts = [torch.from_numpy(p.astype(np.float32)).requires_grad_() for p in start]
    kept = ~held if not held.all() else held
    xs, ys, xh, yh = (torch.from_numpy(a.astype(np.float32)) for a in (x[kept], y[kept], x[held], y[held]))
    batch = min(BATCH, len(ys))
    order = torch.from_numpy(np.concatenate([rng.permutation(len(ys)) for _ in range(-(-STEPS * batch // len(ys)))]))

    def loss(a: Any, b: Any) -> Any:
        w1, b1, w2, b2, line = parts
        return ((torch.tanh(a @ w1 + b1) @ w2 + b2 + a @ line - b) ** 2).mean()

    optimiser = torch.optim.Adam(parts, lr=RATE, weight_decay=DECAY)
    best, chosen = np.inf, start
    for step in range(STEPS + 1):
        if step % CHECK == 0:
            with torch.no_grad():
                now = float(loss(xh, yh))
            if now < best:
                best, chosen = now, [p.detach().numpy().astype(float) for p in parts]
        if step == STEPS:
            break
        optimiser.param_groups[0]["lr"] = RATE * (1 - step / STEPS)
        optimiser.zero_grad()
        rows = order[step * batch : (step + 1) * batch]
        loss(xs[rows], ys[rows]).backward()
        optimiser.step()
    return tuple(chosen)


class Fitted:
    """A fitted scikit-learn regressor."""

    def __init__(self, estimator: Any) -> None:
        self.estimator = estimator

    def predict(self, x: np.ndarray) -> np.ndarray:
        """[n, k] -> [n]."""
        return np.asarray(self.estimator.predict(x), float)


def _boost(x: np.ndarray, y: np.ndarray, seed: int, copies: int) -> Model:
    """Boosted trees, as many as did best on held-out rows; the mean where they do not help."""
    from sklearn.ensemble import HistGradientBoostingRegressor

    held = held_out(len(y), seed, copies)

    def made(trees: int, rows: np.ndarray) -> Any:
        leaf = max(5, min(40, len(rows) // 50))
        model = HistGradientBoostingRegressor(max_iter=trees, max_leaf_nodes=12, min_samples_leaf=leaf,
                                              early_stopping=False, random_state=0)  # fmt: skip
        return model.fit(x[rows], y[rows])

    kept = np.flatnonzero(~held)
    stages = list(made(TREES, kept).staged_predict(x[held]))
    best = int(np.argmin([float(((y[held] - p) ** 2).mean()) for p in stages]))
    if not helps(y[held], stages[best], float(y[kept].mean()), copies):
        return Constant(float(y.mean()))
    return Fitted(made(best + 1, np.arange(len(y))))


Regressor = str | Any
"""linear, mlp, boosting, or an object with fit(x, y) and predict(x), which is copied before it is fitted."""


def check(regressor: Regressor) -> None:
    """Refuse what cannot be fitted."""
    if isinstance(regressor, str):
        if regressor not in NAMES:
            raise UserError(f"{regressor!r} is no regressor", where="regressor", allowed=", ".join(NAMES))
    elif not (hasattr(regressor, "fit") and hasattr(regressor, "predict")):
        raise UserError(f"{type(regressor).__name__} has no fit and predict", where="regressor",
                        allowed=f"{', '.join(NAMES)}, or a scikit-learn regressor")  # fmt: skip


def fit(regressor: Regressor, x: np.ndarray, y: np.ndarray, seed: int = 0, copies: int = 1) -> Model:
    """Fit a regression.

    Args:
        regressor: which.
        x: [n, k]; y: [n].
        seed: of random weights and of what is held out.
        copies: the rows are so many blocks that hold the same original rows, one block after the other.

    Edge cases: no column (k = 0), or a constant outcome, gives the mean.
    """
    check(regressor)
    if not x.shape[1] or not len(y) or float(np.ptp(y)) == 0.0:
        return Constant(float(y.mean()))
    if regressor == "linear":
        return Linear(x, y)
    if regressor == "mlp":
        made, held = Network(x, y, seed, copies), held_out(len(y), seed, copies)
        return made if helps(y[held], made.predict(x[held]), float(y.mean()), copies) else Constant(float(y.mean()))
    if regressor == "boosting":
        return _boost(x, y, seed, copies)
    return Fitted(deepcopy(regressor).fit(x, y))


def extrapolates(model: Any) -> bool:
    """Whether predictions may grow without bound beyond the data: all but constants and averages of outcomes."""
    return not isinstance(model, Constant) and "Tree" not in type(model).__name__ and not _averages(model)


def _averages(model: Any) -> bool:
    name = type(getattr(model, "estimator", None)).__name__
    return any(word in name for word in ("Tree", "Forest", "Boosting", "Neighbors"))
