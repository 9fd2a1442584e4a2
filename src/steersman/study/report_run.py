"""The page of one training run: what came out, curves of its main metrics, its samples token by token, its settings.

Made from the run's own files whenever it is asked for, so a run can be looked at while it trains. Leaves out: serving
pages (`cli.view`), comparing runs (that is what a study is for). Source: none.
"""

import json
import math
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from steersman.page.figures import Line, Panel, curves
from steersman.page.html import Html, join, section, shell, tag
from steersman.page.theme import marks
from steersman.page.tokens import token_view
from steersman.store.files import read_json
from steersman.store.run import RunDir
from steersman.study.catalogue import Card

MOST_POINTS = 400
"""Points of a curve; of a longer run evenly spaced steps are drawn."""
TOLD = ("accuracy", "reward", "loss")
"""Held-out metrics that the sentence names."""
TRAINING, HELD_OUT = "training", "held out"
PANELS: tuple[tuple[str, str, Mapping[str, str]], ...] = (
    ("Accuracy", "share of correct responses or pairs", {"train/accuracy": TRAINING, "eval/accuracy": HELD_OUT}),
    ("Reward", "mean reward of a response", {"train/reward_mean": TRAINING, "eval/reward": HELD_OUT}),
    ("Loss", "mean over what the step counts", {
        "train/loss": TRAINING, "eval/loss": HELD_OUT, "train/loss/policy": "policy", "train/loss/kl": "KL",
        "train/loss/value": "value",
    }),
    ("Distance from the reference", "KL, nats a token", {"train/kl_ref": TRAINING, "eval/kl": HELD_OUT}),
    ("Entropy", "nats a token", {"train/entropy": TRAINING}),
    ("Length of a response", "tokens", {"train/response_length": TRAINING, "eval/length": HELD_OUT}),
    ("Used of what was generated", "a step", {
        "train/rows_generated": "rows generated", "train/rows_kept": "rows kept",
    }),
    ("Groups without a signal, responses cut or not graded", "share", {
        "train/zero_signal_groups": "no signal", "train/truncated_share": "cut", "train/invalid_share": "not graded",
    }),
    ("Clipped ratios", "share of tokens", {"train/clip_low": "below", "train/clip_high": "above"}),
    ("Gradient", "norm before clipping", {"train/grad_norm": TRAINING}),
)  # fmt: skip
"""What is drawn where the run has it: title, label of the y axis, metric -> name of its line."""


def run_folders(root: Path) -> dict[str, Path]:
    """The training runs that lie directly under `root`, by the name of their folder."""
    return {f.parent.name: f.parent for f in sorted(root.glob("*/recipe.json")) if (f.parent / "run.json").is_file()}


def run_card(folder: Path, href: str, source: str) -> Card:
    """The run in the list of all reports.

    Args:
        folder: of the run.
        href: link to its page.
        source: hash of the installed library; a run of another one is stale.
    """
    known = read_json(folder / "run.json")
    stale = known.get("made_by", {}).get("source") != source
    written = max(f.stat().st_mtime for f in folder.glob("*.json*"))
    date = datetime.fromtimestamp(written).strftime("%Y-%m-%d %H:%M")
    return Card(folder.name, f"training run, {known.get('verb', '')}", run_sentence(folder), date, stale, href)


def run_sentence(folder: Path) -> str:
    """What came out so far, in words."""
    run = RunDir(folder)
    if not run.finished:
        steps = [row["step"] for row in run.read("metrics")]
        planned = read_json(folder / "recipe.json").get("budget", {}).get("steps")
        of = f" of {planned:,}" if planned else ""
        told = f"the last step that was logged is {max(steps):,}{of}" if steps else "no step was logged"
        why = run.why_stopped()
        return f"Stopped, {told}: {' '.join(why.split())}" if why else f"Not finished; {told}."
    result = run.result()
    told = _measured(result.get("before", {}), result.get("evaluation", {}))
    ended = result.get("reason", "finished")
    ended = f"{ended[:1].upper()}{ended[1:]} after {result.get('steps', 0):,} steps"
    return f"{ended}: {told}." if told else f"{ended}."


def _measured(before: Mapping[str, float], after: Mapping[str, float]) -> str:
    """Held-out metrics, with their interval and what they were before where that is known."""
    parts = []
    for name in (n for n in TOLD if n in after):
        value = after[name]
        bounds = [after[k] for k in (f"{name}_low", f"{name}_high") if k in after]
        text = f"{name} {value:.3g}"
        text += f" [{bounds[0]:.3g}, {bounds[1]:.3g}]" if len(bounds) == 2 else ""
        parts.append(text + (f" (before: {before[name]:.3g})" if name in before else ""))
    return "held-out " + ", ".join(parts) if parts else ""


def run_page(folder: Path) -> Html:
    """The page of a training run.

    Args:
        folder: a run of `steersman train`.

    Raises:
        CorruptFile: a file of the run cannot be read.
    """
    from steersman.train.samples import run_samples

    run, known = RunDir(folder), read_json(folder / "run.json")
    drawn = panels(run.read("metrics"))
    samples, streams = run_samples(run.read("samples"))
    figures = [curves(panel, marks([TRAINING, HELD_OUT, *(ln.arm for ln in panel.lines)])) for panel in drawn]
    plots = tag("div", *figures, class_="figures") if figures else tag("p", "No step was logged yet.", class_="empty")
    arms = marks(v.arm for s in samples for v in s.views)
    return shell(
        folder.name,
        _head(folder, known),
        section("Curves", plots, anchor="curves"),
        section("Samples", token_view(samples, streams, arms), anchor="samples") if samples else "",
        section("Settings", _settings(known), anchor="settings"),
    )


def _head(folder: Path, known: Mapping[str, Any]) -> Html:
    made, timing = known.get("made_by", {}), RunDir(folder).timing()
    facts = [f"steersman train {known.get('verb', '')}".strip(), f"steersman {made.get('steersman', '')}".strip()]
    facts += [f"{timing['seconds']:,.0f} s"] if "seconds" in timing else []
    return tag(
        "header",
        tag("h1", folder.name),
        tag("p", run_sentence(folder), class_="sentence"),
        tag("p", *(tag("span", f) for f in facts), class_="meta"),
    )


def _settings(known: Mapping[str, Any]) -> Html:
    values = {k: v for k, v in known.items() if k != "made_by"}
    text = "\n".join(f"{k} = {json.dumps(v, ensure_ascii=False)}" for k, v in _flat(values))
    note = tag(
        "p", "Files are named by a hash of their contents; recipe.json of the run has their paths.", class_="note"
    )
    return join(note, tag("pre", tag("code", text), tabindex="0", aria_label="settings"))


def _flat(values: Mapping[str, Any], before: str = "") -> list[tuple[str, Any]]:
    """Dotted keys and their values, in their order."""
    found = []
    for key, value in values.items():
        name = f"{before}{key}"
        found += _flat(value, f"{name}.") if isinstance(value, dict) and value else [(name, value)]
    return found


def panels(rows: Sequence[Mapping[str, Any]]) -> tuple[Panel, ...]:
    """The figures of a run's metrics, those of `PANELS` that have a value.

    Args:
        rows: of ``metrics.jsonl``, each with its ``step``.
    """
    found = []
    for title, label, metrics in PANELS:
        lines = [_line(name, metric, rows) for metric, name in metrics.items() if any(metric in r for r in rows)]
        if lines:
            found.append(Panel(title, "optimiser step", label, tuple(lines)))
    return tuple(found)


def _line(name: str, metric: str, rows: Sequence[Mapping[str, Any]]) -> Line:
    """The course of a metric, with its interval where the run measured one."""
    there = [r for r in rows if metric in r]
    stride = math.ceil(len(there) / MOST_POINTS)
    there = there[::-1][::stride][::-1]  # the last step is always drawn
    values = tuple(float(r[metric]) for r in there)
    low, high = (tuple(float(r.get(f"{metric}_{end}", math.nan)) for r in there) for end in ("low", "high"))
    return Line(name, tuple(float(r["step"]) for r in there), (values,), values, low, high)
