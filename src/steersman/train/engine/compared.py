"""Divergences of the policy from a model of the engine, or from an analytic teacher, at tokens of rollouts.

Leaves out: the computation (`language.compare`), which rows go together (`local`, `distributed`).
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from steersman.core.component import Form
from steersman.core.types import Rollouts
from steersman.language.compare import Compared, Known, Side, compare, other_side, places
from steersman.language.head_divergence import Mixed
from steersman.train.terms import Live, Term, against_of, compared, union


def side_of(engine: Any, by: str, part: Rollouts, shown: Rollouts, chosen: Tensor, temperature: float) -> Side:
    """The other side at the chosen tokens of `part`: one call of its trunk on `shown`, or none of an analytic one.

    Into a teacher that is mixed with the policy goes a second call, of the policy on `shown`.
    """
    rows, columns = places(chosen, part, shown)
    if by == "teacher" and engine.known is not None:
        side: Side = Known(engine.known, shown.ids, rows, columns, temperature)
    else:
        side = engine.through(by, other_side, shown, rows, columns, temperature)
    if by == "teacher" and engine.teacher_mix:
        side = Mixed(side, engine.through("policy", other_side, shown, rows, columns, temperature), engine.teacher_mix)
    return side


def scored_against(
    engine: Any, part: Rollouts, shown: Rollouts, by: str, asked: Sequence[Any], temperature: float
) -> dict[Any, Tensor]:
    """What `LocalEngine.compare` gives of some rows on the engine's device, without gradients."""
    forms = tuple(q for q in asked if isinstance(q, Form))
    side = side_of(engine, by, part, shown, part.action, temperature)
    options = {"temperature": temperature, "who": f"the {by}", "shared": engine.shared_vocabulary}
    found: Compared = engine.through("policy", compare, part, part.action, side, forms, **options)
    told: dict[Any, Tensor] = dict(zip(forms, found.divergence, strict=True))
    return {q: x for q, x in (told | {"logp": found.logp, "entropy": found.entropy}).items() if q in asked}


def live_against(engine: Any, part: Rollouts, shown: Rollouts, terms: tuple[Term, ...], temperature: float) -> Live:
    """What one forward of the policy gives with gradients, the divergence that some of `terms` reads among it."""
    against = against_of(terms)
    assert against is not None
    chosen = compared(terms, part)
    side = side_of(engine, against.by, part, shown, chosen, temperature)
    options = {"temperature": temperature, "who": f"the {against.by}", "shared": engine.shared_vocabulary}
    options["reads"] = union(terms, part, "policy")
    found: Compared = engine.through("policy", compare, part, chosen, side, (against.form,), **options)
    blank = torch.zeros(part.ids.shape, device=part.ids.device)
    return replace(Live(found.logp, found.entropy, blank), divergence=found.divergence[0])
