"""The arms of the TIP study, each a recipe as a user writes it, and its runs.

Every arm draws 64 responses a step, one of each prompt, at temperature 1 and moves the student with AdamW at 1e-4. The
loss is the reverse KL from the task's own teacher, a mean over the tokens kept. The pilot's figures, one seed of
another student, were known when the sizes were chosen.
Leaves out: claims (`claims`), memory (`memory`), the student (`studies.planted_policy`).
"""

from typing import Any

from steersman.core.errors import UserError
from steersman.studies.planted_policy import SPARE
from steersman.studies.rl_runs import arm_of
from steersman.studies.tip.names import CURES, LIMIT_ARMS, MAIN_ARMS, PARTS, QUICK_ARMS, RATES, STUDENTS
from steersman.study.declare import Arm, Cell, ModeName
from steersman.task.planted import Planted

STEPS = {"quick": 60, "full": 120}
SEEDS = {"quick": 2, "full": 5}
LIMIT_SEEDS = 3
PROMPTS, HELD_OUT, JUDGED = 64, 500, 2000
EVERY = 20
TASKS = {"unsure": Planted(), "saturated": Planted(carried=0.0)}
VOCABULARIES = {"quick": [50_000], "full": [50_000, 100_000, 150_000]}
ROWS = {"quick": [256], "full": [256, 512]}

RULES: dict[str, dict[str, Any]] = {
    "entropy sampled": {"rule": "entropy", "mode": "sample"},
    "entropy top": {"rule": "entropy"},
    "soft-or": {"rule": "soft_or"},
    "q3": {"rule": "q3"},
    "divergence": {"rule": "divergence"},
    "random": {"rule": "random"},
    "bottom": {"rule": "soft_or", "mode": "bottom"},
}
MEANINGS = {
    "entropy sampled": "drawn in proportion to the entropy, as the paper's entropy columns",
    "entropy top": "the largest entropies",
    "soft-or": "the largest h + d - h d",
    "q3": "the largest KL(teacher || student) (1 - h)",
    "divergence": "the largest divergences",
    "random": "control: at random",
    "bottom": "control: the smallest h + d - h d",
}
ANCHOR = 0.05


def arm(name: str, student: str = "unsure", rate: str = "slow") -> Arm:
    """An arm by its name, such as "soft-or 20": a rule and the per cent of the tokens that it keeps."""
    world = TASKS[student]
    plain = name.removesuffix(" + anchor").removesuffix(", forward KL")
    rule, _, percent = plain.rpartition(" ")
    stages: list[dict[str, Any]] = []
    if name != "full":
        kept = {"kind": "select_tokens", **RULES[rule], "keep": int(percent) / 100}
        stages.append(kept | ({"anchor": ANCHOR} if name.endswith("anchor") else {}))
    stages.append({"kind": "steersman.studies.tip.stages:Watched", "base": world.base})
    values: dict[str, Any] = {
        "task": {**world.model_dump(), "evaluation": HELD_OUT},
        "rollout": {"samples": 1, "max_new_tokens": world.max_response + SPARE},
        "stages": stages,
        "loss": {
            "kind": "distill",
            "teacher": {"kind": "task"},
            "divergence": "forward_kl" if name.endswith("forward KL") else "reverse_kl",
        },
        "optim": {"lr": RATES[rate]},
        "budget": {"batch": PROMPTS},
    }
    return arm_of(labelled(name, student, rate), _meaning(name, rule), values)


def labelled(name: str, student: str, rate: str) -> str:
    """The name of an arm in a setting; that of the main part has no more than its own."""
    return name if (student, rate) == ("unsure", "slow") else f"{name}, {student}, {rate}"


def _meaning(name: str, rule: str) -> str:
    if name == "full":
        return "every token"
    told = MEANINGS[rule]
    if name.endswith("anchor"):
        told += f", and {ANCHOR:.0%} of the others at random"
    return told + (", with the forward KL as the loss" if name.endswith("forward KL") else "")


def cells(mode: ModeName, extra_seeds: int = 0) -> tuple[Cell, ...]:
    """The runs of a size: those that train nothing first, then seed by seed."""
    if mode == "gpu":
        raise UserError("has no gpu mode: its models are made for two cores", where="tip", allowed="quick, full")
    sizes = {"batches": STEPS[mode], "evaluate_every": EVERY, "held_out": HELD_OUT, "judged": JUDGED}
    names = QUICK_ARMS if mode == "quick" else MAIN_ARMS
    main = [arm(name) for name in names]
    found = [_first(names), _memory(mode)]
    for seed in range(SEEDS[mode] + extra_seeds):
        found += [Cell(PARTS["main"], one, sizes, seed, (STUDENTS["unsure"],)) for one in main]
        if mode == "full" and seed < LIMIT_SEEDS + extra_seeds:
            found += [Cell(PARTS["limits"], one, sizes, seed, (STUDENTS[s],)) for s, one in _limits()]
    return tuple(found)


def _limits() -> list[tuple[str, Arm]]:
    """The settings beside the main one, and the cures in the hardest."""
    settings = [(s, r) for s in STUDENTS for r in RATES if (s, r) != ("unsure", "slow")]
    found = [(s, arm(name, s, r)) for s, r in settings for name in LIMIT_ARMS]
    return found + [("saturated", arm(name, "saturated", "fast")) for name in CURES]


def _first(names: tuple[str, ...]) -> Cell:
    """What every arm keeps of one batch of the student's, with nothing trained."""
    methods = {name: arm(name).settings for name in names}
    told = Arm("every rule", {"methods": methods}, "what each keeps of the same batch")
    return Cell(PARTS["first"], told, {"prompts": 512}, 0, (STUDENTS["unsure"],))


def _memory(mode: ModeName) -> Cell:
    """Peak memory of the loss and its gradient."""
    told = Arm("every head", {}, "peak memory of the loss and its gradient, selected or not, whole or in chunks")
    task = {"vocabularies": VOCABULARIES[mode], "rows": ROWS[mode], "keeps": [1.0, 0.5, 0.2, 0.1]}
    return Cell(PARTS["memory"], told, task, 0, ())
