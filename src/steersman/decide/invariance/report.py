"""The page of a choice of stable variables: the graph, the ranking, the worst environment.

Leaves out: the figures themselves (`page`), words (`explain`), computing anything.
"""

from collections.abc import Mapping, Sequence

from steersman.decide.invariance.classes import shown
from steersman.decide.invariance.explain import near_line, reasons, roles, search_line, sentence, worst_line
from steersman.decide.invariance.extensions import OverExtensions
from steersman.decide.invariance.fit import CausalMinimax, Ranked
from steersman.page.dag import Graph, dag
from steersman.page.figures import Line, Panel, curves
from steersman.page.forest import Forest, Row, forest
from steersman.page.html import Column, Html, section, shell, table, tag
from steersman.page.number import Estimate, number
from steersman.page.theme import Mark, marks

MOST_CLASSES = 14
KINDS = {
    "outcome": Mark("var(--arm-6)", ""),
    "mutable": Mark("var(--arm-1)", "5 3"),
    "used": Mark("var(--arm-2)", ""),
    "adds nothing": Mark("var(--arm-5)", ""),
    "left out": Mark("var(--faint)", ""),
}


def page(
    over: OverExtensions,
    others: Mapping[str, Ranked],
    undirected: Sequence[tuple[str, str]],
    facts: Mapping[str, str],
    notes: Sequence[str],
) -> Html:
    """A self-contained page.

    Args:
        over: what was fitted.
        others: worst-case risk of each baseline.
        undirected: edges of the given or learnt graph that had no direction.
        facts: what was fitted, by name.
        notes: what a reader must know.
    """
    fit = over.best
    told = tag("dl", *(x for k, v in facts.items() for x in (tag("dt", k), tag("dd", v))), class_="facts")
    noted = tag("ul", *(tag("li", n) for n in notes), class_="notes") if notes else None
    parts = [
        section("The graph", tag("div", graph_figure(fit, undirected), class_="figures"), _why(fit), anchor="graph",
                lead=fit.condition_.reason),
        section("Which stable variables", tag("div", ranking_figure(fit, others), class_="figures"),
                anchor="ranking", lead=" ".join(filter(None, (search_line(fit), near_line(fit))))),
        section("The worst environment", *_worst(fit), anchor="worst", lead=worst_line(fit)),
    ]  # fmt: skip
    if len(over.fitted) > 1:
        parts.append(_extensions(over))
    title = f"What to carry over to predict {fit.graph.target}"
    return shell(title, tag("h1", title), tag("p", sentence(fit), class_="sentence"), told, noted, *parts)


def graph_figure(fit: CausalMinimax, undirected: Sequence[tuple[str, str]] = ()) -> Html:
    """The graph; edges that break the condition are bold, and those without a direction dashed."""
    open_ = {frozenset(e) for e in undirected}
    broken = set(fit.condition_.edges)
    edges = tuple(
        (a, b, "dashed" if frozenset((a, b)) in open_ else "bold" if (a, b) in broken else "solid")
        for a, b in fit.graph.edges
    )
    note = "Bold: the edge that breaks the condition. " if broken else ""
    note += "Dashed: the data give no direction." if open_ else ""
    return dag(Graph("Causes above their effects", roles(fit), edges, note), KINDS)  # type: ignore[arg-type]


def ranking_figure(fit: CausalMinimax, others: Mapping[str, Ranked]) -> Html:
    """Worst-case risks of the best classes, the whole stable set and the baselines."""
    listed = fit.ranking_[:MOST_CLASSES]
    whole = next((r for r in fit.ranking_ if fit.graph.stable and set(fit.graph.stable) <= r.core | r.free), None)
    if whole is not None and whole not in listed:
        listed = [*listed, whole]
    classes = tuple(Row(_name(r, whole), {"worst-case risk": _estimate(r)}, fit.best_.risk) for r in listed)
    rest = tuple(Row(n, {"worst-case risk": _estimate(r)}, fit.best_.risk) for n, r in others.items())
    cut = f" The {len(listed)} of {len(fit.ranking_)} that matter most." if len(listed) < len(fit.ranking_) else ""
    note = "Mean over folds and two standard errors. Dashed: the class that was chosen." + cut
    groups = (("stable variables used, one set of each class", classes), ("other ways to predict", rest))
    given = Forest("Worst-case risk", "largest mean squared error found", tuple(g for g in groups if g[1]), note=note)
    return forest(given, marks(["worst-case risk"]))


def _name(r: Ranked, whole: Ranked | None) -> str:
    return f"{r} (all stable)" if r is whole else str(r)


def _estimate(r: Ranked) -> Estimate:
    return Estimate(r.risk, r.risk - 2 * r.se, r.risk + 2 * r.se, "", 0.95)


def _why(fit: CausalMinimax) -> Html:
    rows = [(v, why) for v, why in reasons(fit).items()]
    return table((Column("stable variable", "head"), Column("why")), rows, label="why each variable is used or not",
                 empty="There is no stable variable.")  # fmt: skip


def _worst(fit: CausalMinimax) -> list[Html]:
    """Each intervention: a curve where it follows one continuous parent, else a table."""
    out = []
    for m in fit.worst_case_.policy:
        rows, parents = fit.worst_case_.rows(m), fit.graph.parents(m)
        if len(parents) == 1 and len(rows) > 12:
            x, y = zip(*sorted((r[parents[0]], r[m]) for r in rows), strict=True)
            line = Line(m, x, (), y, y, y)
            panel = Panel(f"{m} in the worst environment", parents[0], m, (line,), note="The adversary's choice.")
            out.append(tag("div", curves(panel, marks([m])), class_="figures"))
            continue
        columns = (*(Column(p, "number") for p in parents), Column(f"{m} is set to", "number"))
        cells = [[number(r[p], None) for p in (*parents, m)] for r in rows[:MOST_CLASSES]]
        out.append(table(columns, cells, label=f"intervention on {m}", empty="Held fixed."))
    if len(fit.worst_case_.starts) > 1:
        starts = ", ".join(number(s, 4) for s in fit.worst_case_.starts)
        out.append(tag("p", f"Risks of all starts of the search: {starts}.", class_="note"))
    return out


def _extensions(over: OverExtensions) -> Html:
    rows = []
    for i, f in enumerate(over.fitted):
        ends = f"{number(over.risks[i].min(), 4)} to {number(over.risks[i].max(), 4)}"
        chosen = "chosen" if i == over.chosen else ""
        rows.append((f"graph {i + 1}", _edges(over, i), str(f.best_), number(f.best_.risk, 4), ends, chosen))
    columns = (
        Column("graph", "head"), Column("its own edges"), Column("best class"), Column("risk there", "number"),
        Column("risk over all graphs", "number"), Column(""),
    )  # fmt: skip
    lead = (
        "The edges do not tell which graph holds. The predictor whose largest risk over all of them is smallest wins."
    )
    return section(
        "Graphs that fit", table(columns, rows, label="graphs that fit", empty=""), anchor="graphs", lead=lead
    )


def _edges(over: OverExtensions, i: int) -> str:
    common = set.intersection(*(set(f.graph.edges) for f in over.fitted))
    return ", ".join(f"{a}->{b}" for a, b in over.fitted[i].graph.edges if (a, b) not in common) or shown(())
