"""Evidence of CEPO and RLSD at the first policy's weights, on the same responses, beside what is true.

By prompt: the mean size of delta on running sums, copies and fillers, over responses with an advantage; and how well
|delta| tells the first wrong running sum of a wrong response from its others (area under the curve). Beside it the same
area of exact evidence, by Bayes' rule from the demonstrator. Token by token: whether CEPO and RLSD differ in the
direction that the theorem says. Leaves out: training (`studies.rl_runs`), what is concluded (`claims`).
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from steersman.core.component import Moment
from steersman.core.types import Rollouts
from steersman.language.load import load_model
from steersman.objective.components_credit import OTHER, RIGHT, rejected
from steersman.objective.credit.cepo import evidence
from steersman.recipes.rl import RLRecipe
from steersman.recipes.rl_parts import stages_of
from steersman.store.run import RunDir
from steersman.studies.chain_sum_policy import count_right, count_right_told, model_folder
from steersman.studies.rl_stages import exact_evidence
from steersman.studies.rl_view import recipe_of_arm
from steersman.study.declare import Cell
from steersman.study.progress import Progress
from steersman.task.chain_sum import EOS, ChainSum
from steersman.task.chain_sum_truth import Reading, Role, read
from steersman.task.worlds import ChainSumWorld
from steersman.train.engine.local import LocalEngine
from steersman.train.engine.work import Drawing
from steersman.train.optimise import AdamW, Optimiser
from steersman.train.show import compare_stages, graded_rollouts

METHODS = ("cepo", "rlsd")
ROLES = {"decisive": Role.DECISIVE, "copied": Role.COPIED, "filler": Role.FILLER}
PLACES = ("first error", "later steps of wrong responses", "steps of right responses")
OPEN = {"lam": 1.0, "eps_w": 1e6}
"""Settings under which nothing is clipped."""


def run(cell: Cell, run_dir: RunDir, policy: Path, task: ChainSum) -> dict[str, Any]:
    """Evidence of `cell.task["batches"]` batches.

    Returns:
        ``prompts``: method -> role -> mean |delta| a prompt; ``auc``: method, and "exact ..." -> a value a prompt with
        a wrong response; ``signed``: method -> place -> mean delta; ``steps``: method -> mean delta of each running sum
        of right responses; ``sharpness``: violations and tokens; ``bayes``:
        method -> correlation of delta with exact evidence on running sums; ``right``: right answers without a hint,
        with one, and prompts.
    """
    recipes = {n: recipe_of_arm(cell.arm.settings["methods"][n]) for n in METHODS}
    model, world = load_model(model_folder(policy)), ChainSumWorld(task)
    engine = LocalEngine(model, Optimiser(model.named_parameters(), AdamW(), 1))
    n, room = int(cell.task["batches"]), recipes["cepo"].rollout.max_new_tokens
    progress = Progress(run_dir.path, n, "batches")
    seen = _Seen()
    for b in range(n):
        seen.add(*_batch(engine, world, recipes, Moment(cell.seed, b, n)), task)
        progress.advance(1)
    judged = int(cell.task["judged"])
    right = [count(model, task, judged, room) for count in (count_right, count_right_told)]
    return {**seen.told(), "right": [*right, judged]}


def _batch(
    engine: LocalEngine, world: ChainSumWorld, recipes: Mapping[str, RLRecipe], at: Moment
) -> tuple[Rollouts, dict[str, dict[str, Tensor]], list[str | None]]:
    """Graded responses, each method's log-probs, and the wrong answers that CEPO told."""
    one = recipes["cepo"]
    drawing = Drawing(one.rollout.samples, one.rollout.max_new_tokens, (EOS,))
    rollouts, rows = graded_rollouts(engine, world, drawing, one.budget.batch, at)
    made = compare_stages(engine, world, rollouts, {n: stages_of(r) for n, r in recipes.items()}, rows, at=at)
    logp = {n: {k: made[n].streams[k].double() for k in (RIGHT, OTHER)} for n in recipes}
    return rollouts, logp, rejected(rollouts, "lowest", at, [str(r["answer"]) for r in rows])


class _Seen:
    """Lists that grow by batch."""

    def __init__(self) -> None:
        self.prompts: dict[str, dict[str, list[float]]] = {m: {r: [] for r in ROLES} for m in METHODS}
        self.auc: dict[str, list[float]] = {f"{e}{m}": [] for e in ("", "exact ") for m in METHODS}
        self.places: dict[str, dict[str, list[float]]] = {m: {p: [] for p in PLACES} for m in METHODS}
        self.pairs: dict[str, list[tuple[float, float]]] = {m: [] for m in METHODS}
        self.steps: dict[str, dict[int, list[float]]] = {k: {} for k in (*METHODS, "exact rlsd")}
        self.violations, self.tokens = 0, 0

    def add(
        self, rollouts: Rollouts, logp: Mapping[str, Mapping[str, Tensor]], wrong: list[str | None], task: ChainSum
    ) -> None:
        assert rollouts.correct is not None
        found = read(task, rollouts)
        delta = {m: x[RIGHT] - x[OTHER] for m, x in logp.items()}
        there = rollouts.action & ~torch.isnan(delta["cepo"])
        exact = exact_evidence(task, rollouts, wrong)
        self._sharpness(logp, there, rollouts.correct)
        failed = there.any(1) & ~rollouts.correct & (found.first_error >= 0)
        for m in METHODS:
            for name, role in ROLES.items():
                size = _by_group(delta[m].abs(), there & (found.role == role), rollouts.group)
                self.prompts[m][name] += size
            self.auc[m] += _areas(delta[m].abs(), found, failed, rollouts.group)
            self.auc[f"exact {m}"] += _areas(exact[m].abs(), found, failed, rollouts.group)
            steps = there & (found.role == Role.DECISIVE)
            at_error = steps & (found.step == found.first_error[:, None]) & failed[:, None]
            masks = at_error, steps & failed[:, None] & ~at_error, steps & rollouts.correct[:, None]
            for place, mask in zip(PLACES, masks, strict=True):
                self.places[m][place] += delta[m][mask].tolist()
            self._by_step(m, delta[m], masks[2], found)
            known = steps & torch.isfinite(exact[m])
            self.pairs[m] += list(zip(delta[m][known].tolist(), exact[m][known].tolist(), strict=True))

        self._by_step("exact rlsd", exact["rlsd"], masks[2], found)

    def _by_step(self, name: str, x: Tensor, mask: Tensor, found: Reading) -> None:
        for step in found.step[mask].unique().tolist():
            self.steps[name].setdefault(step, []).extend(x[mask & (found.step == step)].tolist())

    def _sharpness(self, logp: Mapping[str, Mapping[str, Tensor]], there: Tensor, correct: Tensor) -> None:
        a = torch.where(correct, 1.0, -1.0).double()
        right, own, told = logp["cepo"][RIGHT], logp["rlsd"][OTHER], logp["cepo"][OTHER]
        cepo, rlsd = (evidence(a, right, x, there, **OPEN).abs() for x in (told, own))
        wanted = torch.where(correct[:, None], told < own, told > own)
        self.violations += int(((cepo > rlsd) != wanted)[there].sum())
        self.tokens += int(there.sum())

    def told(self) -> dict[str, Any]:
        """All of it as JSON values."""
        return {
            "prompts": self.prompts,
            "auc": self.auc,
            "signed": {m: {p: _mean(x) for p, x in at.items()} for m, at in self.places.items()},
            "steps": {m: [_mean(at[k]) for k in sorted(at)] for m, at in self.steps.items()},
            "sharpness": [self.violations, self.tokens],
            "bayes": {m: _correlation(x) for m, x in self.pairs.items()},
        }


def _mean(x: list[float]) -> float | None:
    return float(np.mean(x)) if x else None


def _correlation(pairs: list[tuple[float, float]]) -> float | None:
    """Pearson's; None where one side does not vary."""
    x = np.array(pairs)
    return float(np.corrcoef(x.T)[0, 1]) if len(x) > 2 and (x.std(0) > 0).all() else None


def _by_group(x: Tensor, mask: Tensor, group: Tensor) -> list[float]:
    """Mean of `x` over the mask of each group that has some of it; the groups with an advantage are those."""
    ids = group[mask.any(1)].unique().tolist()
    return [float(x[mask & (group == g)[:, None]].mean()) for g in ids]


def _areas(size: Tensor, found: Reading, failed: Tensor, group: Tensor) -> list[float]:
    """P(size at the first wrong step > size at another one) of each failed row, averaged by prompt."""
    by_prompt: dict[int, list[float]] = {}
    for i in failed.nonzero()[:, 0].tolist():
        steps = found.role[i] == Role.DECISIVE
        first = size[i][steps & (found.step[i] == found.first_error[i])]
        others = size[i][steps & (found.step[i] != found.first_error[i])]
        if len(first) == 1 and len(others) and not torch.isnan(first).any() and not torch.isnan(others).any():
            above = (first > others).double() + 0.5 * (first == others).double()
            by_prompt.setdefault(int(group[i]), []).append(float(above.mean()))
    return [sum(x) / len(x) for x in by_prompt.values()]
