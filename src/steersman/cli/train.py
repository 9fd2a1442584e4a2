"""`steersman train sft|reward|preference|rl|distill`: train a model folder on a JSONL file, by options or a recipe.

Leaves out: `train inventory` (`train_inventory`).
"""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from steersman.cli.train_inventory import inventory

app = typer.Typer(no_args_is_help=True, help="Train a policy or a reward model on your own data.")

Model = Annotated[Path | None, typer.Option("--model", help="Folder of a Hugging Face causal language model.")]
DataFile = Annotated[Path | None, typer.Option("--data", help="Training rows, JSON Lines.")]
Eval = Annotated[Path | None, typer.Option("--eval", help="Held-out rows, JSON Lines.")]
Config = Annotated[Path | None, typer.Option("--config", help="A recipe in TOML; options go over it.")]
Out = Annotated[Path | None, typer.Option("--out", help="Folder to write; default runs/<verb>-<identity>.")]
Steps = Annotated[int | None, typer.Option("--steps", help="Optimiser steps; default one pass over the data.")]
Set = Annotated[list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Any key of the recipe.")]
Resume = Annotated[Path | None, typer.Option("--resume", help="A run's folder, or one of its checkpoints.")]
Dry = Annotated[bool, typer.Option("--dry-run", help="Check everything, estimate time and memory, train nothing.")]
Device = Annotated[str | None, typer.Option("--device", help="auto, cpu or cuda.")]
Track = Annotated[str | None, typer.Option("--track", help="tensorboard, wandb or trackio.")]
Allow = Annotated[list[str] | None, typer.Option("--allow-import", metavar="PACKAGE", help="Import code of yours.")]
Json = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]


def _command(verb: str, what: str) -> None:
    """Add a verb that has the common options and no others."""

    @app.command(verb, help=what)
    def command(
        model: Model = None,
        data: DataFile = None,
        eval_file: Eval = None,
        config: Config = None,
        out: Out = None,
        steps: Steps = None,
        overrides: Set = None,
        resume: Resume = None,
        dry_run: Dry = False,
        device: Device = None,
        track: Track = None,
        allow_import: Allow = None,
        as_json: Json = False,
    ) -> None:
        options = _Options(model, data, eval_file, config, out, steps, overrides, resume, device, track, allow_import)
        _train(verb, options, {}, dry_run, as_json)


_command("sft", "Supervised fine-tuning on prompt/completion, messages or text rows.")
_command("reward", "A Bradley-Terry reward model from prompt/chosen/rejected rows, with its quality report.")


@app.command()
def preference(
    model: Model = None,
    data: DataFile = None,
    eval_file: Eval = None,
    loss: Annotated[str | None, typer.Option("--loss", help="dpo, cdpo, rdpo, ipo, ..., kto; default rdpo.")] = None,
    flip_rate: Annotated[
        str | None, typer.Option("--flip-rate", help="Share of wrong labels, [0, 0.5), or auto to estimate it.")
    ] = None,
    config: Config = None,
    out: Out = None,
    steps: Steps = None,
    overrides: Set = None,
    resume: Resume = None,
    dry_run: Dry = False,
    device: Device = None,
    track: Track = None,
    allow_import: Allow = None,
    as_json: Json = False,
) -> None:
    """Preference optimisation on prompt/chosen/rejected rows (KTO: prompt/completion/label)."""
    options = _Options(model, data, eval_file, config, out, steps, overrides, resume, device, track, allow_import)
    extra = {"loss.kind": loss, "loss.flip_rate": flip_rate}
    _train("preference", options, {k: v for k, v in extra.items() if v is not None}, dry_run, as_json)


@app.command("rl")
def reinforcement(
    model: Model = None,
    data: Annotated[Path | None, typer.Option("--data", help="Prompts with answers, JSON Lines.")] = None,
    eval_file: Annotated[Path | None, typer.Option("--eval", help="Held-out prompts, JSON Lines.")] = None,
    preset: Annotated[str | None, typer.Option("--preset", help="grpo, dr_grpo, rloo, dapo, ppo, ...")] = None,
    config: Config = None,
    out: Out = None,
    steps: Steps = None,
    overrides: Set = None,
    resume: Resume = None,
    dry_run: Dry = False,
    device: Device = None,
    track: Track = None,
    allow_import: Allow = None,
    as_json: Json = False,
) -> None:
    """Reinforcement learning on prompts whose answers can be checked, or with a reward of your own."""
    options = _Options(model, data, eval_file, config, out, steps, overrides, resume, device, track, allow_import)
    _train("rl", options, {} if preset is None else {"preset": preset}, dry_run, as_json)


@app.command()
def distill(
    model: Model = None,
    teacher: Annotated[
        Path | None, typer.Option("--teacher", help="Folder of a model with the same tokenizer, or of a run.")
    ] = None,
    data: Annotated[Path | None, typer.Option("--data", help="Prompts, JSON Lines; answers are not needed.")] = None,
    eval_file: Annotated[Path | None, typer.Option("--eval", help="Held-out prompts, JSON Lines.")] = None,
    preset: Annotated[str | None, typer.Option("--preset", help="opd, tip, ...")] = None,
    select: Annotated[
        str | None, typer.Option("--select", help="Learn from some tokens: soft_or, entropy, q3, divergence, random.")
    ] = None,
    keep: Annotated[float | None, typer.Option("--keep", help="Share of the tokens that --select keeps.")] = None,
    config: Config = None,
    out: Out = None,
    steps: Steps = None,
    overrides: Set = None,
    resume: Resume = None,
    dry_run: Dry = False,
    device: Device = None,
    track: Track = None,
    allow_import: Allow = None,
    as_json: Json = False,
) -> None:
    """On-policy distillation: the model answers, and learns what a teacher would have done at every token."""
    options = _Options(model, data, eval_file, config, out, steps, overrides, resume, device, track, allow_import)
    extra = {"loss.teacher.path": teacher, "preset": preset}
    options.overrides[:0] = _selected(select, keep, config)
    _train("distill", options, {k: v for k, v in extra.items() if v is not None}, dry_run, as_json)


def _selected(rule: str | None, keep: float | None, config: Path | None) -> list[str]:
    """``--select`` and ``--keep`` as the one stage that they stand for."""
    from steersman.core.errors import UserError

    if rule is None and keep is None:
        return []
    if rule is None:
        raise UserError("needs --select, which says what tokens are compared by", where="--keep")
    if config is not None:
        cure = 'Write stages = [{ kind = "select_tokens" }] there, or use --set stages=...'
        raise UserError("is one stage, and the recipe may have others", where="--select", cure=cure)
    if keep is not None and not 0 < keep <= 1:
        raise UserError(f"is {keep:g}", where="--keep", allowed="above 0, up to 1")
    table = f'kind = "select_tokens", rule = {_toml(rule)}' + ("" if keep is None else f", keep = {float(keep)}")
    return [f"stages=[{{ {table} }}]"]


app.command("inventory")(inventory)


class _Options:
    """What the verbs have in common, and how it becomes a recipe."""

    def __init__(
        self,
        model: Path | None,
        data: Path | None,
        eval_file: Path | None,
        config: Path | None,
        out: Path | None,
        steps: int | None,
        overrides: list[str] | None,
        resume: Path | None,
        device: str | None,
        track: str | None,
        allow_import: list[str] | None,
    ) -> None:
        recipe = {"model.path": model, _TRAIN: data, _EVALUATION: eval_file, "budget.steps": steps}
        runtime = {"out": out, "device": device, "track": track}
        self.shortcuts = {k: v for k, v in recipe.items() if v is not None}
        self.runtime = {k: v for k, v in runtime.items() if v is not None}
        self.config, self.overrides, self.resume = config, overrides or [], resume
        self.allow_import = allow_import or []

    def resolve(self, verb: str, extra: Mapping[str, Any]) -> tuple[Any, Any, Path | None]:
        """(recipe, runtime, checkpoint): file, then options, then ``--set``; with ``--resume`` the run's own recipe."""
        from steersman.core.config import parse_override, read, validate
        from steersman.recipes.training import Runtime
        from steersman.recipes.verbs import HABITS, RECIPES
        from steersman.store.files import read_json

        base: dict[str, Any] = {"verb": verb}
        checkpoint = None
        if self.resume is not None:
            folder, checkpoint = _run_of(self.resume)
            base = read_json(folder / "recipe.json")
            _same_verb(base, verb, self.resume)
            self.runtime.setdefault("out", folder)
        runtime_sets = [o.removeprefix("runtime.") for o in self.overrides if o.startswith("runtime.")]
        shortcuts = {_key(verb, k): v for k, v in self.shortcuts.items()} | dict(extra)
        chosen = [f"{k}={_toml(v)}" for k, v in shortcuts.items()]
        given = chosen + [o for o in self.overrides if not o.startswith("runtime.")]
        source = read(self.config, given, base)
        for key in shortcuts:
            source.places[key] = "option"
        own = runtime_source(source)
        sets = dict(parse_override(o) for o in runtime_sets) | {k: str(v) for k, v in self.runtime.items()}
        own.values.update(sets)
        for key, value in HABITS.get(verb, {}).items():
            own.values.setdefault(key, value)
        own.places.update(dict.fromkeys(sets, "the command line"))
        runtime = validate(Runtime, own)
        _require(source.values, _key(verb, _TRAIN), verb)
        return validate(RECIPES[verb], source, self.allow_import), runtime, checkpoint


def runtime_source(source: Any) -> Any:
    """Take the table ``[runtime]`` out of a recipe's source; it is how, not what.

    Raises:
        UserError: it is no table.
    """
    from steersman.core.errors import UserError

    own = source.values.pop("runtime", {})
    if not isinstance(own, dict):
        raise UserError(f"is {own!r}, not a table", where=f"runtime ({source.place('runtime')})")
    places = {k.removeprefix("runtime."): v for k, v in source.places.items() if k.startswith("runtime.")}
    return type(source)(dict(own), places, "runtime")


def _toml(value: Any) -> str:
    """A command-line value as TOML: numbers stay numbers, everything else becomes a string."""
    import json

    try:
        return str(float(value)) if "." in str(value) and not isinstance(value, Path) else str(int(value))
    except (ValueError, TypeError):
        return json.dumps(str(value))


_TRAIN, _EVALUATION = "data.train", "data.evaluation"


def _key(verb: str, key: str) -> str:
    """The key that an option stands for: rl and distill have a task where the others have data."""
    return key.replace("data.", "task.") if verb in ("rl", "distill") else key


def _require(values: Mapping[str, Any], train: str, verb: str) -> None:
    """Say which option gives a missing key, unless a typo explains it, which validation names."""
    from difflib import get_close_matches

    from steersman.core.errors import UserError

    for path, option in (("model.path", "--model"), (train, "--data")):
        table, _, key = path.partition(".")
        inside = values.get(table, {})
        if not isinstance(inside, dict) or key in inside or inside.get("kind", "questions") != "questions":
            continue
        if not get_close_matches(key, inside) and not get_close_matches(table, values.keys() - {table}):
            raise UserError(f"{path} is missing", cure=f"Give it with {option}, or in a recipe with --config.")
    loss = values.get("loss", {})
    named = "preset" in values or not isinstance(loss, dict) or get_close_matches("teacher", loss)
    if verb == "distill" and not named:
        cure = "Give a model's folder with --teacher, or the table [loss.teacher] in a recipe with --config."
        raise UserError("loss.teacher is missing", cure=cure)


def _run_of(path: Path) -> tuple[Path, Path | None]:
    """The run folder and checkpoint that ``--resume`` names."""
    from steersman.core.errors import UserError

    if (path / "recipe.json").is_file():
        return path, None
    if (path / "manifest.json").is_file() and (path.parent.parent / "recipe.json").is_file():
        return path.parent.parent, path
    raise UserError("is neither a run of `steersman train` nor one of its checkpoints", where=f"--resume {path}")


def _same_verb(recipe: Mapping[str, Any], verb: str, run: Path) -> None:
    """Refuse to resume a run of another verb."""
    import shlex

    from steersman.core.errors import UserError

    if (other := recipe.get("verb", verb)) != verb:
        cure = f"Resume it with: steersman train {other} --resume {shlex.quote(str(run))}"
        raise UserError(f"is a run of `steersman train {other}`, not of {verb!r}", where=f"--resume {run}", cure=cure)


def _train(verb: str, options: _Options, extra: Mapping[str, Any], dry_run: bool, as_json: bool) -> None:
    import json

    from steersman.cli.progress import TrainingProgress
    from steersman.recipes.jobs import output_folder
    from steersman.recipes.verbs import carry_out, described, measures

    recipe, runtime, checkpoint = options.resolve(verb, extra)
    allowed = options.allow_import
    if dry_run:
        as_text = json.dumps(measures(recipe, runtime, allowed), indent=2) if as_json else None
        typer.echo(as_text or described(recipe, runtime, allowed))
        return
    first = os.environ.get("RANK", "0") == "0"  # of the processes that torchrun started; the others keep quiet
    quiet, shown = as_json or not first, runtime if first else runtime.model_copy(update={"track": "none"})
    with TrainingProgress(recipe, shown, output_folder(recipe, runtime), quiet=quiet) as progress:
        known = {"allow_import": allowed, "say": progress.say, "watch": progress.watch, "resume": checkpoint}
        outcome = carry_out(recipe, runtime, **known)
    from steersman.store.files import tag

    if not first:
        return
    if as_json:
        typer.echo(json.dumps(tag(dict(outcome.result) | {"folder": str(outcome.folder)}), indent=2))
        return
    progress.summary(outcome)
