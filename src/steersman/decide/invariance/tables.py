"""Discrete worlds counted from rows. Leaves out: what is done with them (`discrete`, `exact`)."""

from collections.abc import Mapping

import numpy as np

from steersman.core.errors import UserError
from steersman.decide.invariance.data import Columns, count
from steersman.decide.invariance.discrete import DiscreteSCM
from steersman.decide.invariance.graph import MutableSCM

PRIOR = 1.0
"""Rows that the prior of a table's line weighs: the variable's own frequencies, or an earlier world's table."""


def count_world(
    columns: Columns,
    graph: MutableSCM,
    values: Mapping[str, tuple[float, ...]],
    prior: DiscreteSCM | None = None,
) -> DiscreteSCM:
    """Tables by counting: p(v | pa) = (n(v, pa) + PRIOR q(v)) / (n(pa) + PRIOR).

    Args:
        columns: rows.
        graph: the graph; every variable is counted, the mutable ones too (their pooled mechanism).
        values: levels of every variable.
        prior: q = its tables, which lines without rows keep; None = the variable's own frequencies.

    Raises:
        UserError: a value that is not among the levels.
    """
    rows = count(columns)
    if not rows:
        raise UserError("has no rows", where="discrete world")
    shell = DiscreteSCM(graph, values, {v: _flat(graph, values, v) for v in graph.nodes})
    places = {v: shell.places(columns, v) for v in graph.nodes}
    tables = {}
    for v in graph.nodes:
        around = (*graph.parents(v), v)
        shape = tuple(len(values[a]) for a in around)
        index = np.ravel_multi_index(tuple(places[a] for a in around), shape)
        seen = np.bincount(index, minlength=int(np.prod(shape))).reshape(shape).astype(float)
        q = prior.tables[v] if prior is not None else np.bincount(places[v], minlength=shape[-1]) / rows
        tables[v] = (seen + PRIOR * q) / (seen.sum(-1, keepdims=True) + PRIOR)
    return DiscreteSCM(graph, values, tables)


def _flat(graph: MutableSCM, values: Mapping[str, tuple[float, ...]], name: str) -> np.ndarray:
    shape = tuple(len(values[a]) for a in (*graph.parents(name), name))
    return np.full(shape, 1.0 / shape[-1])
