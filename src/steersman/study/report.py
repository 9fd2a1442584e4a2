"""The report of a study as one self-contained HTML page.

Input is plain data that any study can fill in; output is ``index.html``, which needs no network and no other file.
Leaves out: computing estimates, tests or verdicts (`stats`), the list of all studies (`study.catalogue`), and serving
pages. Source: none; the order of the page is: what came out, verdicts, curves, arms against each other, samples, how
to repeat it.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from steersman.core.errors import UserError
from steersman.page.axis import Scale
from steersman.page.figures import Line, Panel, curves, row_interval, row_scale, swatch
from steersman.page.html import Column, Html, join, link, section, shell, table, tag
from steersman.page.number import MISSING, Estimate, exact, interval, is_missing, number, p_value, point
from steersman.page.theme import Mark, marks
from steersman.page.tokens import Sample, StreamInfo, View, token_view
from steersman.store.files import write_text

__all__ = [
    "ClaimRow", "CostRow", "Difference", "Estimate", "Line", "NotTested", "Panel", "Report", "Sample",
    "StreamInfo", "Verdict", "View", "page", "render", "tally",
]  # fmt: skip

Verdict = Literal["supported", "contradicted", "inconclusive", "not testable here"]
_VERDICTS: tuple[Verdict, ...] = get_args(Verdict)
# A symbol for each verdict, so that the word never depends on colour alone: 16 x 16, drawn with the text's colour.
_SYMBOLS = {
    "supported": "M3.5 8.5l3 3 6-7",
    "contradicted": "M4 4l8 8M12 4l-8 8",
    "inconclusive": "M3 9.5c1.5-3 3.5-3 5-1.5s3.5 1.5 5-1.5",
    "not testable here": "M4 8h8",
}


@dataclass(frozen=True, slots=True)
class ClaimRow:
    """One claim with what the paper says, what was measured, and the verdict.

    Args:
        id: short key such as "B1"; text: the claim in words; paper: the paper's figure with its place.
        estimate: ours, or ``None`` where nothing was measured (`reason` then says why).
        n_seeds: runs behind the estimate.
        reference: the value under the null hypothesis, drawn as a line; margin: half-width of the zone around it
            within which a difference does not matter.
        verdict, reason: the word and, briefly, why.
        test: name of the test; p_value, p_corrected: before and after correction over the study's claims.
        equal: what was held equal between the arms compared.
        counted: what `n_seeds` counts, where it is not seeds.
    Raises: ValueError for an unknown verdict, or for a missing estimate without a reason.
    """

    id: str
    text: str
    paper: str
    estimate: Estimate | None
    n_seeds: int
    reference: float | None
    margin: float | None
    verdict: Verdict
    reason: str
    test: str
    p_value: float | None
    p_corrected: float | None
    equal: str
    counted: str = "seeds"

    def __post_init__(self) -> None:
        if self.verdict not in _VERDICTS:
            raise ValueError(f"claim {self.id}: verdict {self.verdict!r} is not one of {', '.join(_VERDICTS)}")
        if (self.estimate is None or is_missing(self.estimate.value)) and not self.reason:
            raise ValueError(f"claim {self.id}: a missing estimate needs a reason")


@dataclass(frozen=True, slots=True)
class Difference:
    """Arm `a` minus arm `b` in one metric."""

    a: str
    b: str
    metric: str
    estimate: Estimate


@dataclass(frozen=True, slots=True)
class CostRow:
    """What one arm cost, all its runs together; ``None`` where it was not measured."""

    arm: str
    runs: int
    cpu_seconds: float | None
    tokens: int | None
    peak_mib: float | None
    note: str = ""


@dataclass(frozen=True, slots=True)
class NotTested:
    """Something the paper did that this study cannot, and why."""

    what: str
    why: str


@dataclass(frozen=True, slots=True)
class Report:
    """Everything a report shows, in the order of the page.

    Args:
        study: key of the study; title, sentence: heading and result in plain words; mode: such as "quick".
        created: date and time as text; stale: whether finished runs were made by other code than is installed.
        claims, panels, differences, cost, samples, streams: the parts of the page; any may be empty.
        command: the exact command; versions: name to version; machine: one line.
        equal: what all arms share; not_tested: what is missing and why.
        method_page: link to the method's page, or "".
        downloads: (label, name of a file in the report's folder).
    """

    study: str
    title: str
    sentence: str
    mode: str
    created: str
    stale: bool
    claims: tuple[ClaimRow, ...]
    panels: tuple[Panel, ...]
    differences: tuple[Difference, ...]
    cost: tuple[CostRow, ...]
    samples: tuple[Sample, ...]
    streams: tuple[StreamInfo, ...]
    command: str
    versions: Mapping[str, str]
    machine: str
    equal: str
    not_tested: tuple[NotTested, ...]
    method_page: str = ""
    downloads: tuple[tuple[str, str], ...] = ()

    def arms(self) -> list[str]:
        """Names of all arms, in the order in which the report first names them."""
        names = [line.arm for panel in self.panels for line in panel.lines] + [row.arm for row in self.cost]
        names += [arm for d in self.differences for arm in (d.a, d.b)]
        return list(dict.fromkeys([*names, *(view.arm for s in self.samples for view in s.views)]))


def render(report: Report, folder: Path) -> Path:
    """Write a report as ``index.html`` in `folder`, atomically.

    Args:
        report: the data.
        folder: made if missing; files named in ``report.downloads`` must already be there.
    Returns: the path of the page.
    Raises: UserError for a download that is not a file in the folder; RunStopped when the page cannot be written.
    """
    for label, name in report.downloads:
        if Path(name).name != name or not (folder / name).is_file():
            cure = "write it before the report is made"
            raise UserError(f"download {label!r} names {name!r}, no file in {folder}", where="report", cure=cure)
    path = folder / "index.html"
    write_text(path, page(report))
    return path


def page(report: Report) -> Html:
    """The report as one HTML document."""
    drawn = marks(report.arms())
    figures = [curves(panel, drawn) for panel in report.panels]
    plots = tag("div", *figures, class_="figures") if figures else tag("p", "No curves were recorded.", class_="empty")
    lead = "Thin lines are single seeds, thick lines their mean, bands its interval." if figures else ""
    return shell(
        report.title,
        _head(report),
        section("Verdicts", _claims(report.claims), anchor="verdicts"),
        section("Curves", plots, anchor="curves", lead=lead),
        section("Arms against each other", _arms(report, drawn), anchor="arms"),
        section("Samples", token_view(report.samples, report.streams, drawn), anchor="samples"),
        section("How to repeat it", _repeat(report), anchor="repeat"),
    )


def _head(report: Report) -> Html:
    stale = report.stale and tag("span", "stale: made by other code than is installed now", class_="stale")
    facts = [tag("span", f"{report.study}, {report.mode}"), tag("span", report.created), stale or tag("span", "fresh")]
    return tag(
        "header",
        tag("h1", report.title),
        tag("p", report.sentence, class_="sentence"),
        tag("p", *facts, class_="meta"),
    )


def _css(verdict: str) -> str:
    return "untestable" if verdict == "not testable here" else verdict


def _verdict(verdict: str, name: str = "span", text: str | None = None, **attributes: object) -> Html:
    ring = tag("circle", cx=8, cy=8, r=7.2, fill="none", stroke="currentColor", stroke_width=1, opacity=0.45)
    path = tag("path", d=_SYMBOLS[verdict], fill="none", stroke="currentColor", stroke_width=1.8)
    symbol = tag("svg", ring, path, viewBox="0 0 16 16", aria_hidden="true")
    return tag(name, symbol, text or verdict, class_=f"verdict {_css(verdict)}", **attributes)


def tally(counts: Mapping[str, int]) -> Html:
    """How many claims have which verdict, as a list of symbols and words; nothing where there are no claims."""
    items = [tag("li", _verdict(v, text=f"{counts[v]} {v}")) for v in _VERDICTS if counts.get(v)]
    return tag("ul", *items, class_="tally") if items else Html("")


def _claims(claims: Sequence[ClaimRow]) -> Html:
    columns = [
        Column("Claim", "head"), Column("Paper"), Column("Here", "number"),
        Column("Estimate and interval", "figure"), Column("Verdict"),
    ]  # fmt: skip
    units = [c.estimate.unit if c.estimate else None for c in claims]
    scales = {
        unit: row_scale([(c.estimate, c.reference, c.margin) for c, u in zip(claims, units, strict=True) if u == unit])
        for unit in set(units)
    }
    drawn = [i for i, c in enumerate(claims) if c.estimate is not None and not is_missing(c.estimate.value)]
    last = {i for k, i in enumerate(drawn) if k + 1 == len(drawn) or units[drawn[k + 1]] != units[i]}
    rows = [_claim(c, scales[u], ticks=i in last) for i, (c, u) in enumerate(zip(claims, units, strict=True))]
    note = (
        "Claims in one unit share an axis. The dashed line is the value that would mean no effect; the shaded zone is "
        "the margin within which a difference does not matter. A verdict opens its test."
    )
    whole = table(
        columns, rows, label="claims and verdicts", empty="This study states no claims.", stack=True,
        details=[_detail(c) for c in claims],
    )  # fmt: skip
    return join(tally(Counter(c.verdict for c in claims)), whole, tag("p", note, class_="note") if claims else "")


def _claim(claim: ClaimRow, scale: Scale, *, ticks: bool) -> list[object]:
    name = tag("div", tag("b", claim.id), claim.text, class_="claim")
    e, figure = claim.estimate, Html("")
    counted = claim.counted.removesuffix("s") if claim.n_seeds == 1 else claim.counted
    seeds = f"{claim.n_seeds:,} {counted}"
    here: Html = join(MISSING)
    if e is not None and not is_missing(e.value):
        signed = claim.reference == 0
        unit = tag("small", e.unit, class_="unit") if e.unit else ""
        here = join(point(e, signed=signed), tag("small", interval(e, signed=signed)), unit, tag("small", seeds))
        figure = row_interval(e, scale, reference=claim.reference, margin=claim.margin, ticks=ticks)
    verdict = join(_verdict(claim.verdict, "button", type="button"), tag("small", claim.reason, class_="reason"))
    return [name, claim.paper or MISSING, here, figure, verdict]


def _facts(pairs: Sequence[tuple[str, object]], **attributes: object) -> Html:
    kept = [(k, v) for k, v in pairs if v not in (None, "")]
    return tag("dl", *(join(tag("dt", k), tag("dd", v)) for k, v in kept), **attributes)


def _detail(claim: ClaimRow) -> Html:
    e = claim.estimate
    tested = claim.p_value is not None or claim.p_corrected is not None
    p = f"{p_value(claim.p_corrected)} after correction, {p_value(claim.p_value)} before"
    return _facts(
        [
            ("Test", claim.test or "none was made"),
            ("p-value", p if tested else ""),
            (
                "Interval",
                f"{100 * e.level:g} %, over {claim.n_seeds:,} {claim.counted}" if e and not is_missing(e.value) else "",
            ),
            ("No effect at", exact(claim.reference) if claim.reference is not None else ""),
            ("Margin", f"± {exact(claim.margin)}" if claim.margin is not None else ""),
            ("Held equal", claim.equal),
        ]
    )


def _arms(report: Report, drawn: Mapping[str, Mark]) -> Html:
    metrics = dict.fromkeys(d.metric for d in report.differences)
    parts = [_differences([d for d in report.differences if d.metric == m], m, drawn) for m in metrics]
    if not parts:
        parts = [tag("p", "No differences between arms were computed.", class_="empty")]
    sides = [tag("div", *parts), tag("div", tag("h3", "Cost"), _cost(report.cost, drawn), class_="cost")]
    equal = report.equal and tag("p", tag("b", "Equal for all arms: "), report.equal)
    return join(equal, tag("div", *sides, class_="beside"))


def _differences(rows: Sequence[Difference], metric: str, drawn: Mapping[str, Mark]) -> Html:
    """Against one arm: a table with intervals drawn; otherwise a matrix of row minus column."""
    baselines = {d.b for d in rows}
    if len(baselines) == 1:
        scale = row_scale([(d.estimate, 0.0, None) for d in rows])
        columns = [Column("Arm", "head"), Column("Difference", "number"), Column("Interval", "figure")]
        cells = [
            (
                swatch(d.a, drawn[d.a]),
                join(point(d.estimate, signed=True), tag("small", interval(d.estimate, signed=True))),
                row_interval(d.estimate, scale, reference=0.0, ticks=i + 1 == len(rows), colour=drawn[d.a].colour),
            )
            for i, d in enumerate(rows)
        ]
        title = f"{_with_unit(metric, rows)}: arm minus {rows[0].b}"
        return join(tag("h3", title), table(columns, cells, label=title, empty=""))
    known = {(d.b, d.a): d.estimate.negated() for d in rows} | {(d.a, d.b): d.estimate for d in rows}
    named = {arm for d in rows for arm in (d.a, d.b)}
    names = [arm for arm in drawn if arm in named]
    head = tag("tr", tag("td"), *(tag("th", swatch(b, drawn[b]), scope="col") for b in names))
    body = [
        tag(
            "tr", tag("th", swatch(a, drawn[a]), scope="row"), *(_matrix_cell(known.get((a, b)), a == b) for b in names)
        )
        for a in names
    ]
    title = f"{_with_unit(metric, rows)}: row minus column"
    whole = tag("table", tag("thead", head), tag("tbody", *body))
    box = tag("div", whole, class_="scroll matrix", tabindex="0", role="region", aria_label=title)
    return join(tag("h3", title), box, tag("p", "Bold: the interval leaves out zero.", class_="note"))


def _with_unit(metric: str, rows: Sequence[Difference]) -> str:
    unit = rows[0].estimate.unit
    return f"{metric} ({unit})" if unit else metric


def _matrix_cell(estimate: Estimate | None, self_: bool) -> Html:
    if self_:
        return tag("td", "·", class_="self")
    if estimate is None:
        return tag("td", MISSING, title="not compared")
    if is_missing(estimate.value):
        return tag("td", MISSING, title="no value could be computed")
    clear = estimate.low > 0 or estimate.high < 0
    inside = tag("small", interval(estimate, signed=True))
    return tag("td", point(estimate, signed=True), inside, class_="clear" if clear else None)


def _cost(rows: Sequence[CostRow], drawn: Mapping[str, Mark]) -> Html:
    columns = [Column("Arm", "head"), Column("Runs", "number"), Column("CPU", "number", "seconds")]
    columns += [Column("Tokens", "number"), Column("Peak", "number", "MiB")]
    noted = any(row.note for row in rows)
    cells = []
    for r in rows:
        measured = (number(r.cpu_seconds, 1), number(r.tokens, 0), number(r.peak_mib, 0))
        cells.append([swatch(r.arm, drawn[r.arm]), number(r.runs, 0), *measured, *([r.note] if noted else [])])
    unmeasured = any(is_missing(v) for r in rows for v in (r.cpu_seconds, r.tokens, r.peak_mib))
    whole = table([*columns, *([Column("Note")] if noted else [])], cells, label="cost", empty="No cost was recorded.")
    return join(whole, unmeasured and tag("p", f"{MISSING}: not measured.", class_="note"))


def _repeat(report: Report) -> Html:
    versions = ", ".join(f"{name} {version}" for name, version in report.versions.items())
    missing = table(
        [Column("Not tested", "head"), Column("Why")], [(n.what, n.why) for n in report.not_tested],
        label="what was not tested", empty="Nothing that the paper tested was left out.",
    )  # fmt: skip
    links = [link(label, name) for label, name in report.downloads]
    online = ":" in report.method_page
    links += [link("the method's page", report.method_page)] if online else []
    page = "" if online else report.method_page  # a path inside the project, which a report that was moved cannot link
    return join(
        tag("pre", tag("code", report.command), tabindex="0", aria_label="command"),
        _facts(
            [
                ("Versions", versions),
                ("Machine", report.machine),
                ("Made", report.created),
                ("Method", page),
            ],
            class_="facts",
        ),
        tag("p", *links, class_="links") if links else "",
        missing,
    )
