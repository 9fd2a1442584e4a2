"""The page of a token diagnosis: the plane with its quadrants, what each rule keeps in it, overlaps, and the texts.

Leaves out: the figures (`tokens`), primitives (`page`).
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from steersman.assure.diagnose.tokens import NAMES, TokenDiagnosis
from steersman.page.html import Column, Html, section, shell, table, tag
from steersman.page.number import MISSING, number
from steersman.page.plane import Plane, plane
from steersman.page.theme import Mark, marks
from steersman.page.tokens import Sample, StreamInfo, View, token_view

FLOOR = 1e-4
"""Nats below which divergences stand at the bottom of the plane."""
CORNERS = ("Q1", "Q2", "Q3", "Q4")
STREAMS = (
    StreamInfo("entropy", "nats", "sequential", "uncertainty of the policy before the token"),
    StreamInfo("divergence", "nats", "sequential", "KL(policy || teacher): how far the teacher would pull"),
    StreamInfo("forward divergence", "nats", "sequential", "KL(teacher || policy)"),
    StreamInfo("quadrant", "", "sequential", "1 to 4"),
)


def page(found: TokenDiagnosis, facts: Mapping[str, str], samples: Sequence[Sample], vocabulary: int) -> Html:
    """A self-contained page.

    Args:
        found: the diagnosis.
        facts: what was looked at, by name.
        samples: texts under every rule (`samples_of`).
        vocabulary: number of tokens, for entropies as shares of the largest possible one.
    """
    colours = marks(found.kept)
    share = found.quadrants.share
    lead = (
        f"{int(found.mask.sum()):,} tokens. High entropy is above {number(found.quadrants.entropy_threshold)} nats, "
        f"high divergence above {number(found.quadrants.divergence_threshold)} nats; the shares follow from these two."
    )
    names = tuple(f"{q}  {share[q]:.0%}" for q in CORNERS)
    whole = _plane(found, "All tokens", Mark("var(--ink)", ""), None, vocabulary, names)
    each = [_plane(found, f"{n} keeps", colours[n], n, vocabulary, CORNERS) for n in found.kept]
    facts_list = tag("dl", *(x for k, v in facts.items() for x in (tag("dt", k), tag("dd", v))), class_="facts")
    return shell(
        "Token diagnosis",
        tag("h1", "Where the teacher disagrees, and how sure the policy is"),
        tag("p", _sentence(found), class_="sentence"),
        facts_list,
        section("The plane", tag("div", whole, class_="figures"), _quadrants(found), anchor="plane", lead=lead),
        section("What each rule keeps", _rules(found), tag("div", *each, class_="figures"), anchor="rules",
                lead="Coloured: kept. Grey: dropped. Every rule keeps as many tokens."),
        section("Overlap", _overlap(found), anchor="overlap",
                lead="Tokens that both rules keep, of those that either keeps (Jaccard)."),
        section("Responses", token_view(samples, STREAMS, colours), anchor="tokens"),
    )  # fmt: skip


def _sentence(found: TokenDiagnosis) -> str:
    """The one thing to know: how much of what a teacher can teach an entropy-only rule does not see."""
    rows = {r["quadrant"]: r for r in found.by_quadrant()}
    part, q3 = rows["Q3"]["part"], rows["Q3"]["share"]
    if part is None:
        return "The policy agrees with the teacher at every token: there is nothing to learn from it."
    told = f"Q3, where the policy is sure and the teacher disagrees, has {q3:.1%} of the tokens and {part:.1%} of the "
    told += "divergence."
    kept = {r["rule"]: r["kept"]["Q3"] for r in found.by_rule()}
    if kept.get("entropy") is not None and kept.get("Soft-OR") is not None:
        told += f" Top entropy keeps {kept['entropy']:.0%} of it, Soft-OR {kept['Soft-OR']:.0%}."
    return told


def _plane(
    found: TokenDiagnosis, title: str, mark: Mark, rule: str | None, vocabulary: int, names: Sequence[str]
) -> Html:
    top = math.log(vocabulary)
    given = Plane(
        title,
        "entropy of the policy, share of log V",
        "KL(policy || teacher), nats",
        (found.of("entropy") / top).tolist(),
        found.of("divergence").tolist(),
        None if rule is None else found.kept[rule][found.mask].tolist(),
        found.quadrants.entropy_threshold / top,
        found.quadrants.divergence_threshold,
        (names[0], names[1], names[2], names[3]),
        FLOOR,
    )
    return plane(given, mark)


def _percent(x: float | None) -> str:
    return MISSING if x is None else f"{x:.1%}"


def _nats(x: float | None) -> str:
    return MISSING if x is None else number(x, 3)


def _quadrants(found: TokenDiagnosis) -> Html:
    columns = [Column("", "head"), Column("", "text"), Column("tokens", "number"), Column("share", "number"),
               Column("entropy", "number", "mean, nats"), Column("divergence", "number", "mean, nats"),
               Column("part", "number", "of all divergence")]  # fmt: skip
    rows = [
        (r["quadrant"], r["meaning"], f"{r['tokens']:,}", _percent(r["share"]), _nats(r["entropy"]),
         _nats(r["divergence"]), _percent(r["part"]))
        for r in found.by_quadrant()
    ]  # fmt: skip
    return table(columns, rows, label="quadrants", empty="No tokens.")


def _rules(found: TokenDiagnosis) -> Html:
    columns = [Column("rule", "head"), Column("tokens", "number"),
               *(Column(q, "number", "of what is kept") for q in NAMES),
               *(Column(f"{q} kept", "number", "of the quadrant") for q in ("Q1", "Q3")),
               Column("part", "number", "of all divergence")]  # fmt: skip
    rows = [
        (r["rule"], f"{r['tokens']:,}", *(_percent(r["makeup"][q]) for q in NAMES), _percent(r["kept"]["Q1"]),
         _percent(r["kept"]["Q3"]), _percent(r["part"]))
        for r in found.by_rule()
    ]  # fmt: skip
    return table(columns, rows, label="rules", empty="No rules.")


def _overlap(found: TokenDiagnosis) -> Html:
    columns = [Column("", "head"), *(Column(n, "number") for n in found.kept)]
    rows = [(a, *(MISSING if x is None else f"{x:.2f}" for x in row.values())) for a, row in found.overlap().items()]
    return tag("div", table(columns, rows, label="overlap", empty="No rules."), class_="matrix")


def samples_of(
    found: TokenDiagnosis, pieces: Sequence[Sequence[str]], which: Sequence[int], notes: Mapping[int, Any] | None = None
) -> tuple[Sample, ...]:
    """Rows of the batch as texts under every rule.

    Args:
        found: the diagnosis.
        pieces: the text of each token of each row.
        which: rows to show.
        notes: row -> (name, value) pairs that are known of it.
    """
    rollouts, out = found.rollouts, []
    columns = {"entropy": rollouts.streams["entropy"], "divergence": rollouts.streams["divergence"]}
    columns |= {"forward divergence": rollouts.streams["divergence_forward"]}
    columns |= {"quadrant": found.quadrants.label.float()}
    for i in which:
        n = int(rollouts.length[i])
        counts = found.mask[i, :n].tolist()
        streams = {
            name: tuple(v if c else None for v, c in zip(x[i, :n].tolist(), counts, strict=True))
            for name, x in columns.items()
        }
        views = tuple(
            View(name, streams, tuple(c and not k for c, k in zip(counts, kept[i, :n].tolist(), strict=True)))
            for name, kept in found.kept.items()
        )
        known = tuple((notes or {}).get(i, ()))
        group = str(int(rollouts.group[i]))
        out.append(Sample(f"response {i + 1}", tuple(pieces[i]), int(rollouts.prompt_length[i]), views, notes=known,
                          group=group))  # fmt: skip
    return tuple(out)
