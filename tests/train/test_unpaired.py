"""KTO: mismatched pairs, z0 over the whole step, weights of both kinds, held-out separation."""

import math
from dataclasses import replace
from typing import Any

import pytest
import tiny_language as tiny
import torch
from torch import Tensor

from steersman.core.errors import UserError
from steersman.core.types import Rollouts
from steersman.objective.components import KTO
from steersman.train.optimise import AdamW, Optimiser
from steersman.train.preference import summed_logp
from steersman.train.unpaired import UnpairedLearner, mismatched

CLOSE = 1e-5  # log-ratios of a few float32 log-probs
LIKED = torch.tensor([True, False, True, True, False, False, True, False])


def words(rollouts: Rollouts) -> list[tuple[list[int], list[int]]]:
    """(prompt, response) of each row."""
    rows = [r[:n].tolist() for r, n in zip(rollouts.ids, rollouts.length.tolist(), strict=True)]
    return [(r[:p], r[p:]) for r, p in zip(rows, rollouts.prompt_length.tolist(), strict=True)]


def learner(policy: Any, reference: Any, loss: KTO, liked: Tensor = LIKED, **known: Any) -> UnpairedLearner:
    rows = tiny.responses(tiny.FIRST, 1)
    other = mismatched(rows)
    scored = summed_logp(reference, rows, 64), other, summed_logp(reference, other, 64)
    optimiser = Optimiser(policy.named_parameters(), AdamW(lr=1e-3), 9)
    return UnpairedLearner(policy, rows, liked, *scored, loss, optimiser, known.pop("micro", 30), **known)


def test_mismatched_is_a_rotation_by_one_where_all_prompts_differ() -> None:
    rows = words(tiny.responses(tiny.FIRST, 1))
    found = words(mismatched(tiny.responses(tiny.FIRST, 1)))
    assert found == [(prompt, rows[(i + 1) % 8][1]) for i, (prompt, _) in enumerate(rows)]


def test_rows_with_the_same_prompt_are_passed_over_around_the_end() -> None:
    rows = tiny.responses(tiny.FIRST, 1).index(torch.tensor([0, 0, 1, 0, 0]))
    both = words(rows)
    sources = [2, 2, 3, 2, 2]
    assert words(mismatched(rows)) == [(both[i][0], both[j][1]) for i, j in enumerate(sources)]
    with pytest.raises(UserError, match="two different prompts"):
        mismatched(rows.index(torch.tensor([0, 1])))


def test_a_mismatched_row_is_cut_where_the_model_ends() -> None:
    rows = tiny.responses(tiny.FIRST, 1)
    whole = words(mismatched(rows))
    cut = mismatched(rows, int(rows.length.max()))
    assert [p + r for p, r in words(cut)] == [(p + r)[: int(rows.length.max())] for p, r in whole]
    assert int(mismatched(rows).length.max()) > int(rows.length.max()) == int(cut.length.max())
    assert bool(cut.action.any(1).all())


@pytest.mark.parametrize("swap", [False, True])
def test_loss_and_reference_kl_by_hand(swap: bool) -> None:
    models = [tiny.language_model(0), tiny.language_model(1)]
    policy, reference = models[::-1] if swap else models
    loss = KTO(beta=0.2, weight_desirable=1.5, weight_undesirable=0.7)
    it = learner(policy, reference, loss)
    rows = torch.tensor([1, 0, 2, 7])

    def ratio(r: Rollouts) -> list[float]:
        return (tiny.textbook_logp(policy, r) - tiny.textbook_logp(reference, r)).detach()[rows].tolist()

    z0 = max(0.0, sum(ratio(mismatched(it.data))) / 4)
    assert (z0 == 0) == swap  # one order of the two models is clamped, the other is not
    values = []
    for liked, r in zip(LIKED[rows].tolist(), ratio(it.data), strict=True):
        z = 0.2 * (r - z0) if liked else 0.2 * (z0 - r)
        values.append((1.5 if liked else 0.7) * (1 - 1 / (1 + math.exp(-z))))
    metrics = it.step(rows, 0)
    assert float(metrics["reference_kl"]) == pytest.approx(z0, abs=CLOSE)
    assert float(metrics["loss"]) == pytest.approx(sum(values) / 4, abs=CLOSE)


def test_row_weights_are_relative() -> None:
    results = []
    for weight in (torch.ones(8), torch.full((8,), 3.0)):
        it = learner(tiny.language_model(0), tiny.language_model(1), KTO())
        it.data = replace(it.data, weight=weight)
        results.append(float(it.step(torch.arange(8), 0)["loss"]))
    assert results[0] == pytest.approx(results[1], abs=1e-6)


def test_held_out_separation_and_one_kind_alone() -> None:
    policy, reference = tiny.language_model(0), tiny.language_model(1)
    rows = tiny.responses(tiny.SECOND, 2)
    known = summed_logp(reference, rows, 64)
    ratio = summed_logp(policy, rows, 64) - known
    found = learner(policy, reference, KTO(), held_out=(rows, LIKED, known)).evaluate()
    assert found["separation"] == pytest.approx(float(ratio[LIKED].mean() - ratio[~LIKED].mean()), abs=CLOSE)
    alone = learner(policy, reference, KTO(), held_out=(rows, torch.ones_like(LIKED), known)).evaluate()
    assert alone.keys() == {"loss", "log_ratio_desirable"}
    assert learner(policy, reference, KTO()).evaluate() == {}


def test_liked_responses_become_likelier_and_disliked_ones_less() -> None:
    it = learner(tiny.language_model(0), tiny.language_model(0), KTO(beta=0.5))
    before = summed_logp(it.model, it.data, 64)
    for step in range(9):
        it.step(torch.arange(8), step)
    change = summed_logp(it.model, it.data, 64) - before
    assert float(change[LIKED].mean()) > 0.5 > -0.5 > float(change[~LIKED].mean())
