"""The runs of the POISE study: probes at a frozen policy, gradients at the same policy, and training.

The running sums are of one to six digits with errors at 1 % of the steps with digits below 5 and at 60 % of the others,
so that prompts differ: of the variance of a reward 37 % are between prompts (`BETWEEN`). Every training arm draws 256
responses a batch at temperature 1, with DAPO's clip, a mean over responses, one update and AdamW at 5e-5; they differ
in how many prompts that is, in the baseline, and in what is filtered.
Leaves out: claims (`claims`), probes (`probes`), gradients (`estimates`).
"""

from typing import Any

from steersman.core.errors import UserError
from steersman.studies.chain_sum_policy import SETTINGS
from steersman.studies.poise.names import ARMS, PARTS, POLICY, QUICK_ARMS, TRUTH
from steersman.studies.rl_runs import arm_of
from steersman.study.declare import Arm, Cell, ModeName
from steersman.task.chain_sum import HASH, ChainSum

TASK = ChainSum(k=(1, 6), error=0.01, error_hard=0.6)
BETWEEN = 0.37
"""Variance of the demonstrator's value over prompts, as a share of the variance of its rewards."""
LR, HELD_OUT, JUDGED = 5e-5, 500, 2000
BATCHES, SEEDS, EVERY = {"quick": 20, "full": 40}, {"quick": 2, "full": 10}, {"quick": 4, "full": 4}
EXAMPLES = {"quick": (256, 1024), "full": (256, 1024, 4096)}
"""Rollouts that probes are fitted to."""
PROBE_SEEDS = {"quick": 4, "full": 6}
ROUNDS = {"quick": 24, "full": 160}
"""Batches of each allocation whose gradients are compared."""
SINGLE_PROMPTS = {"quick": 96, "full": 160}
"""Prompts, with four responses each, whose gradients are taken one by one."""
END = [HASH]
PAIRED: dict[str, Any] = {"kind": "internal_value", "reasoning_end": END}
ALONE: dict[str, Any] = {"kind": "internal_value", "features": ["prompt"]}
STAGES: dict[str, list[Any]] = {
    "poise": [PAIRED],
    "dapo": [{"kind": "dynamic_sampling", "rounds": 10}, "grpo"],
    "grpo": ["grpo"],
    "rloo": ["rloo"],
    "ppo": [{"kind": "gae", "gamma": 1.0, "lam": 0.95}],
    "constant": [{"kind": "baseline", "value": 0.5}],
    "poise, prompt only": [ALONE],
}
SAMPLES = {"poise": 2, "dapo": 8, "grpo": 8, "rloo": 2, "ppo": 1, "constant": 1, "poise, prompt only": 1}
RESPONSES = 256
"""Of a batch, whatever the samples of a prompt; DAPO's filter draws more."""
MEANINGS = {
    "poise": "128 prompts x 2, baseline from the sibling's hidden states",
    "dapo": "32 prompts x 8 with right and wrong answers, others drawn again; group advantage",
    "grpo": "32 prompts x 8, group advantage",
    "rloo": "128 prompts x 2, baseline the sibling's reward",
    "ppo": "256 prompts x 1, a critic as large as the policy, trained alone for the first 4 batches",
    "constant": "control: 256 prompts x 1, baseline 0.5",
    "poise, prompt only": "256 prompts x 1, baseline from the prompt's hidden states",
}


def arm(name: str) -> Arm:
    """A training arm by its name."""
    credit = [] if name == "ppo" else ["uniform"]
    values: dict[str, Any] = {
        "task": {**TASK.model_dump(exclude_none=True), "evaluation": HELD_OUT},
        "rollout": {"samples": SAMPLES[name], "max_new_tokens": TASK.max_response + SETTINGS["spare"]},
        "stages": [*STAGES[name], *credit],
        "aggregate": {"mode": "seq_mean_token_mean"},
        "optim": {"lr": LR},
        "budget": {"batch": RESPONSES // SAMPLES[name]},
    }
    if name == "ppo":
        values |= {"critic": {"optim": {"lr": 10 * LR}}}
        values["budget"] |= {"phases": [{"steps": 4, "trains": ["critic"]}]}
    return arm_of(name, MEANINGS[name], values)


def cells(mode: ModeName, extra_seeds: int = 0) -> tuple[Cell, ...]:
    """The runs of a size: gradients first, since they take longest, then probes, then training seed by seed."""
    if mode == "gpu":
        raise UserError("has no gpu mode: its models are made for two cores", where="poise", allowed="quick, full")
    knobs = TASK.model_dump(mode="json", exclude_none=True)
    every = Arm("every estimator", {"task": knobs}, "gradients at the first policy's weights")
    sizes: dict[str, Any] = {"rounds": ROUNDS[mode], "prompts": SINGLE_PROMPTS[mode]}
    found = [Cell(PARTS["gradients"], every, sizes, 0, (POLICY,))]
    probes = Arm("every probe", {"task": knobs}, "fitted to the first policy's rollouts, compared with its true value")
    for seed in range(PROBE_SEEDS[mode] + extra_seeds):
        found.append(Cell(PARTS["probe"], probes, {"examples": list(EXAMPLES[mode])}, seed, (POLICY, TRUTH)))
    sizes = {"batches": BATCHES[mode], "evaluate_every": EVERY[mode], "held_out": HELD_OUT, "judged": JUDGED}
    arms = [arm(name) for name in (QUICK_ARMS if mode == "quick" else ARMS)]
    return (
        *found,
        *(Cell(PARTS["training"], a, sizes, s, (POLICY,)) for s in range(SEEDS[mode] + extra_seeds) for a in arms),
    )
