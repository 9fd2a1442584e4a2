"""The arms of the ADORA study, each a recipe of `steersman train rl`, and its runs.

Every arm draws 32 prompts with 8 responses a batch at temperature 1 and moves the policy with AdamW at 5e-5, one update
of a batch. The first token of a response chooses a long one (24 tokens) or a short one (14), both as often at first. In
one world long responses err at 5 % of their steps and short ones at 20 %, in the other it is the reverse.
Leaves out: claims (`claims`), classes of prompts at fixed weights (`classes`).
"""

from typing import Any

from steersman.core.errors import UserError
from steersman.studies.adora.names import (
    AMPLIFIED,
    ATTENUATED,
    GRID_ARMS,
    JOINED_ARMS,
    PARTS,
    POLICIES,
    QUICK_ARMS,
    VIEW_ARMS,
    WORLD_ARMS,
    WORLDS,
)
from steersman.studies.chain_sum_policy import SETTINGS
from steersman.studies.rl_runs import arm_of
from steersman.study.declare import Arm, Cell, ModeName
from steersman.task.chain_sum import ChainSum

BATCHES = {"quick": 20, "full": 40}
SEEDS = {"quick": 4, "full": 5}
CLASSIFIED = {"quick": 64, "full": 256}
"""Prompts whose classes are compared between two draws."""
CLASS_SEED = 0
SUPERVISED: dict[str, Any] = {"steps": 3000, "optim": {"lr": 2e-3}}
"""How the policies are taught: twelve hundred steps at 4e-3, enough for one mode, left them at chance."""
SHOWN = 3
"""Prompts in the token view."""
PROMPTS, SAMPLES, LR = 32, 8, 5e-5
EVERY, HELD_OUT, JUDGED = 10, 1000, 4000
GOOD, BAD = 0.05, 0.20
"""Error rates of a step in the better and in the worse mode."""

AMPLIFY: dict[str, Any] = {"kind": "adora"}
ATTENUATE: dict[str, Any] = {"kind": "adora", "mode": "attenuate", "criterion": "length"}
WEIGHED: dict[str, dict[str, Any]] = {
    "amplify": AMPLIFY,
    "amplify mean1": {**AMPLIFY, "normalize": "mean1"},
    "amplify permuted": {**AMPLIFY, "permuted": True},
    "amplify length": {**AMPLIFY, "criterion": "length"},
    "amplify difficulty": {**AMPLIFY, "criterion": "difficulty"},
    "amplify either": {**AMPLIFY, "criterion": "either"},
    "attenuate": ATTENUATE,
    "attenuate mean1": {**ATTENUATE, "normalize": "mean1"},
    "attenuate permuted": {**ATTENUATE, "permuted": True},
    **{name: {**AMPLIFY, "tau": tau, "weight": w} for name, (tau, w) in AMPLIFIED.items()},
    **{name: {**ATTENUATE, "weight": w} for name, w in ATTENUATED.items()},
    "dr_grpo + adora": AMPLIFY,
    "rloo + adora": AMPLIFY,
    "filter + adora": AMPLIFY,
}
"""The stage of each arm that has one."""
BASES: dict[str, tuple[list[Any], dict[str, Any]]] = {
    "dr_grpo": ([{"kind": "grpo", "scale": "none"}], {"aggregate": {"mode": "seq_sum_const"}}),
    "rloo": (["rloo"], {"loss": {"kind": "reinforce"}, "aggregate": {"mode": "seq_mean_token_sum"}}),
    "filter": ([{"kind": "dynamic_sampling", "rounds": 10}, "grpo"], {}),
}
"""Stages up to the advantage, and further tables, of the methods that ADORA is joined with."""
MEANINGS = {
    "grpo": "all prompts alike",
    "amplify": "both criteria, weight 2: the paper's strategy for text, as we read it",
    "amplify mean1": "control: the same weights divided by their mean",
    "amplify permuted": "control: the same weights on random prompts",
    "amplify length": "length criterion alone",
    "amplify difficulty": "difficulty criterion alone",
    "amplify either": "either criterion",
    "attenuate": "length criterion, weight 0.1: the released programs' strategy",
    "attenuate mean1": "control: the same weights divided by their mean",
    "attenuate permuted": "control: the same weights on random prompts",
    "dr_grpo": "advantages not divided by the group's deviation, constant denominator",
    "rloo": "leave-one-out baseline, sum over a row, no KL",
    "filter": "DAPO's dynamic sampling: prompts are drawn until 32 have right and wrong answers",
}


def task(world: str) -> ChainSum:
    """Two modes, of which one is better."""
    short, long = (BAD, GOOD) if world == "long" else (GOOD, BAD)
    return ChainSum(k=5, error=short, error_long=long, fillers=0)


def arm(name: str, world: str) -> Arm:
    """An arm by its name, in a world."""
    base = name.removesuffix(" + adora")
    before, tables = BASES.get(base, (["grpo"], {}))
    own = [WEIGHED[name]] if name in WEIGHED else []
    values: dict[str, Any] = {
        "task": {**task(world).model_dump(exclude_none=True), "evaluation": HELD_OUT},
        "rollout": {"samples": SAMPLES, "max_new_tokens": task(world).max_response + SETTINGS["spare"]},
        "stages": [*before, *own, "uniform"],
        "optim": {"lr": LR},
        "budget": {"batch": PROMPTS},
        **tables,
    }
    return arm_of(name, MEANINGS.get(name, MEANINGS.get(base, "another tau or weight")), values)


def cells(mode: ModeName, extra_seeds: int = 0) -> tuple[Cell, ...]:
    """The runs of a size: those that train nothing first, then seed by seed."""
    if mode == "gpu":
        raise UserError("has no gpu mode: its models are made for two cores", where="adora", allowed="quick, full")
    sizes = {"batches": BATCHES[mode], "evaluate_every": EVERY, "held_out": HELD_OUT, "judged": JUDGED}
    groups = [(world, QUICK_ARMS if mode == "quick" else WORLD_ARMS[world], world) for world in WORLDS]
    if mode == "full":
        groups += [("grid", GRID_ARMS, "long"), ("joined", JOINED_ARMS, "long")]
    arms = [(PARTS[part], arm(name, world), POLICIES[world]) for part, names, world in groups for name in names]
    trained = [
        Cell(part, one, sizes, seed, (policy,))
        for seed in range(SEEDS[mode] + extra_seeds)
        for part, one, policy in arms
    ]
    return (*(_classes(mode, world) for world in WORLDS), _view(), *trained)


def _classes(mode: ModeName, world: str) -> Cell:
    """A run that trains nothing: classes of the same prompts from two draws of responses at the first weights."""
    knobs = task(world).model_dump(mode="json", exclude_none=True)
    one = Arm(f"classes, {PARTS[world]}", {"task": knobs}, "two draws of responses at the first policy's weights")
    return Cell(PARTS["classes"], one, {"prompts": CLASSIFIED[mode], "world": world}, CLASS_SEED, (POLICIES[world],))


def _view() -> Cell:
    """A run that trains nothing: what each arm makes of the same batch where long is good."""
    methods = {name: arm(name, "long").settings for name in VIEW_ARMS}
    one = Arm("every method", {"methods": methods}, "what each makes of the same batch, token by token")
    return Cell(PARTS["view"], one, {"prompts": SHOWN}, CLASS_SEED, (POLICIES["long"],))
