"""Figures, tables and the sentence of the TIP study. Leaves out: drawing (`page`)."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from steersman.page.figures import Panel
from steersman.page.tokens import from_json
from steersman.studies.rl_curves import by_batch, by_series, line, pairs, runs_of
from steersman.studies.rl_evidence import mean
from steersman.studies.tip.claims import FIRST, LIMITS, MAIN, MEMORY, share
from steersman.studies.tip.names import MAIN_ARMS
from steersman.study.declare import Result, Shown
from steersman.study.report import Difference, Estimate

SEEN = ("full", "entropy top 20", "entropy sampled 20", "soft-or 20", "q3 20", "q3 10", "random 20", "random 10")
VIEWED = ("entropy top 20", "entropy sampled 20", "soft-or 20", "q3 10", "random 20", "random 10")
WIDE = ("full", "entropy top 50", "entropy sampled 50", "soft-or 50", "divergence 50", "random 50", "bottom 50")
KINDS = {"exact": "exact match", "carry": "digits with a carry", "times": "digits under x"}


def show(results: Sequence[Result]) -> Shown:
    """Accuracy by steps, what is kept of the carries, divergences, memory; every arm minus all tokens and random."""
    hard = [n for n in dict.fromkeys(r.cell.arm.name for r in results if r.cell.part == LIMITS) if n.endswith("fast")]
    panels = (
        by_batch(results, SEEN, "Exact match by steps, narrow selections", MAIN),
        by_batch(results, WIDE, "Exact match by steps, half of the tokens", MAIN),
        by_series(results, SEEN, "carry_kept", "Carries that are kept", "share of the carries", MAIN),
        by_series(results, SEEN, "carry_divergence", "Divergence at carries", "nats", MAIN),
        replace(by_series(results, SEEN, "divergence_all", "Divergence of all tokens", "nats", MAIN), log_y=True),
        by_series(results, SEEN, "norm", "Norm of the gradient", "norm", MAIN),
        by_batch(results, hard, "Exact match by steps, high rate", LIMITS),
        *_memory(results),
    )
    from steersman.assure.diagnose.tokens_page import STREAMS  # it needs torch, and lists of studies do not

    found = [r.value["samples"] for r in results if r.cell.part == FIRST]
    plain = [{**x, "views": [v for v in x["views"] if v["arm"] in VIEWED]} for x in (found[0] if found else ())]
    return Shown(tuple(p for p in panels if p.lines), _differences(results), tuple(map(from_json, plain)), STREAMS)


def _differences(results: Sequence[Result]) -> tuple[Difference, ...]:
    """Every arm minus all tokens, and minus random tokens of the same number."""
    found = []
    for kind, metric in KINDS.items():
        for name in MAIN_ARMS:
            percent = name.rpartition(" ")[2]
            for base in ("full", f"random {percent}"):
                gap = [share(x, kind) - share(y, kind) for x, y in pairs(results, name, base, MAIN)]
                if name != base and len(gap) > 1:
                    i = mean(gap)
                    found.append(Difference(name, base, metric, Estimate(i.value, i.low, i.high, "", i.level)))
    return tuple(found)


def _memory(results: Sequence[Result]) -> tuple[Panel, ...]:
    """Peak bytes by what is kept, a figure for each size."""
    found = [p for r in results if r.cell.part == MEMORY for p in r.value["peaks"]]
    panels = []
    for vocabulary, rows in sorted({(p["vocabulary"], p["rows"]) for p in found}):
        here = [p for p in found if (p["vocabulary"], p["rows"]) == (vocabulary, rows)]
        lines = []
        for variant in dict.fromkeys(p["variant"] for p in here):
            points = sorted((p["keep"], p["bytes"] / 2**20) for p in here if p["variant"] == variant)
            lines.append(line(variant, [x for x, _ in points], [[y for _, y in points]]))
        title = f"Peak memory, {rows:,} tokens, vocabulary {vocabulary:,}"
        panels.append(Panel(title, "share of the tokens that is kept", "MiB", tuple(lines),
                            note="Loss and gradient alone, counted from the tensors alive."))  # fmt: skip
    return tuple(panels)


def sentence(results: Sequence[Result]) -> str:
    """What came out, in plain words."""
    ends: Mapping[str, tuple[float, float]] = {
        n: (float(np.mean([share(v, "exact") for v in runs.values()])),
            float(np.mean([share(v, "carry") for v in runs.values()])))
        for n in MAIN_ARMS if (runs := runs_of(results, n, MAIN))
    }  # fmt: skip
    if not ends:
        return "Nothing has been run yet."
    best = max(ends, key=lambda n: ends[n][0])
    told = [f"At the end {best} was right most often, {ends[best][0]:.3f}"]
    told += [f"all tokens {ends['full'][0]:.3f}"] if "full" in ends and best != "full" else []
    lead = "; ".join(told) + "."
    carries = ", ".join(f"{n} {c:.2f}" for n, (_, c) in ends.items() if n in SEEN)
    return f"{lead} Digits with a carry: {carries}."
