"""The command `steersman`: its verbs, and how errors and exit codes look.

Exit codes: 0 done; 1 something failed that was accepted (a run, the disk); 2 a mistake in what was asked; 3 finished,
but a claim is contradicted (with ``--strict``); 130 stopped by Ctrl-C. Leaves out: what the verbs do (one module each).
Nothing heavy is imported here or at the top of any verb's module: ``--help`` must be quick.
"""

import contextlib
import os
import shlex
import sys
import traceback

import typer

import steersman
from steersman.cli import config, data, decide, diagnose, doctor, evaluate, generate, measure, model, study, train, view
from steersman.core.errors import RunStopped, UserError

INTERRUPTED = 130
SOFTWARE = 70

app = typer.Typer(
    name="steersman",
    help="Policy learning you can trust: train, study, look at and check policies.",
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)
app.add_typer(study.app, name="study")
app.add_typer(train.app, name="train")
app.add_typer(config.app, name="config")
app.add_typer(data.app, name="data")
app.add_typer(model.app, name="model")
app.add_typer(diagnose.app, name="diagnose")
app.add_typer(decide.app, name="decide")
app.command("generate")(generate.generate)
app.command("evaluate")(evaluate.evaluate)
app.command("measure")(measure.measure)
app.command("view")(view.view)
app.command("doctor")(doctor.doctor)


def _version(value: bool) -> None:
    if value:
        print(f"steersman {steersman.__version__}")
        raise typer.Exit


@app.callback()
def _top(version: bool = typer.Option(False, "--version", callback=_version, is_eager=True, help="Say which.")) -> None:
    """Policy learning you can trust: train, study, look at and check policies."""


def run(arguments: list[str]) -> int:
    """Run one command line and return its exit code.

    Args:
        arguments: the words after ``steersman``.

    Returns:
        The exit code; see the module's docstring.

    Edge cases: errors of ours that a user can cure are one message on standard error; anything else keeps its
    traceback and says that it is our fault.
    """
    try:
        code = app(arguments, standalone_mode=False, prog_name="steersman")
        if code == INTERRUPTED:  # typer turns Ctrl-C into this code
            _stopped(arguments)
        return code if isinstance(code, int) else 0
    except (UserError, RunStopped) as error:
        _say(f"error: {error}")
        return error.exit_code
    except (KeyboardInterrupt, typer.Abort):
        _stopped(arguments)
        return INTERRUPTED
    except BrokenPipeError:
        # Whoever read us has gone: nothing is wrong, and nothing may be written when Python closes the stream.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except Exception as error:
        if hasattr(error, "format_message"):  # click's own: a missing argument, an unknown option or command
            return _misused(error)
        traceback.print_exc()
        foreign = " or of the code it was allowed to import" if "--allow-import" in arguments else ""
        whose = f"steersman {steersman.__version__}{foreign}"
        _say(f"error: this is a bug of {whose}: please report it with the lines above.")
        return SOFTWARE


def _stopped(arguments: list[str]) -> None:
    again = shlex.join(["steersman", *arguments])
    _say(f"stopped; what was finished is kept. The same command continues: {again}")


def _misused(error: Exception) -> int:
    text = error.format_message().strip()  # type: ignore[attr-defined]
    context = getattr(error, "ctx", None)
    if type(error).__name__ == "NoArgsIsHelpError" and context:
        _say(context.get_help())
        return 2
    _say(f"error: {text}\n       See: {context.command_path if context else 'steersman'} --help")
    return int(getattr(error, "exit_code", 2))


def _say(text: str) -> None:
    with contextlib.suppress(BrokenPipeError):
        print(text, file=sys.stderr, flush=True)


def main() -> None:
    """Entry point of the console script."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")  # a terminal that cannot write an interval's minus sign
    code = run(sys.argv[1:])
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    sys.exit(code)


if __name__ == "__main__":
    main()
