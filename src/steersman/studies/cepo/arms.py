"""The arms of the CEPO study, each a recipe of `steersman train rl`, and its runs.

Every arm draws 32 prompts with 8 responses a batch at temperature 1 and moves the policy with AdamW at 5e-5 (one at
five times that), one update of a batch, means over tokens, clip .2/.28. A step of the demonstrator errs with
probability 0.12, and half of its examples show the final answer, so the policy knows what a told answer means.
Credit is governed by evidence for the first half of the run, as in the paper; with eight fillers a step all the time,
and almost wholly, since there credit is noisiest.
Leaves out: claims (`claims`), evidence at fixed weights (`evidence`), the exact world (`coin`).
"""

from typing import Any

from steersman.core.errors import UserError
from steersman.studies.cepo.names import FAST, MAIN_ARMS, NOISE_ARMS, PARTS, POLICIES, QUICK_ARMS, VIEW_ARMS
from steersman.studies.chain_sum_policy import SETTINGS
from steersman.studies.rl_runs import arm_of
from steersman.study.declare import Arm, Cell, ModeName
from steersman.task.chain_sum import ChainSum

BATCHES = 40
SEEDS = {"quick": 3, "full": 10}
NOISE_SEEDS = 7
EVIDENCE_BATCHES = {"quick": 4, "full": 24}
EVIDENCE_SEED = 0
SHOWN = 2
"""Prompts in the token view."""
PROMPTS, SAMPLES, LR, TIMES = 32, 8, 5e-5, 5
EVERY, HELD_OUT, JUDGED = 10, 1000, 4000
SUPERVISED: dict[int, dict[str, Any]] = {1: {}, 8: {"model": {"context": 80}}}
"""How the policies are taught, by fillers of a step."""
CREDIT: dict[int, dict[str, Any]] = {
    1: {"lam": 0.5, "decay": BATCHES // 2, "eps_w": 0.5},
    8: {"lam": 1.0, "decay": 0, "eps_w": 0.9},
}
"""Settings of the credit, by fillers of a step."""
OWN = {"kind": "contrastive_credit"}
ORACLE, BAYES = (f"steersman.studies.rl_stages:{n}" for n in ("OracleCredit", "ExactCredit"))
BEHIND: dict[str, dict[str, Any]] = {
    "grpo": {"kind": "uniform"},
    FAST: {"kind": "uniform"},
    "rlsd": {**OWN, "negative": "none"},
    "cepo": OWN,
    "cepo own": {**OWN, "negative": "own"},
    "cepo modal": {**OWN, "negative": "modal"},
    "cepo shuffled": {**OWN, "shuffle": True},
    "cepo exact": {"kind": BAYES},
    "oracle": {"kind": ORACLE},
}
"""The stage behind GRPO's advantage."""
SELF: dict[str, dict[str, Any]] = {
    "opsd": {"teacher": {"kind": "self", "version": "start", "tell": "answer"}},
    "sdpo": {"teacher": {"kind": "self", "version": "average", "tell": "sibling_answer"}, "ratio_cap": 2.0},
    "tip": {"teacher": {"kind": "self", "version": "start", "tell": "answer"}, "divergence": "reverse_kl"},
}
"""Losses of the arms that learn from themselves."""
MEANINGS = {
    "grpo": "every token gets its response's advantage",
    FAST: "control: the same at five times the learning rate",
    "rlsd": "evidence: told the right answer against told nothing",
    "cepo": "evidence: told the right answer against told the worst response's",
    "cepo own": "the wrong answer is the response's own, where it is wrong",
    "cepo modal": "the wrong answer is the most frequent one of the group",
    "cepo shuffled": "control: the same evidence at random tokens of the response",
    "cepo exact": "control: cepo with exact evidence, as if the policy understood a told answer exactly",
    "oracle": "control: the true decisive tokens in the place of evidence, what no method can know",
    "opsd": "no reward: Jensen-Shannon to the first policy, told the right answer",
    "sdpo": "no reward: Jensen-Shannon to a moving average, told the answer of a response that was right",
    "d3s": "rows by the variance of advantages, tokens by |A| H",
    "tip": "no reward: the half of the tokens by entropy and divergence from the first policy, told the right answer",
}


def task(fillers: int) -> ChainSum:
    """Five digits, errors at 12 % of the steps, half of the examples hinted.

    With eight fillers one to five digits: of five alone the policy did not learn the sums, in 1,200 steps at 4e-3.
    """
    return ChainSum(k=5 if fillers == 1 else (1, 5), error=0.12, fillers=fillers, hint=0.5)


def arm(name: str, fillers: int = 1, **credit: Any) -> Arm:
    """An arm by its name, on the task with so many fillers a step; `credit` changes settings of the credit."""
    world = task(fillers)
    values: dict[str, Any] = {
        "task": {**world.model_dump(exclude_none=True), "evaluation": HELD_OUT},
        "rollout": {"samples": SAMPLES, "max_new_tokens": world.max_response + SETTINGS["spare"]},
        "stages": [*_stages(name, {**CREDIT[fillers], **credit}, fillers), _watched(fillers)],
        "optim": {"lr": LR * TIMES if name == FAST else LR},
        "budget": {"batch": PROMPTS},
    }
    if name in SELF:
        values["loss"] = {"kind": "distill", "divergence": "jsd", **SELF[name]}
    return arm_of(name, MEANINGS[name], values)


def _stages(name: str, credit: dict[str, Any], fillers: int) -> list[Any]:
    if name == "d3s":
        return ["grpo", "uniform", "d3s_rows", "d3s_tokens"]
    if name == "tip":
        return ["select_tokens"]
    if name in SELF:
        return []
    own = BEHIND[name]
    known = {} if own["kind"] == "uniform" else credit
    return ["grpo", {**own, **known, **({"fillers": fillers} if own["kind"] in (ORACLE, BAYES) else {})}]


def _watched(fillers: int) -> dict[str, Any]:
    return {"kind": "steersman.studies.rl_stages:Kept", "fillers": fillers}


def cells(mode: ModeName, extra_seeds: int = 0) -> tuple[Cell, ...]:
    """The runs of a size: those that train nothing first, then seed by seed."""
    if mode == "gpu":
        raise UserError("has no gpu mode: its models are made for two cores", where="cepo", allowed="quick, full")
    sizes = {"batches": BATCHES, "evaluate_every": EVERY, "held_out": HELD_OUT, "judged": JUDGED}
    seeds = SEEDS[mode] + extra_seeds
    groups: list[tuple[str, tuple[str, ...], int, int]] = []
    groups.append((PARTS["main"], QUICK_ARMS if mode == "quick" else MAIN_ARMS, 1, seeds))
    if mode == "full":
        groups.append((PARTS["noise"], NOISE_ARMS, 8, NOISE_SEEDS + extra_seeds))
    trained = [
        Cell(part, arm(name, fillers), sizes, seed, (POLICIES[fillers],))
        for seed in range(seeds)
        for part, names, fillers, most in groups
        for name in names
        if seed < most
    ]
    return (*_fixed(mode), *trained)


def _fixed(mode: ModeName) -> tuple[Cell, ...]:
    """Runs that train nothing on rollouts."""
    methods = {n: arm(n, decay=0).settings for n in ("cepo", "rlsd")}
    told = "evidence of cepo and rlsd on the same responses"
    measured = Arm("every method", {"methods": methods}, told)
    exact = Arm("every method", {"methods": ["opsd", "rlsd", "cepo"]}, "expected updates of a policy of two logits")
    views = {n: arm(n, decay=0).settings for n in VIEW_ARMS}
    shown = Arm("every method", {"methods": views}, "what each makes of the same batch, token by token")
    batches, policy = {"batches": EVIDENCE_BATCHES[mode], "judged": JUDGED}, (POLICIES[1],)
    return (
        Cell(PARTS["evidence"], measured, batches, EVIDENCE_SEED, policy),
        Cell(PARTS["coin"], exact, {}, EVIDENCE_SEED),
        Cell(PARTS["view"], shown, {"prompts": SHOWN}, EVIDENCE_SEED, policy),
    )
