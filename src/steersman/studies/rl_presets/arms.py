"""The arms of the presets' study: each is a recipe of `steersman train rl` as a user would write it, and its runs.

Every arm draws 32 prompts with 8 responses a batch at temperature 1 and moves the policy with AdamW at 3e-4, as the
testbed's reference does. What a preset says about advantage, loss, bounds, KL, averaging, critic and its warm-up stays;
what it says about learning rate, samples of a prompt and updates of a batch was chosen for other models and gives way.
With one update of a batch every ratio is 1, so GSPO, CISPO and SAPO would be GRPO: they have four updates of a batch,
and so has PPO, with a GRPO of their own to compare with. Leaves out: training (`training`), claims (`claims`).
"""

from typing import Any

from steersman.core.config import dump
from steersman.core.errors import UserError
from steersman.recipes.rl import RLRecipe
from steersman.studies.chain_sum_policy import SETTINGS
from steersman.studies.rl_presets.claims import FOUR, ONE, PARTS, PLAIN, PRESET_ARMS
from steersman.study.declare import Arm, Cell, ModeName
from steersman.task.chain_sum import ChainSum

BATCHES = 60
QUICK_BATCHES = 30
PROMPTS, SAMPLES, LR = 32, 8, 3e-4
ROOM = ChainSum().max_response + SETTINGS["spare"]
"""Most tokens of a response: 24. The task needs 18, so DAPO's fine for length (the last fifth) is for rambling only."""
QUICK_ARMS = ("dr_grpo", "rloo", "dapo", "ppo")
SEEDS = {"quick": 3, "full": 8}
PLAIN_SEEDS = {"quick": 5, "full": 8}
EVERY, HELD_OUT, JUDGED = 10, 1000, 4000
POLICY = "policy"

MEANINGS = {
    PLAIN: "no preset: group advantage, clip, mean over tokens, no KL; the testbed's reference",
    "grpo": "the preset: mean over rows, KL 0.04 in the loss",
    "dr_grpo": "the preset: no division by the group's deviation, constant denominator",
    "rloo": "the preset: leave-one-out baseline, sum over a row, KL 0.05 in the reward",
    "reinforce_pp": "the preset: returns whitened over the batch, KL 1e-4 in the reward",
    "dapo": "the preset: dynamic sampling, higher upper bound, fine for length",
    "grpo x4": "the preset grpo, four updates of a batch",
    "gspo": "the preset: ratio of the response, bounds 3e-4 and 4e-4",
    "cispo": "the preset: ratio cut at 5, no gradient dropped",
    "sapo": "the preset: smooth gate",
    "ppo": "the preset: critic at ten times the rate, GAE 0.95, the first 10 updates the critic's alone",
}


def arm(name: str) -> Arm:
    """An arm by its name; its settings are the whole resolved recipe without the model."""
    updates = 4 if name in FOUR else 1
    values: dict[str, Any] = {
        "model": {"path": POLICY},
        "task": {"kind": "chain_sum", "evaluation": HELD_OUT},
        "rollout": {"samples": SAMPLES, "max_new_tokens": ROOM, "minibatches": updates},
        "optim": {"lr": LR},
        "budget": {"batch": PROMPTS},
    }
    if name != PLAIN:
        values["preset"] = PRESET_ARMS[name]
    recipe = dump(RLRecipe.model_validate(values))
    del recipe["model"]
    return Arm(name, recipe, MEANINGS[name])


def cells(mode: ModeName, extra_seeds: int = 0) -> tuple[Cell, ...]:
    """The runs of a size, seed by seed, so that an interrupted study has whole comparisons.

    Quick: the plain arm for 60 batches with five seeds, and four presets for 30 batches with three. Full: every arm for
    60 batches with eight seeds.
    """
    if mode == "gpu":
        raise UserError("has no gpu mode: its models are made for two cores", where="rl-presets", allowed="quick, full")
    names = (PLAIN, *QUICK_ARMS) if mode == "quick" else (*ONE, *FOUR)
    arms = {name: arm(name) for name in names}
    return tuple(
        _cell(arms[name], seed, QUICK_BATCHES if mode == "quick" and name != PLAIN else BATCHES)
        for seed in range(PLAIN_SEEDS[mode] + extra_seeds)
        for name in names
        if name == PLAIN or seed < SEEDS[mode] + extra_seeds
    )


def _cell(one: Arm, seed: int, batches: int) -> Cell:
    task = {"batches": batches, "evaluate_every": EVERY, "held_out": HELD_OUT, "judged": JUDGED}
    return Cell(PARTS[one.name in FOUR], one, task, seed, (POLICY,))
