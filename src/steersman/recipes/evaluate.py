"""Measure a policy on a task: accuracy, pass@k, win rate against another policy, best of N, KL to a reference.

What can be refused is refused before anything is sampled; one model is in memory at a time. Leaves out: reading the
task (`evaluate_task`), sampling (`evaluate_sample`), judges (`evaluate_judges`), the figures (`evaluate_measures`),
printing (`cli`).
"""

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from steersman.core.errors import UserError
from steersman.core.types import Scores
from steersman.language.load import check_folder, check_same_vocabulary, load_model, load_tokenizer, torch_dtype
from steersman.recipes import evaluate_measures as measures
from steersman.recipes.evaluate_judges import Judged, by_function, by_scores, check_judge, is_function, score_texts
from steersman.recipes.evaluate_sample import (
    PLAIN,
    Drawn,
    Said,
    Watch,
    ask,
    device_of,
    grade,
    prepare,
    room,
    rows_of,
    smallest_context,
    token_logp,
)
from steersman.recipes.evaluate_task import Asked
from steersman.reward.verifiable import Grader, RewardFunction
from steersman.task.chain_sum import ChainSum

TASK = "task"
"""The judge that compares what the task's own grader says of both sides."""
Save = Callable[[list[dict[str, Any]]], None]
JUDGES = "a reward model's folder, or package.module:function"


@dataclass(frozen=True, slots=True)
class Further:
    """What is measured beyond the task itself.

    Args:
        against: folder of another policy.
        judge: `TASK`, a reward model's folder, or ``package.module:function``.
        best_of: largest N of the best-of-N curve.
        rank: what ranks its samples: a reward model's folder, or ``package.module:function``.
        reference: folder of the policy that the KL is to.
        time_limit: seconds that one call of a function may take.
    """

    against: Path | None = None
    judge: str = TASK
    best_of: int | None = None
    rank: str | None = None
    reference: Path | None = None
    time_limit: float = 10.0


@dataclass(frozen=True, slots=True)
class Evaluation:
    """The figures as JSON values, and one row for each response."""

    summary: dict[str, Any]
    rows: list[dict[str, Any]] = field(default_factory=list)


def unsaved(rows: list[dict[str, Any]]) -> None:
    """Keeps nothing."""


def unwatched(what: str, done: int, total: int) -> None:
    """Tells nobody."""


def evaluate(
    model: Path,
    asked: Asked,
    drawn: Drawn = Drawn(),
    further: Further = Further(),
    watch: Watch = unwatched,
    save: Save = unsaved,
) -> Evaluation:
    """Sample responses to a task's prompts and measure them.

    Args:
        model: folder of the policy.
        asked: the task.
        drawn: how responses are drawn.
        further: what else is measured.
        watch: told of progress.
        save: given the rows once before they are graded, so that a grader which fails loses no samples.

    Returns:
        The figures and the rows.

    Raises:
        UserError: what cannot be measured is refused before anything is sampled; options have their names on the
            command line.
        RunStopped: a model's logits are broken, or a grader or judge failed too often.
    """
    check(model, asked, drawn, further)
    folders = [f for f in (model, further.against, further.reference) if f is not None]
    context = smallest_context(folders)
    with ExitStack() as open_worlds:
        sides = [prepare(f, asked, drawn, context) for f in (model, further.against) if f is not None]
        for side in sides:
            open_worlds.callback(side.world.close)
        most, wanted = room(sides, asked, drawn, context), further.reference is not None
        said = [ask(x, asked, drawn, most, watch, i, wanted and i == 0) for i, x in enumerate(sides)]
        save(_sides([rows_of(x, drawn) for x in said]))
        if asked.graded:
            said = [grade(side, x, watch) for side, x in zip(sides, said, strict=True)]
        summary: dict[str, Any] = {"model": str(model), "task": asked.name, "rule": asked.rule, "prompts": asked.size}
        summary |= {"samples": drawn.samples, "seed": drawn.seed, "max_new_tokens": most}
        return _measure(summary, said, asked, drawn, further, watch)


def _measure(
    summary: dict[str, Any], sides: list[Said], asked: Asked, drawn: Drawn, further: Further, watch: Watch
) -> Evaluation:
    said, rows = sides[0], [rows_of(x, drawn) for x in sides]
    summary["length"] = measures.lengths(said.rollouts)
    if said.graded is not None:
        summary |= measures.graded(said.graded, asked.size)
    if further.best_of is not None:
        summary["best_of"] = _best_of(asked, said, drawn, further, rows[0], watch)
    if further.reference is not None:
        summary["kl"] = _kl(asked, said, drawn, further.reference, rows[0], watch)
    if further.against is not None:
        judged = _judge(asked, said, sides[1], drawn, further, watch)
        summary["against"] = {"model": str(further.against), "judge": further.judge}
        summary["against"] |= _compared(asked, said, sides[1], judged)
        _add_verdicts(rows, judged)
    return Evaluation(summary, _sides(rows))


def check(model: Path, asked: Asked, drawn: Drawn, further: Further) -> None:
    """Refuse what cannot be measured, without loading weights or sampling."""
    for folder in (model, further.against, further.reference):
        if folder is not None:
            check_folder(folder)
    device_of(drawn.device)
    torch_dtype(drawn.dtype)
    if drawn.sampling.temperature == 0 and drawn.samples > 1:
        what = f"is {drawn.samples}, but the likeliest tokens are the same each time"
        raise UserError(what, where="--samples", allowed="1 with --temperature 0")
    if drawn.stop and isinstance(asked.task, ChainSum):
        raise UserError("does not apply: chain_sum has no text", where="--stop")
    _check_best_of(asked, drawn, further)
    _check_against(asked, further)
    if further.reference is not None:
        if drawn.sampling != PLAIN:
            what = "is measured on samples of the model itself, not of a changed one"
            raise UserError(what, where="--reference", allowed="--temperature 1 and no filter")
        check_same_vocabulary(load_tokenizer(model), load_tokenizer(further.reference), where="--reference")
    if not asked.graded and further.against is None and further.reference is None:
        cure = "Give prompts with answers, --reward, --against with --judge, or --reference."
        raise UserError("no prompt has an answer: nothing can be measured", where=f"--task {asked.name}", cure=cure)


def _check_best_of(asked: Asked, drawn: Drawn, further: Further) -> None:
    if (further.best_of is None) != (further.rank is None):
        missing, given = ("--rank", "--best-of") if further.rank is None else ("--best-of", "--rank")
        raise UserError(
            f"is missing beside {given}", where=missing, allowed=JUDGES if further.rank is None else "1 or more"
        )
    if further.best_of is None or further.rank is None:
        return
    if not asked.graded:
        raise UserError("needs prompts with answers, or --reward", where="--best-of")
    if not 1 <= further.best_of <= drawn.samples:
        allowed = f"1 to {drawn.samples}, the number of --samples"
        raise UserError(f"is {further.best_of}", where="--best-of", allowed=allowed)
    _check_judge(asked, further.rank, "--rank")


def _check_against(asked: Asked, further: Further) -> None:
    if further.against is None:
        if further.judge != TASK:
            raise UserError("needs two policies to compare", where="--judge", cure="Add --against FOLDER.")
    elif further.judge != TASK:
        _check_judge(asked, further.judge, "--judge")
    elif not asked.graded:
        what = "nothing says which response is better: no prompt has an answer"
        raise UserError(what, where="--against", cure="Give --judge, --reward, or prompts with answers.")


def _check_judge(asked: Asked, name: str, where: str) -> None:
    if asked.questions is None and not is_function(name):
        raise UserError(f"{name!r} reads text; chain_sum has none", where=where, allowed="package.module:function")
    check_judge(name, where, asked.allow_import, asked.turns)


def _best_of(
    asked: Asked, said: Said, drawn: Drawn, further: Further, rows: list[dict[str, Any]], watch: Watch
) -> dict[str, Any]:
    assert said.graded is not None
    assert further.rank is not None
    assert further.best_of is not None
    watch("ranking", 0, 0)
    ranking = measures.numbers(_scores(further.rank, asked, said, drawn, further.time_limit))
    for row, value in zip(rows, ranking.tolist(), strict=True):
        row["rank_score"] = None if np.isnan(value) else value
    curve = measures.best_of(ranking, measures.correct_or_score(said.graded), asked.size, further.best_of)
    gold = "accuracy" if "correct" in said.graded.scores.parts else "score"
    return {"rank": further.rank, "gold": gold, "invalid": int(np.isnan(ranking).sum()), "curve": curve}


def _scores(name: str, asked: Asked, said: Said, drawn: Drawn, time_limit: float) -> Scores:
    """Scores of responses by a reward model, or by a function (prompt, completion, row) of the user's."""
    if is_function(name):
        with Grader(RewardFunction(function=name, time_limit=time_limit), asked.allow_import) as grader:
            return grader(said.decoded, said.texts, said.rows, said.rollouts.valid.tolist()).scores
    return score_texts(Path(name), said.prompts, said.rollouts, said.texts, asked.chat, device_of(drawn.device))


def _kl(
    asked: Asked, said: Said, drawn: Drawn, reference: Path, rows: list[dict[str, Any]], watch: Watch
) -> dict[str, Any]:
    assert said.logp is not None
    model = load_model(reference, dtype=drawn.dtype, device=device_of(drawn.device))
    logp_ref = token_logp(model, said.rollouts, "scoring by the reference", watch)
    ratio = torch.where(said.rollouts.action, said.logp - logp_ref, 0.0).sum(1).tolist()
    for row, value in zip(rows, ratio, strict=True):
        row["log_ratio"] = round(value, 6)
    return {"reference": str(reference), **measures.kl(said.logp, logp_ref, said.rollouts, asked.size)}


def _judge(asked: Asked, said: Said, other: Said, drawn: Drawn, further: Further, watch: Watch) -> Judged:
    if further.judge == TASK:
        assert said.graded is not None
        assert other.graded is not None
        return by_scores(said.graded.scores, other.graded.scores)
    n = len(said.texts) if is_function(further.judge) else 0

    def tick(done: int) -> None:
        watch("judging", done, n)

    tick(0)
    if is_function(further.judge):
        return by_function(further.judge, further.time_limit, said.prompts, said.texts, other.texts, tick)
    first, second = (_scores(further.judge, asked, x, drawn, further.time_limit) for x in (said, other))
    return by_scores(first, second)


def _compared(asked: Asked, said: Said, other: Said, judged: Judged) -> dict[str, Any]:
    length, other_length = measures.characters(said.texts), measures.characters(other.texts)
    found = measures.win_rate(judged, asked.size, length, other_length)
    found["length"] = measures.lengths(other.rollouts)
    found["characters"] = [float(length.mean()), float(other_length.mean())]
    if other.graded is not None:
        found["graded"] = measures.graded(other.graded, asked.size)
    return found


def _add_verdicts(rows: list[list[dict[str, Any]]], judged: Judged) -> None:
    """Write each pair's verdict into the rows of both sides, as told from the side of the row."""
    words = {1.0: ("win", "loss"), 0.5: ("tie", "tie"), 0.0: ("loss", "win")}
    for number, many in enumerate(rows):
        for i, row in enumerate(many):
            verdict = words.get(float(judged.outcome[i]))
            row["outcome"] = None if verdict is None else verdict[number]
            if judged.flipped is not None and verdict is not None:
                row["flipped"] = bool(judged.flipped[i])
            if i in judged.errors:
                row["judge_error"] = judged.errors[i]


def _sides(rows: list[list[dict[str, Any]]]) -> list[dict[str, Any]]:
    """The rows of all sides in one list; with two sides, each row says whose it is."""
    if len(rows) == 1:
        return rows[0]
    return [{"side": name, **row} for name, many in zip(("model", "against"), rows, strict=True) for row in many]
