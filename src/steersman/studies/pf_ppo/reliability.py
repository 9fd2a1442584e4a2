"""R^2 of the reward model on responses of the frozen policy, under every filter, beside its range-restriction null.

Each seed draws other prompts and responses. The same is done with a reward of our making that is equally reliable
everywhere, so that one sees which order of filters its range alone gives.
Leaves out: R^2 and its null (`reward.reliability`), claims (`claims`).
"""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from steersman.core.noise import generator
from steersman.language.decode import generate
from steersman.language.load import load_model
from steersman.reward.model import load_reward_model
from steersman.reward.reliability import CLOSED, null_r_squared, r_squared, weights_of
from steersman.reward.reliability_report import ReliabilityReport, reward_reliability
from steersman.studies.pf_ppo.names import STRATEGIES
from steersman.studies.tiny_code_policy import ROOM, TASK, TAUGHT
from steersman.study.declare import Cell
from steersman.task.tiny_code import grade, prompts
from steersman.task.tiny_code_language import EOS

STEP = 2**28
"""Step of its prompts, which no run reaches."""
RESAMPLES = 200
POWERS = ("pow-1", "pow-2", "pow-3")
SIMULATED = 20_000
RHO2 = 0.3
"""Prompts of the simulation, and its R^2 without a filter."""


def run(cell: Cell, policy: Path, reward: Path) -> dict[str, Any]:
    """Draw, score by model and tests, and compare.

    Args:
        cell: its task says prompts and samples, its arm's settings thresholds and the scale of pow-k.
        policy: folder of the policy's model.
        reward: folder of the reward model.

    Returns:
        ``table``: a line a filter; ``curve``: tenths by reward; ``passes``: share of right answers of one response, of
        the one of largest reward, and of the best of all; ``simulated``: R^2 by filter of the equally reliable reward,
        and ``expected``, its null.
    """
    n, samples, seed = int(cell.task["prompts"]), int(cell.task["samples"]), cell.seed
    asked = prompts(TASK, n, seed, STEP, purpose=TAUGHT)
    drawn = generate(load_model(policy), asked.prompts, samples_per_prompt=samples, max_new_tokens=ROOM, stop_ids=EOS,
                     seed=seed, step=STEP)  # fmt: skip
    correct = grade(drawn, [row for row in asked.rows for _ in range(samples)]).scores.parts["correct"]
    r = load_reward_model(reward)(drawn).value.double().numpy()
    s, group = correct.double().numpy(), np.repeat(np.arange(n), samples)
    report = _report(r, s, group, cell.arm.settings)
    by_prompt, passed = r.reshape(n, samples), s.reshape(n, samples)
    best = passed[np.arange(n), by_prompt.argmax(1)]
    passes = {"one": passed, "best by reward": best, "any": passed.max(1)}
    return {
        "table": {line.strategy: _line(line) for line in report.table},
        "curve": [{"reward": b.reward, "score": b.score, "unexplained": b.unexplained} for b in report.curve],
        "passes": {name: float(x.mean()) for name, x in passes.items()},
        **_simulated(seed, samples),
    }


def _report(r: np.ndarray, s: np.ndarray, group: np.ndarray, settings: Mapping[str, Any]) -> ReliabilityReport:
    """One report over all filters; pow-k, which wants rewards in [-1, 1], sees them scaled and cut as in training."""
    limits = {k: tuple(v) if isinstance(v, list) else v for k, v in settings["thresholds"].items()}
    known: dict[str, Any] = {"resamples": RESAMPLES, "seed": 0}
    plain = reward_reliability(r, s, group, [k for k in STRATEGIES if k not in POWERS], thresholds=limits, **known)
    cut = np.clip(r / settings["std"], -settings["clip"], settings["clip"])
    powers = reward_reliability(cut, s, group, POWERS, **known)
    return ReliabilityReport((*plain.table, *powers.table), plain.curve, plain.bins, plain.resamples)


def _line(line: Any) -> dict[str, float | None]:
    named = ("r2", "binned", "null", "excess", "slope", "variance")
    return {k: None if math.isnan(getattr(line, k)) else float(getattr(line, k)) for k in named}


def _simulated(seed: int, samples: int) -> dict[str, Any]:
    """R^2 under the four rank filters where s = R + noise of one variance, with an R^2 of `RHO2` without a filter."""
    draw = generator(seed, "pf_ppo/null")
    r = draw.standard_normal(SIMULATED * samples)
    s = math.sqrt(RHO2) * r + math.sqrt(1 - RHO2) * draw.standard_normal(len(r))
    group = np.repeat(np.arange(SIMULATED), samples)
    found = {k: r_squared(r, s, weight=weights_of(r, group, k, None)) for k in CLOSED}
    return {"simulated": found, "expected": {k: null_r_squared(RHO2, k, samples) for k in CLOSED}}
