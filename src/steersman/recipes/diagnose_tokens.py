"""Draw a policy's responses, score them by a teacher, and say where their tokens lie: `steersman diagnose tokens`.

Nothing is trained. What can be refused is refused before anything is sampled. Leaves out: the figures
(`assure.diagnose.tokens`), the command line (`cli.diagnose`).
"""

from dataclasses import dataclass
from typing import Any

from steersman.assure.diagnose.tokens import TokenDiagnosis, diagnose_tokens, rules
from steersman.assure.diagnose.tokens_page import page, samples_of
from steersman.core.component import Form, Moment
from steersman.core.errors import UserError
from steersman.core.types import Rollouts
from steersman.language.load import load_model, load_tokenizer
from steersman.page.html import Html
from steersman.recipes.diagnose_policy import PolicyQuestion, Say, check_policy, drawing_of, engine_of
from steersman.recipes.evaluate_sample import MOST_NEW, device_of, smallest_context
from steersman.recipes.evaluate_task import Asked, make_world, read_task
from steersman.recipes.teachers import ModelTeacher
from steersman.recipes.teachers_load import TeacherReady, load_found, prepare_model, smallest
from steersman.task import planted
from steersman.task.planted import Planted, PlantedTeacher
from steersman.task.planted_world import PlantedWorld
from steersman.task.world import Prompts, World
from steersman.train.engine.local import LocalEngine

PLANTED = "planted"
"""The task, and its teacher, that are known in closed form."""
SHOWN = 12
"""Responses on the page."""
FORMS = {"divergence": Form("reverse_kl"), "divergence_forward": Form("forward_kl")}


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenQuestion(PolicyQuestion):
    """What is looked at; the task may be "planted", too, and the temperature divides the teacher's logits as well.

    Args:
        teacher: folder of a model with its vocabulary, of a finished run, or of a checkpoint; "planted" = the task's
            own teacher.
        keep: share of the tokens that each rule keeps, in (0, 1].
        entropy_threshold, divergence_threshold: nats; None = the medians.
    """

    teacher: str
    keep: float = 0.2
    entropy_threshold: float | None = None
    divergence_threshold: float | None = None


@dataclass(frozen=True, slots=True)
class TokenAnswer:
    """The figures as JSON values, the page, and the diagnosis itself."""

    summary: dict[str, Any]
    page: Html
    found: TokenDiagnosis


def diagnose(asked: TokenQuestion, say: Say = lambda line: None) -> TokenAnswer:
    """Draw, score, sort.

    Args:
        asked: what is looked at.
        say: told what is being done, a line each.

    Raises:
        UserError: a folder, a task or a number that cannot be used, before anything is sampled; logits that are no
            numbers, or a token that the teacher excludes and the policy does not.
    """
    compared, device = rules(asked.keep), device_of(asked.device)
    _check(asked)
    tokenizer = load_tokenizer(asked.model)
    ready = _teacher(asked, tokenizer)
    context = smallest(smallest_context([asked.model]), ready.context)
    world, size, most = _world(asked, tokenizer, context)
    try:
        prompts = world.held_out(size)
        assert prompts is not None
        most = _room(asked, prompts, most, context)
        say(f"loading {asked.model} and {asked.teacher}")
        policy = load_model(asked.model, dtype=asked.dtype, device=device)
        teacher = ready.known if ready.found is None else load_found(ready.found, device, asked.dtype)
        engine = engine_of(asked, policy, teacher=teacher, shared_vocabulary=ready.shared)
        say(f"drawing {len(prompts) * asked.samples:,} responses of at most {most:,} tokens")
        drawing = drawing_of(asked, most, policy, tokenizer)
        drawn = engine.sample(prompts, drawing, Moment(seed=asked.seed), asked.seed)
        say(f"scoring {int(drawn.action.sum()):,} tokens")
        scored = score(engine, drawn, asked.temperature)
        thresholds = asked.entropy_threshold, asked.divergence_threshold
        found = diagnose_tokens(scored, compared, Moment(seed=asked.seed), *thresholds)
        vocabulary = int(policy.config.get_text_config().vocab_size)
        summary = _summary(asked, found, len(prompts), vocabulary)
        notes = {i: [("prompt", str(scored.group[i].item() + 1))] for i in range(len(scored))}
        samples = samples_of(found, world.pieces(scored), _spread(scored), notes)
        return TokenAnswer(summary, page(found, _facts(summary), samples, vocabulary), found)
    finally:
        world.close()


def score(engine: LocalEngine, drawn: Rollouts, temperature: float = 1.0) -> Rollouts:
    """The rollouts with entropies and both divergences from the teacher, in one pass of each model."""
    told = engine.compare(drawn, drawn, "teacher", ["entropy", *FORMS.values()], temperature)
    return drawn.with_streams(entropy=told["entropy"], **{name: told[form] for name, form in FORMS.items()})


def _check(asked: TokenQuestion) -> None:
    check_policy(asked)
    if asked.teacher == PLANTED != asked.task:
        raise UserError("teaches the task planted only", where="--teacher planted", cure="Give a model's folder.")


def _teacher(asked: TokenQuestion, tokenizer: Any) -> TeacherReady:
    """The teacher, of which only weights are still to be read."""
    from transformers import AutoConfig

    if asked.teacher == PLANTED:
        return TeacherReady(known=PlantedTeacher(Planted()))
    rows = AutoConfig.from_pretrained(asked.model, local_files_only=True).get_text_config().vocab_size
    return prepare_model(ModelTeacher(path=asked.teacher), tokenizer, rows, "--teacher")


def _world(asked: TokenQuestion, tokenizer: Any, context: int | None) -> tuple[World, int, int | None]:
    """Prompts of the task, their number, and the tokens of its longest response where that is known."""
    if asked.task != PLANTED:
        given: Asked = read_task(asked.task, limit=asked.limit, chat=asked.chat)
        longest = getattr(given.task, "max_response", None)
        return make_world(given, tokenizer, context, asked.max_new_tokens), given.size, longest
    if tuple(tokenizer.convert_ids_to_tokens(list(range(planted.VOCABULARY)))) != planted.TOKENS:
        cure = "Give a model that was trained on planted."
        raise UserError("the model's tokens are not those of planted", where="--task planted", cure=cure)
    size = asked.limit or 200
    return PlantedWorld(Planted(), size), size, planted.RESPONSE


def _room(asked: TokenQuestion, prompts: Prompts, longest: int | None, context: int | None) -> int:
    """Most tokens of a response."""
    most, prompt = asked.max_new_tokens or longest or MOST_NEW, max(map(len, prompts.ids))
    if context is None or prompt + most <= context:
        return most
    if asked.max_new_tokens is None and prompt < context:
        return context - prompt
    what = f"prompts of up to {prompt:,} tokens and {most:,} new ones exceed the smaller context of {context:,}"
    raise UserError(what, where="--max-new-tokens", cure="Lower it, or shorten the prompts.")


def _summary(asked: TokenQuestion, found: TokenDiagnosis, prompts: int, vocabulary: int) -> dict[str, Any]:
    tokens, quadrants = int(found.mask.sum()), found.quadrants
    kept = next(iter(found.kept.values()))
    return {
        "model": str(asked.model),
        "teacher": asked.teacher,
        "task": asked.task,
        "prompts": prompts,
        "responses": len(found.rollouts),
        "tokens": tokens,
        "vocabulary": vocabulary,
        "temperature": asked.temperature,
        "seed": asked.seed,
        "keep": asked.keep,
        "entropy_threshold": quadrants.entropy_threshold,
        "divergence_threshold": quadrants.divergence_threshold,
        "divergence": float(found.of("divergence").double().mean()),
        "quadrants": found.by_quadrant(),
        "rules": found.by_rule(),
        "overlap": found.overlap(),
        "logits_bytes": {"all": 4 * tokens * vocabulary, "kept": 4 * int(kept.sum()) * vocabulary},
    }


def _facts(summary: dict[str, Any]) -> dict[str, str]:
    size = {k: f"{v / 2**20:,.1f} MiB" for k, v in summary["logits_bytes"].items()}
    return {
        "policy": summary["model"],
        "teacher": summary["teacher"],
        "prompts": f"{summary['prompts']:,} of {summary['task']}, {summary['responses']:,} responses",
        "each rule keeps": f"{summary['keep']:.0%} of the tokens",
        "mean divergence": f"{summary['divergence']:.3g} nats a token",
        "float32 logits": f"{size['all']} of all tokens, {size['kept']} of those kept, each time they are held whole",
    }


def _spread(rollouts: Rollouts) -> list[int]:
    """Rows to show: of different prompts as far as there are, then further ones."""
    first: dict[int, int] = {}
    for row, group in enumerate(rollouts.group.tolist()):
        first.setdefault(group, row)
    chosen = list(first.values())[:SHOWN]
    rest = [row for row in range(len(rollouts)) if row not in set(chosen)]
    return sorted(chosen + rest[: SHOWN - len(chosen)])
