"""The figures of `steersman evaluate` as tables of at most 100 columns.

Leaves out: how the figures came about (`recipes.evaluate_measures`).
"""

import math
from collections.abc import Mapping
from typing import Any

from rich.table import Table

from steersman.cli.table import console, grid, print_table
from steersman.page.number import MISSING, Estimate, interval, number, p_value, point

Figure = Mapping[str, Any]


def show(summary: Figure) -> None:
    """Print everything that was measured."""
    out = console()
    how = f"{_times(summary['prompts'], summary['samples'])} · {summary['rule']} · seed {summary['seed']}"
    print_table(out, _lines(f"{summary['model']} on {summary['task']}", how, ""))
    print_table(out, _figures(summary))
    if "status" in summary:
        print_table(out, _lines(_counts(summary["status"])))
    for key, head, table in SECTIONS:
        if key in summary:
            print_table(out, _lines("", head.format(**summary[key])))
            print_table(out, table(summary[key]))
    if "out" in summary:
        print_table(out, _lines("", f"responses: {summary['out']}"))


def _figures(found: Figure) -> Table:
    """Accuracy, pass@k, scores and lengths."""
    table = grid("", "value", "95 % interval", "")
    if found.get("accuracy"):
        table.add_row("accuracy", *_shown(found["accuracy"]), _of(found["accuracy"], found))
    for row in found.get("pass_at_k", [])[1:]:
        table.add_row(f"pass@{row['k']}", *_shown(row), _of(row, found))
    score = found.get("score")
    if score and (not found.get("accuracy") or score["value"] != found["accuracy"]["value"]):
        table.add_row("score", *_shown(score), _of(score, found))
    if found.get("format_ok"):
        table.add_row("readable", *_shown(found["format_ok"]), _of(found["format_ok"], found))
    size = found["length"]
    note = f"median {number(size['median'], 0)}, 95 % up to {number(size['p95'], 0)}, most {size['most']:,}"
    table.add_row("tokens", number(size["mean"]), "", f"{note}; {size['ended']:.0%} ended by themselves")
    return table


def _best_of(found: Figure) -> Table:
    table = grid("n", "KL, nats", found["gold"], "95 % interval", "ranking", "")
    for row in found["curve"]:
        cells = (number(row["kl"], 2), *_shown(row["gold"]), _shown(row["ranking"])[0])
        table.add_row(f"{row['n']}", *cells, f"of {row['prompts']:,} prompts")
    return table


def _kl(found: Figure) -> Table:
    table = grid("", "k1", "95 % interval", "k3", "95 % interval")
    for key, name in (("per_response", "a response"), ("per_token", "a token")):
        table.add_row(name, *_shown(found["k1"][key]), *_shown(found["k3"][key]))
    return table


def _against(found: Figure) -> Table:
    table = grid("", "value", "95 % interval", "")
    counts = ", ".join(f"{found[k]:,} {k}" for k in ("wins", "ties", "losses", "invalid"))
    table.add_row("win rate", *(_shown(found["win_rate"]) if found["win_rate"] else (MISSING, "")), counts)
    if found["win_rate"]:
        even = found["length_controlled"]
        if even["win_rate"]:
            ours, theirs = (number(x) for x in found["characters"])
            table.add_row("at equal length", *_shown(even["win_rate"]), f"{ours} and {theirs} characters on average")
        else:
            table.add_row("at equal length", MISSING, "", even["why"])
        test = found["sign_test"]
        note = f"sign test over prompts: {test['prompts_won']:,} won, {test['prompts_lost']:,} lost"
        table.add_row("p", p_value(test["p"]), "", note)
        if found["flip_rate"] is not None:
            table.add_row("flips", f"{found['flip_rate']:.0%}", "", "the two orders disagreed: counted as ties")
    if found.get("graded") and found["graded"].get("accuracy"):
        table.add_row("its accuracy", *_shown(found["graded"]["accuracy"]), "")
    size = found["length"]
    table.add_row("its tokens", number(size["mean"]), "", f"{size['ended']:.0%} ended by themselves")
    return table


def _shown(found: Figure) -> tuple[str, str]:
    """Value and interval as text."""
    low, high = (s * math.inf if x is None else x for s, x in ((-1, found["low"]), (1, found["high"])))
    estimate = Estimate(found["value"], low, high)
    return point(estimate), interval(estimate)


def _of(row: Figure, found: Figure) -> str:
    """How many prompts a figure is of, where they are not all."""
    total = found.get("prompts")
    return "" if total in (None, row["prompts"]) else f"of {row['prompts']:,} prompts"


def _times(prompts: int, samples: int) -> str:
    return f"{prompts:,} prompt{'' if prompts == 1 else 's'} × {samples:,} sample{'' if samples == 1 else 's'}"


def _counts(status: Figure) -> str:
    return "status   " + "   ".join(f"{name} {n:,}" for name, n in status.items() if n or name == "invalid")


SECTIONS = (
    ("best_of", "best of n, ranked by {rank} ({invalid:,} invalid)", _best_of),
    ("kl", "KL to {reference}, in nats", _kl),
    ("against", "against {model}, judged by {judge}", _against),
)
"""Key of a summary, heading, table."""


def _lines(*texts: str) -> Table:
    table = Table(box=None, pad_edge=False, show_header=False)
    table.add_column(overflow="fold")
    for text in texts:
        table.add_row(text)
    return table
