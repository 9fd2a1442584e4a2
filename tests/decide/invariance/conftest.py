"""Rows of the counterexample's world in four environments."""

import numpy as np
import pytest

from steersman.decide.invariance import DiscreteSCM, MutableSCM

GATE = MutableSCM([("Y", "M"), ("M", "X1"), ("Y", "X1")], "Y", ["M"])


@pytest.fixture(scope="session")
def gate_world() -> DiscreteSCM:
    """Y ~ Bern(.1), X1 follows Y where M = 0 and is a coin where M = 1."""
    x1 = np.array([[[0.7, 0.3], [0.5, 0.5]], [[0.0, 1.0], [0.5, 0.5]]])
    tables = {"Y": np.array([0.9, 0.1]), "X1": x1, "M": np.array([[0.8, 0.2], [0.2, 0.8]])}
    return DiscreteSCM(GATE, dict.fromkeys(GATE.nodes, (0.0, 1.0)), tables)


@pytest.fixture(scope="session")
def gate_rows(gate_world) -> dict[str, np.ndarray]:
    """500 rows of each environment, M copying Y more or less."""
    parts = [gate_world.sample(500, 10 + i, {"M": np.array([[1 - p, p], [p, 1 - p]])})
             for i, p in enumerate((0.1, 0.2, 0.3, 0.45))]  # fmt: skip
    return {k: np.concatenate([p[k] for p in parts]) for k in parts[0]} | {"E": np.repeat(list("abcd"), 500)}
