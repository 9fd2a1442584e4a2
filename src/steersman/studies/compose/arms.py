"""The arms of the study of combinations: every subset of ADORA, PF-PPO and D3S, each a recipe, and its runs.

The task has two modes (`task.chain_sum`): long responses err at 5 % of the steps, short ones at 20 %, so that ADORA's
length criterion has something to see. Every arm draws 32 prompts with 8 responses a batch at temperature 1 and moves
the policy with AdamW at 5e-5, one update of a batch, as in the studies of D3S and ADORA. The three methods have the
options of the shipped recipe ``pf_ppo_adora_d3s``; a subset leaves stages out.
Leaves out: claims (`claims`), the token view (`view`).
"""

from typing import Any

from steersman.core.errors import UserError
from steersman.recipes.presets import COMBINED
from steersman.studies.chain_sum_policy import SETTINGS
from steersman.studies.compose.names import ALL, METHODS, PLAIN, POLICY, TRAINED, VIEW, members
from steersman.studies.rl_runs import arm_of
from steersman.study.declare import Arm, Cell, ModeName
from steersman.task.chain_sum import ChainSum

TASK = ChainSum(k=5, error=0.2, error_long=0.05, fillers=0)
BATCHES = {"quick": 20, "full": 60}
SEEDS = {"quick": 4, "full": 10}
EVERY = {"quick": 2, "full": 5}
PROMPTS, SAMPLES, LR = 32, 8, 5e-5
HELD_OUT, JUDGED = 500, 2000
SHOWN = 3
"""Prompts with right and wrong responses, all of whose responses the token view shows."""
RECIPE = "pf_ppo_adora_d3s"
STAGES = {"adora": ("adora",), "pf-ppo": ("pf_ppo",), "d3s": ("d3s_rows", "d3s_tokens")}
"""Method -> its stages in the shipped recipe."""
LEARNT = "steersman.studies.rl_stages:Learnt"


def stages(name: str) -> list[str]:
    """The shipped recipe's stages without those of the methods that an arm does not have."""
    out = {stage for method in METHODS if method not in members(name) for stage in STAGES[method]}
    return [stage for stage in COMBINED[RECIPE]["stages"] if stage not in out]


def arm(name: str) -> Arm:
    """An arm by its name."""
    values: dict[str, Any] = {
        **COMBINED[RECIPE],
        "task": {**TASK.model_dump(exclude_none=True), "evaluation": HELD_OUT},
        "rollout": {"samples": SAMPLES, "max_new_tokens": TASK.max_response + SETTINGS["spare"]},
        "stages": [*stages(name), {"kind": LEARNT}],
        "optim": {"lr": LR},
        "budget": {"batch": PROMPTS},
    }
    meaning = "every row and token" if name == PLAIN else "grpo with " + ", then ".join(members(name))
    return arm_of(name, f"{meaning}; the shipped recipe" if name == ALL[-1] else meaning, values)


def cells(mode: ModeName, extra_seeds: int = 0) -> tuple[Cell, ...]:
    """The runs of a size: the token view first, then seed by seed."""
    if mode == "gpu":
        raise UserError("has no gpu mode: its models are made for two cores", where="compose", allowed="quick, full")
    sizes = {"batches": BATCHES[mode], "evaluate_every": EVERY[mode], "held_out": HELD_OUT, "judged": JUDGED}
    arms = [arm(name) for name in ALL]
    trained = (Cell(TRAINED, one, sizes, seed, (POLICY,)) for seed in range(SEEDS[mode] + extra_seeds) for one in arms)
    every = Arm("every method", {"methods": {one.name: one.settings for one in arms}}, "what each sees in one batch")
    return (Cell(VIEW, every, {"prompts": SHOWN}, 0, (POLICY,)), *trained)
