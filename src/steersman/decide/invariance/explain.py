"""A choice of stable variables in words: what each variable is there for, and what the worst environment does.

Leaves out: figures (`report`), computing anything new.
"""

from collections.abc import Mapping, Sequence

from steersman.decide.invariance.classes import shown
from steersman.decide.invariance.fit import CausalMinimax, Ranked
from steersman.page.number import number

ROLES = ("outcome", "mutable", "used", "adds nothing", "left out")


def roles(fit: CausalMinimax) -> dict[str, str]:
    """What each variable of the graph is in the chosen predictor, one of `ROLES`."""
    g, best = fit.graph, fit.best_

    def role(v: str) -> str:
        if v == g.target:
            return "outcome"
        if v in g.mutable:
            return "mutable"
        return "used" if v in best.core else "adds nothing" if v in best.free else "left out"

    return {v: role(v) for v in g.nodes}


def reasons(fit: CausalMinimax) -> dict[str, str]:
    """Why each stable variable is used or not, one sentence each."""
    found = {}
    for v, role in roles(fit).items():
        if role == "used":
            without = _best(fit.ranking_, lambda r, v=v: v not in r.core)
            said = "used"
            if without is not None:
                said += f"; the best class without it, {without}, has risk {number(without.risk, 4)}"
            found[v] = said
        elif role == "adds nothing":
            given = (
                f"given {shown(fit.best_.core)} it says no more" if fit.best_.core else "by the graph it says nothing"
            )
            found[v] = f"adds nothing: {given} about {fit.graph.target} while the mutable are held"
        elif role == "left out":
            within = _best(fit.ranking_, lambda r, v=v: v in r.core)
            why = f"the best class with it, {within}, has risk {number(within.risk, 4)}" if within else "not looked at"
            found[v] = f"left out; {why}"
    return found


def _best(ranking: Sequence[Ranked], keep: object) -> Ranked | None:
    assert callable(keep)
    return next((r for r in ranking if keep(r)), None)


def sentence(fit: CausalMinimax) -> str:
    """The one thing to know."""
    g, best = fit.graph, fit.best_
    if not g.mutable:
        return f"No mechanism changes: {g.target} is predicted from all variables; mean squared error {_risk(best)}."
    inputs = ", ".join([*sorted(best.core), *g.mutable])
    stable = f"stable variables {shown(best.core)}" if best.core else "no stable variable"
    lead = f"Carry {stable} and the mutable {', '.join(g.mutable)} into new environments"
    kind = "is" if fit.worst_case_.bound == "exact" and not best.folds else "is estimated as"
    return f"{lead}: predicting {g.target} from {inputs}, the largest mean squared error {kind} {_risk(best)}."


def _risk(best: Ranked) -> str:
    return f"{number(best.risk, 4)} (standard error {number(best.se, 4)})"


def search_line(fit: CausalMinimax) -> str:
    """How many subsets there are and how many classes were judged."""
    was = "was" if fit.classes_ == 1 else "were"
    what = f"{fit.classes_:,} of {fit.subsets_:,} subsets of the stable variables {was} judged"
    if fit.condition_ and fit.classes_ == 1:
        return f"The graph alone says that all stable variables together are best, so {what}."
    if not fit.exact_search_:
        return f"INEXACT search: {what}; others may be better."
    return f"One subset of each equivalence class: {what}, and the others give the same predictors."


def near_line(fit: CausalMinimax) -> str:
    """The classes that cannot be told from the best one."""
    near = [str(r) for r in fit.ranking_ if r.near_best and r is not fit.best_]
    if not near:
        return ""
    more = f" and {len(near) - 6} more" if len(near) > 6 else ""
    return f"Within one standard error of the best: {', '.join(near[:6])}{more}. --prefer smallest takes the smallest."


def worst_line(fit: CausalMinimax) -> str:
    """What the worst environment is, and what the figure promises."""
    worst = fit.worst_case_
    if not worst.policy:
        return "Nothing changes, so there is no worse environment."
    where = "; ".join(_about(fit, m, worst.rows(m)) for m in worst.policy)
    if worst.bound == "exact":
        promise = "in the world as it was estimated, none is worse"
    else:
        promise = "a search can only show that the risk is at least so large"
    return f"The worst environment found ({worst.how}; {promise}): {where}."


def _about(fit: CausalMinimax, name: str, rows: Sequence[Mapping[str, float]]) -> str:
    parents = fit.graph.parents(name)
    values = sorted({r[name] for r in rows})
    span = f"{values[0]:.4g}" if len(values) == 1 else f"between {values[0]:.4g} and {values[-1]:.4g}"
    if not parents or len(values) == 1:
        return f"{name} is held at {span}"
    return f"{name} is set {span}, by {', '.join(parents)}"
