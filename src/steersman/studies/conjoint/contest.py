"""Runs of the game: estimates of equilibria, solvers on equal numbers of slopes, what relaxed profiles do to Q."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy.special

from steersman.core.noise import generator
from steersman.decide.conjoint import Election, Factor, Primary, general_models, primary_models, solve_game
from steersman.decide.conjoint.outcome import Outcome
from steersman.decide.conjoint.policy import Grid
from steersman.studies.conjoint.names import GAME_LAM
from steersman.studies.conjoint.worlds import PARTIES, binary, primary_voters, voted, voters

BUDGET = 400
"""Slopes that every solver may ask for."""
STEP = 0.2
TEMPERATURE = 0.5
"""Of the relaxed profiles in the authors' package."""
DRAWS = 20_000
SOLVED = ("extragradient", "ogda", "simultaneous")


def estimates(share: float, primaries: bool, seed: int, samples: list[int], replications: int) -> dict[str, Any]:
    """Errors and coverage of 95 % intervals of an equilibrium over surveys of one world, by size."""
    world = voters()
    shares = {PARTIES[0]: share, PARTIES[1]: 1 - share}
    stage = Primary(models=primary_voters(world)) if primaries else None
    truth, rows = solve_game(world, shares, stage, lam=GAME_LAM), []
    target = np.concatenate([truth.policy[p].x for p in PARTIES])
    keys = ("square", "value", "covered", "policy_covered", "exploitability")
    for n in samples:
        found: dict[str, list[float]] = {k: [] for k in keys}
        for r in range(replications):
            # The same surveys' noise for every share: shares are compared on them.
            rng = generator(seed, f"conjoint study/game {n} {primaries}", r)
            data = voted(world, share, n, rng, primaries)
            models, _ = general_models(data, PARTIES)
            fitted = Primary(models=primary_models(data, PARTIES)) if primaries else None
            got = solve_game(models, shares, fitted, lam=GAME_LAM)
            off = np.concatenate([got.policy[p].x for p in PARTIES]) - target
            se, i = np.concatenate([got.policy_se[p] for p in PARTIES]), got.interval()
            found["square"].append(float((off**2).mean()))
            found["value"].append(got.value - truth.value)
            found["covered"].append(float(i.low <= truth.value <= i.high))
            found["policy_covered"].append(float((np.abs(off) <= 1.959964 * se).mean()))
            found["exploitability"].append(got.exploitability)
        rows.append({"samples": n, **found})
    return {"truth": truth.value, "truth_exploitability": truth.exploitability, "rows": rows}


@dataclass(frozen=True)
class Table:
    """A model of pairs that is a table of chances [N, N]."""

    factors: tuple[Factor, ...]
    chance: np.ndarray

    def pair_prob(self, first: np.ndarray, second: np.ndarray) -> np.ndarray:
        """Of the first against the second; profiles are numbered as in `Grid`."""
        sizes = [len(f.levels) for f in self.factors]
        a, b = (np.ravel_multi_index(x.T, sizes) for x in (first, second))
        return self.chance[a, b]


def solvers(seed: int, games: int) -> dict[str, Any]:
    """Exploitability after equally many slopes: voters' games, and games in which each answers the other."""
    out: dict[str, Any] = {}
    for family in ("voters", "pennies"):
        out[family] = {name: [] for name in SOLVED}
        for g in range(games):
            if family == "voters":
                models: Any = voters(1000 * seed + g, scale=1.0)
                options: dict[str, Any] = {"lam": 0.01}
            else:
                models, start = _pennies(generator(seed, "conjoint study/pennies", g))
                options = {"penalty": "none", "design": start}
            for name in SOLVED:
                steps = BUDGET // 2 if name == "extragradient" else BUDGET
                got = solve_game(
                    models, {"A": 0.5, "B": 0.5}, solver=name, steps=steps, step=STEP, newton=False, **options
                )
                out[family][name].append(got.exploitability)
    return out


def _pennies(rng: np.random.Generator) -> tuple[dict[str, Table], list[np.ndarray]]:
    """One factor of three levels in a cycle, each of which beats the next, by amounts that differ; and a start."""
    factor = (Factor("f", ("0", "1", "2")),)
    beats = rng.uniform(0.2, 0.4, 3)
    odds = np.zeros((3, 3))
    for i in range(3):
        odds[i, (i + 1) % 3], odds[(i + 1) % 3, i] = beats[i], -beats[i]
    table = Table(factor, 0.5 + odds)
    return {"A": table, "B": table}, [rng.dirichlet(np.ones(3) * 3)]


def push(seed: int, games: int) -> dict[str, Any]:
    """Q through primaries: the exact linear map, hard draws of profiles, and relaxed ones."""
    exact, hard, relaxed = [], [], []
    for g in range(games):
        models = voters(1000 * seed + g, scale=0.8)
        own = primary_voters(models)
        shares = {"A": 0.45, "B": 0.55}
        found = solve_game(models, shares, Primary(models=own), lam=0.05)
        x = [found.policy[p].x for p in PARTIES]
        p = np.full(len(x[0]), 0.5)
        rng = generator(seed, "conjoint study/push", g)
        game = Election(models, shares, PARTIES, p, Primary(models=own))
        grid = Grid(binary(3))
        exact.append(float(grid.joint(x[0]) @ game.M @ grid.joint(x[1])))
        hard.append(_drawn(models, own, shares, x, p, rng, None))
        relaxed.append(_drawn(models, own, shares, x, p, rng, TEMPERATURE))
    return {"exact": exact, "hard": hard, "relaxed": relaxed}


def _drawn(
    models: dict[str, Outcome],
    own: dict[str, Outcome],
    shares: dict[str, float],
    x: list[np.ndarray],
    p: np.ndarray,
    rng: np.random.Generator,
    temperature: float | None,
) -> float:
    """The four-term mean over drawn entrants and field candidates; relaxed profiles are mixtures of levels."""
    a, fa, b, fb = (_profiles(q, rng, temperature) for q in (x[0], p, x[1], p))

    def eta(model: Outcome, t: np.ndarray) -> np.ndarray:
        return model.terms.features(t) @ model.theta

    def votes(t: np.ndarray, u: np.ndarray) -> np.ndarray:
        return sum(shares[g] * scipy.special.expit(m.intercept + eta(m, t) - eta(m, u)) for g, m in models.items())

    ka = scipy.special.expit(eta(own["A"], a) - eta(own["A"], fa))
    kb = scipy.special.expit(eta(own["B"], b) - eta(own["B"], fb))
    four = ka * kb * votes(a, b) + ka * (1 - kb) * votes(a, fb)
    four = four + (1 - ka) * kb * votes(fa, b) + (1 - ka) * (1 - kb) * votes(fa, fb)
    return float(four.mean())


def _profiles(x: np.ndarray, rng: np.random.Generator, temperature: float | None) -> np.ndarray:
    """[DRAWS, M] of binary factors: levels by the Gumbel maximum, or its softmax."""
    parts = []
    for d in range(0, len(x), 2):
        with np.errstate(divide="ignore"):  # a level at zero is never drawn
            score = np.log(x[d : d + 2]) + rng.gumbel(size=(DRAWS, 2))
        parts.append(
            np.eye(2)[score.argmax(1)] if temperature is None else scipy.special.softmax(score / temperature, 1)
        )
    return np.concatenate(parts, 1)
