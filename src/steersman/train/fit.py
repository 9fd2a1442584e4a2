"""The `fit` loop: data -> batches -> a learner's `step`.

Which rows a step sees is a function of (seed, step) alone. Leaves out: what a step does (the learner), metrics,
checkpoints and resume (`loop`).
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from steersman.core.noise import permutation
from steersman.store.run import RunDir
from steersman.train.loop import Budget, Fitted, Habits, Watch, run_steps


class Learner(Protocol):
    """What `fit` trains: it owns its data, its parameters and its update."""

    @property
    def rows(self) -> int:
        """Number of training rows."""
        ...

    def step(self, rows: Tensor, step: int) -> Mapping[str, Tensor | float]:
        """Update on the rows `rows` (int64) as step number `step`; returns metrics, ``tokens`` among them."""
        ...

    def evaluate(self) -> Mapping[str, float]:
        """Metrics on held-out data; empty where there is none. Must not change anything."""
        ...

    def state_dict(self) -> dict[str, Any]:
        """Everything that influences the next step."""
        ...

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what `state_dict` gave."""
        ...


def batch_rows(step: int, batch: int, rows: int, seed: int) -> Tensor:
    """The rows of step `step`: consecutive stretches of the epochs' permutations, int64 ``[batch]``.

    A batch that crosses the end of an epoch takes the rest from the next one, so every batch is full and every row is
    used once an epoch.
    """
    first, last = step * batch, (step + 1) * batch - 1
    epochs = range(first // rows, last // rows + 1)
    order = torch.cat([permutation(rows, seed, "order", e) for e in epochs])
    start = first - epochs[0] * rows
    return order[start : start + batch]


def fit(
    learner: Learner,
    budget: Budget,
    run: RunDir,
    habits: Habits = Habits(),
    *,
    watch: Watch | None = None,
    resume: Path | None = None,
) -> Fitted:
    """Train `learner` for its budget on batches of its rows; arguments, result and errors as `loop.run_steps`."""

    def advance(step: int) -> Mapping[str, Tensor | float]:
        return learner.step(batch_rows(step, budget.batch, learner.rows, budget.seed), step)

    return run_steps(learner, advance, budget.total(learner.rows), budget, run, habits, watch=watch, resume=resume)
