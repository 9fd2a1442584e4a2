"""`steersman decide`: decisions from a file, with an interval and a reason.

Leaves out: how anything is decided (`decide`).
"""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from steersman.cli.decide_invariance import invariance
from steersman.cli.decide_profile import profile

if TYPE_CHECKING:
    from steersman.decide.dp_bai import Recommendation, Run
    from steersman.decide.dp_bai.tables import ArmTable
    from steersman.decide.privacy import NoiseBackend

app = typer.Typer(
    help="Decide: an arm under a promise of privacy, a profile from a survey, what to carry over.", no_args_is_help=True
)
app.command("profile")(profile)
app.command("invariance")(invariance)

FAULTS = ("half-scale", "no-noise", "reuse")
AUDITABLE = (0.001, 12.0)
"""Below, an audit needs more trials than fit; above, more runs: an event can be e^12 times as likely."""
READ = 20
"""Noise scales that an audited sum holds rewards, so that the audited arm survives."""


@app.callback()
def _together() -> None:
    """Decide: an arm under a promise of privacy, a profile from a survey, what to carry over."""


@app.command("arm")
def arm(
    arms: Annotated[Path, typer.Argument(help="CSV: a column arm with names; all other columns are features.")],
    epsilon: Annotated[float, typer.Option(help="What the transcript may give away of one reward; above 0.")],
    budget: Annotated[int, typer.Option(help="Trials at most.", min=0)],
    rewards: Annotated[
        Path | None, typer.Option(help="CSV of trials, columns arm and reward; without it you are asked.")
    ] = None,
    journal: Annotated[Path | None, typer.Option(help="Folder of noisy sums; default ARMS-journal.")] = None,
    low: Annotated[float, typer.Option(help="Rewards are at least this.")] = 0.0,
    high: Annotated[float, typer.Option(help="Rewards are at most this.")] = 1.0,
    clip: Annotated[bool, typer.Option("--clip", help="Move rewards outside the range to its ends.")] = False,
    grid: Annotated[int, typer.Option(help="Steps of the range that rewards are rounded to, without bias.", min=1)] = 1,
    rounding: Annotated[str, typer.Option(help="floor or paper.")] = "floor",
    noise: Annotated[
        str, typer.Option(help="discrete: exact; opendp: exact, by that package; float: quick, and NOT certified.")
    ] = "discrete",
    neighbouring: Annotated[str, typer.Option(help="A person owns one reward, or a row: one of each arm.")] = "reward",
    as_json: Annotated[bool, typer.Option("--json", help="Print the state or the result as JSON.")] = False,
) -> None:
    """Find the best arm by at most BUDGET trials. Run it again to go on: noise is drawn once and kept."""
    from steersman.cli.table import print_json
    from steersman.core.errors import UserError
    from steersman.decide.dp_bai import DPBAI
    from steersman.decide.dp_bai.tables import feed, read_arms, read_rewards

    table = read_arms(arms)
    options: Any = DPBAI(
        epsilon, budget, rounding, _noise(noise, grid), (low, high), "clip" if clip else "raise", neighbouring
    )  # type: ignore[arg-type]
    if options.epsilon == float("inf"):
        raise UserError("inf promises nothing", where="--epsilon", allowed="a finite number above 0")
    taken = (float("-inf"), float("inf")) if clip else options.reward_range
    told = read_rewards(rewards, table.names, taken) if rewards else None
    run = options.start(table.features, journal or arms.with_name(f"{arms.stem}-journal"))
    lacking = _ask(run, table) if told is None else feed(run, told)
    if lacking:
        todo = {table.names[a]: n for a, n in lacking.items()}
        if as_json:
            print_json({"phase": run.phase, "phases": run.phases, "rank": run.rank, "to_try": todo})
        else:
            if run.rank < len(table.columns):
                print(f"The {len(table.columns)} features span only {run.rank} of as many dimensions.")
            print(f"phase {run.phase} of {run.phases}; still to be tried:")
            for name, count in todo.items():
                print(f"  {name}  {count} times")
            print(f"Add their rewards to {rewards} and run the same command again.")
        return
    found = _as_dict(run.result(), table, options)
    if as_json:
        print_json(found)
    else:
        _show(found)


def _noise(name: str, grid: int) -> "NoiseBackend":
    from steersman.core.errors import UserError
    from steersman.decide.privacy import DiscreteLaplace, FloatLaplace, OpenDPLaplace

    kinds: Any = {"discrete": DiscreteLaplace, "opendp": OpenDPLaplace, "float": FloatLaplace}
    if name not in kinds:
        raise UserError(repr(name), where="--noise", allowed=", ".join(kinds))
    return kinds[name](grid)


def _ask(run: "Run", table: "ArmTable") -> dict[int, int]:
    """Ask for rewards on the terminal until the end; those of an unfinished phase are in memory only."""
    from steersman.core.errors import UserError

    if not run.done:
        typer.echo("Rewards are kept in memory until their phase ends; with --rewards FILE they are yours to keep.")
    while (batch := run.ask()) is not None:
        name = table.names[batch.arms[0]]
        typed = typer.prompt(f"phase {batch.phase} of {run.phases}, {len(batch.arms)} to go. Try {name}; its reward")
        try:
            run.tell([float(typed)], batch.phase)
        except UserError as error:
            typer.echo(f"error: {error}", err=True)
        except ValueError:
            typer.echo("error: not a number", err=True)
    return {}


def _as_dict(found: "Recommendation", table: "ArmTable", options: Any) -> dict[str, Any]:
    from steersman.decide.dp_bai.tables import mean_interval

    phases = []
    for left, means, (_, pulls, _) in zip(
        found.active_history, found.private_means, found.certificate.per_phase, strict=False
    ):
        seen = {}
        for number, mean in means.items():
            interval = mean_interval(mean, pulls, options.epsilon, options.reward_range)
            seen[table.names[number]] = {"mean": mean, "low": interval.low, "high": interval.high, "pulls": pulls}
        phases.append({"left": [table.names[a] for a in left], "tried": seen})
    return {
        "arm": table.names[found.arm],
        "pulls": found.pulls,
        "phases": phases,
        "certificate": found.certificate.as_dict(),
        "note": found.note,
    }


def _show(found: dict[str, Any]) -> None:
    from steersman.cli.table import console, grid, print_table
    from steersman.page.number import number

    print(
        f"recommended: {found['arm']}, after {found['pulls']:,} trials" + (f". {found['note']}" * bool(found["note"]))
    )
    table = grid("phase", "arms left", "tried", "trials", "noisy mean", "95 % interval")
    for index, phase in enumerate(found["phases"], 1):
        for name, seen in phase["tried"].items():
            ends = f"{number(seen['low'], 3)} to {number(seen['high'], 3)}"
            table.add_row(str(index), str(len(phase["left"])), name, str(seen["pulls"]), number(seen["mean"], 3), ends)
    if found["phases"]:
        print_table(console(), table)
    promised = found["certificate"]
    sure = "certified" if promised["certified"] else "NOT certified"
    print(
        f"\nprivacy: epsilon {promised['epsilon']:g} for a change of one {promised['neighbouring']}, {sure}; "
        f"{promised['backend']}, bits of the {promised['entropy']}."
    )
    print("This holds if: " + "; ".join(promised["assumptions"]) + ".")


@app.command("audit")
def audit(
    epsilon: Annotated[float, typer.Option(help="The promise to test; above 0.")] = 1.0,
    runs: Annotated[int, typer.Option(help="Runs on each of two tables of rewards.", min=100)] = 100_000,
    confidence: Annotated[float, typer.Option(help="Of the lower bounds.")] = 0.95,
    law: Annotated[str, typer.Option(help="discrete, laplace, or exact: the sampler that protects people; slow.")] = (
        "discrete"
    ),
    seed: Annotated[int, typer.Option(help="Of the simulated noise.")] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="Print the figures as JSON.")] = False,
) -> None:
    """Try to refute the promise of `decide arm`, and see that three planted faults are found."""
    import math
    from dataclasses import asdict

    from steersman.cli.table import console, grid, print_json, print_table
    from steersman.core.errors import RunStopped, UserError
    from steersman.decide.dp_bai import DPBAI, exact_two_arm_loss
    from steersman.decide.privacy import audit as run_audit
    from steersman.decide.privacy.laplace import exact_epsilon

    if not AUDITABLE[0] <= exact_epsilon(epsilon) <= AUDITABLE[1]:
        raise UserError(f"{epsilon:g}", where="--epsilon", allowed=f"{AUDITABLE[0]:g} to {AUDITABLE[1]:g} in audits")
    # Four arms, two phases: the audited arm is pulled at least READ noise scales often in the first.
    options = DPBAI(epsilon, 8 * max(2, math.ceil(READ / epsilon)))
    found = [
        run_audit(options, runs=runs, seed=seed, beta=1 - confidence, law=law, fault=f)  # type: ignore[arg-type]
        for f in (None, *FAULTS)
    ]
    exact = {n: exact_two_arm_loss(100, epsilon, n) for n in ("laplace", "discrete")}  # type: ignore[arg-type]
    if as_json:
        print_json({"audits": [asdict(a) | {"broken": a.broken} for a in found], "exact_two_arms": exact})
    else:
        table = grid("played", "promised", f"epsilon is at least ({confidence:.0%})", "verdict")
        for a in found:
            good, bad = ("promise refuted", "not refuted") if a.fault is None else ("found", "NOT found: more runs")
            table.add_row(
                a.fault or "the method", f"{a.epsilon:g}", f"{a.epsilon_lower:.3f}", good if a.broken else bad
            )
        print_table(console(), table)
        print(f"\nexact, two arms of 100 trials: {exact['laplace']:.4f} (Laplace), {exact['discrete']:.4f} (discrete)")
    if found[0].broken:
        raise RunStopped("the audit refutes the promise of privacy")
