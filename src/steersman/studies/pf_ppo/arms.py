"""The arms of the PF-PPO study, each a recipe of `steersman train rl` on TinyCode, and its runs.

PPO as the paper has it: critic, GAE with lambda 0.95, KL k1 in the reward, of 0.2 where the reward model pays and 0.01
where the tests do, which cannot be over-optimised. A batch gets one pass in eight updates, and the first two batches
move the critic alone. Every arm draws 320 responses a batch: ppo-s one to each of 320 prompts, all others five to each
of 64. Filters keep two of five (deterministic draws); bon keeps one, and strategies by threshold
keep what they keep. Thresholds are fixed beforehand in units of the reward's spread, not tuned: 0 for top and
top-random, 0.5 and -0.5 for top-bottom; pow-k sees rewards divided by two spreads and cut at 1.
Rate, updates, batch, KL and warm-up were chosen by pilots of plain PPO on seeds 1000 and 1001 (docs/pf-ppo.md).
Leaves out: claims (`claims`), R^2 (`reliability`).
"""

from typing import Any

from steersman.core.errors import UserError
from steersman.studies.pf_ppo.names import (
    ALL,
    EXACT,
    FILTERS,
    FULL_ARMS,
    GRPO,
    NOISY_ARMS,
    ORACLE,
    PAYS,
    POLICY,
    QUICK_ARMS,
    RANDOM,
    RELIABILITY,
    REWARD,
    SINGLE,
    TESTS,
    TRAINED,
)
from steersman.studies.rl_runs import arm_of
from steersman.studies.tiny_code_policy import ROOM, TASK, TAUGHT
from steersman.study.declare import Arm, Cell, ModeName

BATCHES = {"quick": 12, "full": 36}
SEEDS = {"quick": 3, "full": 5}
EVERY = {"quick": 4, "full": 9}
DRAWS = {"quick": 6, "full": 12}
"""Seeds of the responses on which R^2 is measured."""
PROMPTS, SAMPLES, UPDATES, LR = 64, 5, 8, 4e-5
KL = {TRAINED: 0.2, EXACT: 0.01, TESTS: 0.01}
"""By what pays."""
HELD_OUT, JUDGED, MEASURED = 300, 2000, 400
WARM_UP = 16
"""Updates that move the critic alone."""
OPTIONS: dict[str, dict[str, Any]] = {
    **{name: {} for name in ("bon", "bw")},
    "br": {"draws": 2},
    "top": {"upper": 0.0},
    "top-random": {"upper": 0.0},
    "top-bottom": {"upper": 0.5, "lower": -0.5},
    **{name: {"draws": 2, "mean": 0.0, "std": 2.0, "clip": 1.0} for name in ("pow-1", "pow-2", "pow-3")},
}
THRESHOLDS: dict[str, Any] = {"top": 0.0, "top-random": 0.0, "top-bottom": (0.5, -0.5)}
"""The same for R^2."""
LEARNT = {"kind": "steersman.studies.rl_stages:Learnt"}
NOISY = {"kind": "steersman.studies.pf_ppo.stages:NoisyVerdict"}
MEANINGS = {
    SINGLE: "one response to each of 320 prompts",
    ALL: "five responses to each of 64 prompts, all learnt from",
    RANDOM: "control: two of five at random, as many as br and bw learn from",
    "bon": "the best of five",
    "br": "the best of five and one other",
    "bw": "the best and the worst of five",
    "top": "rewards above the mean",
    "top-random": "rewards above the mean, and every other with probability 1/2",
    "top-bottom": "rewards more than half a spread from the mean",
    "pow-1": "two of five, by |R|",
    "pow-2": "two of five, by |R|^2",
    "pow-3": "two of five, by |R|^3",
    GRPO: "control: no critic, advantage in the group, KL in the loss",
    ORACLE: "control: the two of five whose reward disagrees least with the tests",
}


def arm(name: str, part: str = TRAINED) -> Arm:
    """An arm by its name; `part` says what pays it: the reward model, tests with noise, or the tests."""
    behind: list[Any] = []
    if name in FILTERS:
        behind = [{"kind": "pf_ppo", "strategy": FILTERS[name], **OPTIONS[name]}]
    elif name == RANDOM:
        behind = [{"kind": "pf_ppo", "strategy": "none", "draws": 2}]
    elif name == ORACLE:
        behind = [{"kind": "steersman.studies.pf_ppo.stages:OracleFilter"}]
    credit = (
        ["grpo", "uniform"] if name == GRPO else [{"kind": "kl_reward", "beta": KL[part]}, {"kind": "gae", "lam": 0.95}]
    )
    single = name == SINGLE
    values: dict[str, Any] = {
        "task": {**TASK.model_dump(), "evaluation": HELD_OUT, "purpose": TAUGHT, "evaluation_purpose": TAUGHT},
        "rollout": {"samples": 1 if single else SAMPLES, "max_new_tokens": ROOM, "minibatches": UPDATES},
        "stages": [*([NOISY] if part == EXACT else []), *credit, *behind, LEARNT],
        "loss": {"kind": "clipped", "eps_low": 0.2, "eps_high": 0.2},
        "optim": {"lr": LR},
        "budget": {"batch": PROMPTS * SAMPLES if single else PROMPTS},
    }
    if part == TRAINED:
        values["reward"] = {"kind": "model", "path": REWARD}
    if name == GRPO:
        values["kl"] = {"beta": KL[part]}
    else:
        values["critic"] = {"clip": 0.2}
        values["budget"]["phases"] = [{"steps": WARM_UP, "trains": ["critic"]}]
    paid = "" if part == TRAINED else f"; paid by {PAYS[part]}"
    return arm_of(name, MEANINGS[name] + paid, values)


def cells(mode: ModeName, extra_seeds: int = 0) -> tuple[Cell, ...]:
    """The runs of a size: R^2 first, then seed by seed."""
    if mode == "gpu":
        raise UserError("has no gpu mode: its models are made for two cores", where="pf-ppo", allowed="quick, full")
    sizes = {"batches": BATCHES[mode], "evaluate_every": EVERY[mode], "held_out": HELD_OUT, "judged": JUDGED}
    needs = (POLICY, REWARD)
    every = Arm(
        "every filter", {"thresholds": THRESHOLDS, "clip": 1.0, "std": 2.0}, "R^2 of the frozen policy's responses"
    )
    draws = {"prompts": MEASURED, "samples": SAMPLES}
    measured = (Cell(RELIABILITY, every, draws, seed, needs) for seed in range(DRAWS[mode] + extra_seeds))
    groups = [(TRAINED, [arm(name) for name in (QUICK_ARMS if mode == "quick" else FULL_ARMS)])]
    groups.append((TESTS, [arm(ALL, TESTS)]))
    if mode == "full":
        groups.append((EXACT, [arm(name, EXACT) for name in NOISY_ARMS]))
    trained = (
        Cell(part, one, sizes, seed, needs)
        for seed in range(SEEDS[mode] + extra_seeds)
        for part, arms in groups
        for one in arms
    )
    return (*measured, *trained)
