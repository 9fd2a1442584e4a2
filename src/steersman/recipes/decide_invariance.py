"""Which stable variables to carry into new environments, from a data file: `steersman decide invariance`.

Leaves out: the methods (`decide.invariance`), the command line (`cli.decide_invariance`).
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from steersman.core.errors import UserError
from steersman.decide.conjoint import read_csv
from steersman.decide.invariance import (
    CausalMinimax,
    Data,
    OverExtensions,
    PartialGraph,
    Ranked,
    baselines,
    discover,
    fit_extensions,
    invariance_notes,
    largest_error,
)
from steersman.decide.invariance.explain import near_line, reasons, roles, search_line, sentence, worst_line
from steersman.decide.invariance.report import page
from steersman.page.html import Html

MOST_RANKED = 200
"""Classes that the figures list."""


@dataclass(frozen=True, slots=True)
class InvarianceQuestion:
    """What is asked.

    Args:
        data: CSV file, one row for each unit.
        outcome: column to predict.
        mutable: columns whose mechanism differs between environments.
        environment: column of the environment; None = not known, which needs edges.
        edges: the graph as text; None = learn it from the data.
        alpha, test: level and kind of the tests that learn it.
        options: everything else, with a graph that is replaced.
        baselines: judge other ways to predict as well.
        predict: CSV file with rows to predict; None = none.
    """

    data: Path
    outcome: str
    mutable: tuple[str, ...]
    environment: str | None = None
    edges: str | None = None
    alpha: float = 0.01
    test: str = "partial"
    options: dict[str, Any] | None = None
    baselines: bool = True
    predict: Path | None = None


@dataclass(frozen=True, slots=True)
class InvarianceAnswer:
    """The figures as JSON values, the page, and predictions where rows were given."""

    summary: dict[str, Any]
    page: Html
    predictions: np.ndarray | None = None


def decide(asked: InvarianceQuestion, say: Callable[[str], None] = lambda line: None) -> InvarianceAnswer:
    """Read, learn the graph where none is given, search, judge.

    Args:
        asked: what is asked.
        say: told what is being done, a line each.

    Raises:
        UserError: a file, a column, a graph or an option that cannot be used.
    """
    frame = read_csv(asked.data)
    partial, notes = _graph(asked, frame, say)
    graphs = partial.extensions()
    options = CausalMinimax(graphs[0], **{**(asked.options or {}), "say": say})
    over = fit_extensions(options, graphs, frame, asked.environment, say)
    fit = over.best
    data = Data.from_frame(frame, fit.graph.nodes, asked.environment)
    notes += invariance_notes(data, fit.graph)
    notes += [n for n in fit.notes_ if n not in notes]
    others = _others(asked, fit, data, say)
    told = None
    if asked.predict is not None:
        say(f"predicting the rows of {asked.predict}")
        told = fit.predict(read_csv(asked.predict))
    summary = _summary(asked, over, partial, data, others, notes)
    facts = {
        "rows": f"{len(data):,}", "environments": str(len(data.environments) or "not named"),
        "regressor": summary["regressor"], "adversary": fit.worst_case_.how,
        "mutable range": "; ".join(f"{m} {r}" for m, r in summary["mutable_range"].items()) or "none",
        "status": fit.status_,
    }  # fmt: skip
    return InvarianceAnswer(summary, page(over, others, partial.undirected, facts, notes), told)


def _graph(
    asked: InvarianceQuestion, frame: dict[str, list[str]], say: Callable[[str], None]
) -> tuple[PartialGraph, list[str]]:
    """The graph that was given, or one learnt from all columns."""
    for name in (asked.outcome, *asked.mutable, *((asked.environment,) if asked.environment else ())):
        if name not in frame:
            raise UserError(f"there is no column {name!r}", where=str(asked.data), allowed=", ".join(frame))
    if asked.outcome in asked.mutable:
        raise UserError(f"the outcome {asked.outcome!r} is mutable", where="--mutable",
                        allowed="columns other than the outcome")  # fmt: skip
    if asked.environment in (asked.outcome, *asked.mutable):
        raise UserError(f"{asked.environment!r} is the environment and a variable", where="--environment")
    if asked.edges is not None:
        partial = PartialGraph.from_text(asked.edges, asked.outcome, asked.mutable)
        named = {v for e in (*partial.directed, *partial.undirected) for v in e}
        if asked.environment in named:
            raise UserError(f"{asked.environment!r} is the environment and stands in the graph", where="--edges",
                            cure="leave it out: which mechanisms it changes is what --mutable says")  # fmt: skip
        unknown = sorted(named - set(frame))
        if unknown:
            raise UserError(f"{unknown} are no columns", where="--edges", allowed=", ".join(frame))
        rest = [c for c in frame if c not in named and c != asked.environment]
        return partial, [f"Not in the graph, so not used: {', '.join(rest)}."] if rest else []
    if asked.environment is None:
        raise UserError("neither a graph nor environments to learn one from", where="--edges",
                        cure="--edges 'Y->M, M->X1, Y->X1' (or a file of edges), or --environment COLUMN")  # fmt: skip
    names = [c for c in frame if c != asked.environment]
    data = Data.from_frame(frame, names, asked.environment)
    if still := [v for v in names if float(np.ptp(data.columns[v])) == 0.0 and v != asked.outcome]:
        data = Data({k: v for k, v in data.columns.items() if k not in still}, data.env)
    say(f"learning the graph of {len(data.columns)} variables")
    found = discover(data, asked.outcome, asked.mutable, asked.alpha, asked.test)
    notes = list(found.notes)
    if still:
        notes.append(f"Constant, left out: {', '.join(still)}.")
    if not any(asked.outcome in e for e in (*found.graph.directed, *found.graph.undirected)):
        notes.append(f"WARNING: no test ties {asked.outcome} to any variable, so by this graph it cannot be predicted. "
                     "Give the graph with --edges.")  # fmt: skip
    return found.graph, notes


def _others(asked: InvarianceQuestion, fit: CausalMinimax, data: Data, say: Callable[[str], None]) -> dict[str, Ranked]:
    """Worst-case risk of each baseline by the same folds and search; those that need environments only with them."""
    if not asked.baselines or fit.adversary == "gradient":
        return {}
    found: dict[str, Ranked] = {}
    for name, make in baselines(fit.graph, fit.regressor, fit.seed).items():
        say(f"judging {name}")
        try:
            found[name] = fit.judge(make)
        except UserError as error:
            say(f"  left out: {error.what}")
    return found


def _summary(
    asked: InvarianceQuestion,
    over: OverExtensions,
    partial: PartialGraph,
    data: Data,
    others: dict[str, Ranked],
    notes: list[str],
) -> dict[str, Any]:
    fit = over.best
    worst = fit.worst_case_
    seen: dict[str, Any] = {}
    if data.env is not None:
        error, where = largest_error(fit.predictor_, data.columns, asked.outcome, data.env)
        seen = {"largest_error_in_rows_seen": error, "its_environment": where}
    return {
        "outcome": asked.outcome, "mutable": list(asked.mutable), "rows": len(data),
        "environments": list(data.environments), "edges": [f"{a}->{b}" for a, b in partial.directed],
        "undirected": [f"{a}--{b}" for a, b in partial.undirected], "graph_given": asked.edges is not None,
        "graphs_that_fit": len(over.fitted), "whole_set_optimal": fit.condition_.holds,
        "condition": fit.condition_.reason, "status": fit.status_, "sentence": sentence(fit),
        "chosen": sorted(fit.best_.core), "adds_nothing": sorted(fit.best_.free), "inputs": list(fit.inputs_),
        "worst_case_risk": fit.best_.risk, "se": fit.best_.se, "classes": fit.classes_, "subsets": fit.subsets_,
        "exact_search": fit.exact_search_, "ranking": [_ranked(r) for r in fit.ranking_[:MOST_RANKED]],
        "roles": roles(fit), "reasons": reasons(fit), "baselines": {k: _risk(r) for k, r in others.items()},
        "regressor": "tables" if worst.bound == "exact" and worst.policy else str(fit.regressor),
        "mutable_range": {m: _range(fit, data, m) for m in fit.graph.mutable},
        "worst_case": {
            "how": worst.how, "bound": worst.bound, "risk": worst.risk, "starts": list(worst.starts),
            "policy": {m: worst.rows(m) for m in worst.policy},
        },
        "risk_over_graphs": over.risks.tolist(), **seen,
        "said": [x for x in (search_line(fit), near_line(fit), worst_line(fit)) if x], "notes": notes,
    }  # fmt: skip


def _range(fit: CausalMinimax, data: Data, name: str) -> str:
    from steersman.decide.invariance.ranges import ranges_of

    return str(ranges_of(data.columns, fit.graph.mutable, fit.mutable_range)[name])


def _ranked(r: Ranked) -> dict[str, Any]:
    return {"core": sorted(r.core), "free": sorted(r.free), **_risk(r), "near_best": r.near_best}


def _risk(r: Ranked) -> dict[str, float]:
    return {"risk": r.risk, "se": r.se}
