"""The arms of the D3S study, each a recipe of `steersman train rl`, and its runs.

Every arm draws 32 prompts with 8 responses a batch (one a quarter of it) at temperature 1 and moves the policy with
AdamW at 5e-5, with one update of a batch; GSPO, whose ratio would be 1 then, has four. Prompts are of two difficulties:
the demonstrator errs at 1.8 % of the steps with digits below 5 and at 26.4 % of the others.
Leaves out: claims (`claims`), gradients of one batch (`gradients`).
"""

from collections.abc import Mapping, Sequence
from typing import Any

from steersman.core.errors import UserError
from steersman.studies.chain_sum_policy import SETTINGS
from steersman.studies.d3s.names import (
    BARE_ARMS,
    FOUR_ARMS,
    GRADIENT_ARMS,
    MAIN_ARMS,
    PARTS,
    POLICIES,
    QUICK_ARMS,
    VIEW_ARMS,
)
from steersman.studies.rl_runs import arm_of
from steersman.study.declare import Arm, Cell, ModeName
from steersman.task.chain_sum import ChainSum

BATCHES = {"quick": 30, "full": 60}
SEEDS = {"quick": 4, "full": 7}
GRADIENT_BATCHES = {"quick": 16, "full": 64}
GRADIENT_SEED = 0
SUPERVISED: dict[int, dict[str, Any]] = {1: {}, 0: {"steps": 1500, "optim": {"lr": 2e-3, "warmup": 0.1}}}
"""How the policies are taught, by fillers of a step."""
SHOWN = 2
"""Prompts in the token view."""
PROMPTS, SAMPLES, LR = 32, 8, 5e-5
EVERY, HELD_OUT, JUDGED = 10, 1000, 4000
ROWS, TOKENS = 0.25, 0.2
"""Shares of the static arms, and those D3S begins with."""
MATCHED = {"rows": 0.375, "tokens": 0.1375 / 0.375}
"""Static shares of as many tokens as D3S on average: the integral of (.25 + .25 p)(.2 + .3 p) over p is .1375."""

STATIC = {"kind": "d3s_rows", "end": ROWS}
SCHEDULED = {"kind": "d3s_rows"}
BEHIND: dict[str, tuple[dict[str, Any], ...]] = {
    "grpo": (),
    "random rows": ({**STATIC, "by": "random"},),
    "quarter batch": (),
    "pods": (),
    "d1s": ({**STATIC, "scope": "group"},),
    "d1s_cross": (STATIC,),
    "d2s": (STATIC, {"kind": "d3s_tokens", "end": TOKENS}),
    "d2s matched": (
        {"kind": "d3s_rows", "start": MATCHED["rows"], "end": MATCHED["rows"]},
        {"kind": "d3s_tokens", "start": MATCHED["tokens"], "end": MATCHED["tokens"]},
    ),
    "d2s random tokens": (STATIC, {"kind": "d3s_tokens", "end": TOKENS, "score": "random"}),
    "d2s oracle": (STATIC, {"kind": "steersman.studies.rl_stages:Decisive"}),
    "d3s": (SCHEDULED, {"kind": "d3s_tokens"}),
    "d3s_i": ({**SCHEDULED, "scope": "group"}, {"kind": "d3s_tokens"}),
    "d3s random": ({**SCHEDULED, "by": "random"}, {"kind": "d3s_tokens", "score": "random"}),
    "d3s entropy": (SCHEDULED, {"kind": "d3s_tokens", "score": "entropy"}),
    "d3s advantage": (SCHEDULED, {"kind": "d3s_tokens", "score": "advantage"}),
    "d3s oracle": (SCHEDULED, {"kind": "steersman.studies.rl_stages:Decisive"}),
    "gspo": (),
    "gspo + d3s": (SCHEDULED, {"kind": "d3s_tokens"}),
}
"""Stages behind the advantage."""
MEANINGS = {
    "grpo": "every row and token",
    "random rows": "control: a quarter of the rows, at random",
    "quarter batch": "control: 8 prompts a batch instead of 32, all learnt from",
    "pods": "a quarter of each group by the variance of rewards; advantages of those alone",
    "d1s": "a quarter of each group by the variance of advantages",
    "d1s_cross": "a quarter of the batch by the variance of advantages",
    "d2s": "d1s_cross, and a fifth of its tokens by |A| H",
    "d2s matched": "control: static shares of as many tokens as d3s in all",
    "d2s random tokens": "control: d1s_cross, and a fifth of its tokens at random",
    "d2s oracle": "control: d1s_cross, and its running sums alone",
    "d3s": "rows 25 % to 50 %, tokens 20 % to 50 % over the run",
    "d3s_i": "d3s with rows chosen inside groups",
    "d3s random": "control: the same numbers of rows and tokens, at random",
    "d3s entropy": "d3s, tokens by H alone",
    "d3s advantage": "d3s, tokens by |A| alone",
    "d3s oracle": "d3s, of the rows kept the running sums alone: what no method can know",
    "gspo": "GSPO with four updates of a batch",
    "gspo + d3s": "the same behind d3s",
}


def task(fillers: int) -> ChainSum:
    """Heterogeneous difficulty, with or without meaningless tokens.

    Without any, the policy is taught from prompts without hints, which no arm needs: with hints it did not learn the
    sums, neither in 1,200 steps at 4e-3 nor in 1,850 at 2e-3.
    """
    return ChainSum(k=5, error=0.018, error_hard=0.264, fillers=fillers, hint=0.5 if fillers else 0.0)


def arm(name: str, fillers: int) -> Arm:
    """An arm by its name, on the task with so many fillers a step."""
    world = task(fillers)
    own = [{**s, "fillers": fillers} if ":" in s["kind"] else s for s in BEHIND[name]]
    before = [{"kind": "pods", "share": ROWS}] if name == "pods" else []
    watched = {"kind": "steersman.studies.rl_stages:Kept", "fillers": fillers}
    values: dict[str, Any] = {
        "task": {**world.model_dump(exclude_none=True), "evaluation": HELD_OUT},
        "rollout": {
            "samples": SAMPLES,
            "max_new_tokens": world.max_response + SETTINGS["spare"],
            "minibatches": 4 if name in FOUR_ARMS else 1,
        },
        "stages": [*before, "grpo", "uniform", *own, watched],
        "optim": {"lr": LR},
        "budget": {"batch": PROMPTS // 4 if name == "quarter batch" else PROMPTS},
    }
    if name in FOUR_ARMS:
        values["loss"] = {"kind": "gspo", "eps_low": 3e-4, "eps_high": 4e-4}
        values["aggregate"] = {"mode": "seq_mean_token_mean"}
    return arm_of(name, MEANINGS[name], values)


def cells(mode: ModeName, extra_seeds: int = 0) -> tuple[Cell, ...]:
    """The runs of a size: those that train nothing first, then seed by seed."""
    if mode == "gpu":
        raise UserError("has no gpu mode: its models are made for two cores", where="d3s", allowed="quick, full")
    sizes = {"batches": BATCHES[mode], "evaluate_every": EVERY, "held_out": HELD_OUT, "judged": JUDGED}
    groups: list[tuple[str, tuple[str, ...], int]] = [(PARTS["main"], QUICK_ARMS if mode == "quick" else MAIN_ARMS, 1)]
    if mode == "full":
        groups += [(PARTS["bare"], BARE_ARMS, 0), (PARTS["four"], FOUR_ARMS, 1)]
    arms = [(part, arm(name, fillers), POLICIES[fillers]) for part, names, fillers in groups for name in names]
    trained = [
        Cell(part, one, sizes, seed, (policy,))
        for seed in range(SEEDS[mode] + extra_seeds)
        for part, one, policy in arms
    ]
    view = _together(PARTS["view"], VIEW_ARMS, "what each makes of the same batch, token by token", {"prompts": SHOWN})
    told = "gradients of the same batches at the first policy's weights"
    gradients = _together(PARTS["gradients"], GRADIENT_ARMS, told, {"batches": GRADIENT_BATCHES[mode]})
    return (gradients, view, *trained)


def _together(part: str, names: Sequence[str], meaning: str, task: Mapping[str, Any]) -> Cell:
    """A run that trains nothing and has several methods at the first policy's weights."""
    methods = {name: arm(name, 1).settings for name in names}
    return Cell(part, Arm("every method", {"methods": methods}, meaning), task, GRADIENT_SEED, (POLICIES[1],))
