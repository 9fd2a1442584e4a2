"""Models and designs of random numbers, for tests of conjoint."""

import numpy as np

from steersman.decide.conjoint.data import Factor
from steersman.decide.conjoint.outcome import Outcome, Terms


def factors(*sizes):
    return tuple(Factor(f"f{d}", tuple(f"l{i}" for i in range(k))) for d, k in enumerate(sizes))


def random_model(seed, sizes=(3, 2, 4), link="linear", paired=True, scale=0.05, crossed=True, cov=False):
    fs = factors(*sizes)
    pairs = tuple((i, j) for j in range(len(sizes)) for i in range(j)) if crossed else ()
    terms = Terms(fs, tuple(sorted(pairs)))
    rng = np.random.default_rng(seed)
    p = len(terms.names)
    a = rng.normal(size=(p + 1, p + 1)) * 0.01
    return Outcome(terms, rng.normal(size=p) * scale, 0.5 if link == "linear" else 0.0, link, paired,
                   a @ a.T if cov else None)  # fmt: skip


def random_design(seed, fs):
    rng = np.random.default_rng(seed)
    return [rng.dirichlet(np.full(len(f.levels), 5.0)) for f in fs]
