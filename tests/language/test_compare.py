"""A policy beside another model at chosen tokens: within rows, behind other prompts, against analytic teachers."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from steersman.core import noise
from steersman.core.component import Form
from steersman.core.errors import UserError
from steersman.core.types import Rollouts
from steersman.language.compare import Compared, Known, compare, other_side, places
from steersman.language.score import response_logp
from steersman.objective.divergence import divergence, entropy
from tests.language.models import VOCABULARY, rows, tiny

FLOAT32 = 2e-5
"""Values of size 1 by two ways through the models."""
FORMS = (Form(), Form("forward_kl"), Form("jsd", 0.3))
HEAT = 0.7
KINDS = ("llama", "gemma2", "cohere", "bloom", "modernbert-decoder")
"""Plain, capped and scaled logits; a trunk that runs padded; a head that is no product."""


def language_model(seed: int, kind: str = "llama") -> Any:
    """Equal seeds give equal models."""
    model = tiny(kind)
    noise.normal_([(n, p) for n, p in model.named_parameters() if p.ndim > 1], 0.15, seed, "compare")
    return model


def responses(extra: int = 0) -> Rollouts:
    return rows([9, 4, 7, 5, 12], [3, 2, 1, 4, 5], extra)


class OfModel:
    """A model as an analytic teacher, one context at a time."""

    vocabulary = VOCABULARY

    def __init__(self, model: Any) -> None:
        self.model = model

    def log_probs(self, ids: Tensor, length: Tensor) -> Tensor:
        found = [self.model(ids[i : i + 1, :n]).logits[0, -1] for i, n in enumerate(length.tolist())]
        return torch.stack(found).log_softmax(-1)


class Flat:
    """Every token alike, but after one context, where token 1 is sure."""

    vocabulary = VOCABULARY

    def __init__(self, context: Tensor) -> None:
        self.context = context

    def log_probs(self, ids: Tensor, length: Tensor) -> Tensor:
        out = torch.zeros(len(length), VOCABULARY)
        for i, n in enumerate(length.tolist()):
            out[i, 1] = 50.0 if torch.equal(ids[i, :n], self.context) else 0.0
        return out.log_softmax(-1)


def behind(rollouts: Rollouts, extra: int) -> Rollouts:
    """The same responses behind longer prompts: `extra` tokens in front, in every second row."""
    more = torch.arange(len(rollouts)) % 2 * extra
    wide = rollouts.widen(rollouts.ids.shape[1] + extra)
    column = torch.arange(wide.ids.shape[1]) - more[:, None]
    move = {k: getattr(wide, k).gather(1, column.clamp(min=0)) for k in ("ids", "action", "forced")}
    inside = {k: x & (column >= 0) for k, x in move.items() if k != "ids"}
    moved = replace(wide, **move | inside)
    return replace(moved, length=rollouts.length + more, prompt_length=rollouts.prompt_length + more)


def found(rollouts: Rollouts, shown: Rollouts, chosen: Tensor, policy: Any, other: Any, **options: Any) -> Compared:
    side = other_side(other, shown, *places(chosen, rollouts, shown), HEAT)
    return compare(policy, rollouts, chosen, side, FORMS, temperature=HEAT, **options)


def textbook(rollouts: Rollouts, shown: Rollouts, chosen: Tensor, policy: Any, other: Any) -> list[Tensor]:
    """One row at a time through whole models."""
    out = [torch.zeros(rollouts.ids.shape, dtype=torch.float64) for _ in (*FORMS, "H")]
    for i, t in chosen.nonzero().tolist():
        s = t - int(rollouts.prompt_length[i]) + int(shown.prompt_length[i])
        z = policy(rollouts.ids[i : i + 1, :t]).logits[0, -1].double() / HEAT
        y = other(shown.ids[i : i + 1, :s]).logits[0, -1].double() / HEAT
        for whole, form in zip(out, FORMS, strict=False):
            whole[i, t] = divergence(z, y, form.kind, form.beta)
        out[-1][i, t] = entropy(z)
    return out


@pytest.mark.parametrize("extra", [0, 3])
@pytest.mark.parametrize("kind", KINDS)
def test_equals_whole_models_row_by_row(extra, kind):
    rollouts, policy, other = responses(2), language_model(0, kind), language_model(1, kind)
    shown = behind(rollouts, extra) if extra else rollouts
    chosen = rollouts.action & (torch.arange(rollouts.ids.shape[1]) % 3 > 0)
    with torch.no_grad():
        got = found(rollouts, shown, chosen, policy, other)
        want = textbook(rollouts, shown, chosen, policy, other)
        logp = response_logp(policy, rollouts, temperature=HEAT)[0]
    for a, b in zip([*got.divergence, got.entropy], want, strict=True):
        assert float((a - b).abs().max()) <= FLOAT32
    assert float(want[0].max()) > 0.05
    assert float((got.logp - logp * chosen).abs().max()) <= FLOAT32


def test_log_probs_of_other_tokens_come_out_of_the_same_pass_with_gradients():
    rollouts, policy, other = responses(), language_model(0), language_model(1)
    reads = rollouts.action & (torch.arange(rollouts.ids.shape[1]) % 2 == 0)
    chosen = rollouts.action & (torch.arange(rollouts.ids.shape[1]) % 3 == 0)
    got = found(rollouts, rollouts, chosen, policy, other, reads=reads)
    want, spread = response_logp(policy, rollouts, temperature=HEAT)
    both = reads | chosen
    assert float((got.logp - want * both).abs().max()) <= FLOAT32
    assert float((got.entropy - spread * both).abs().max()) <= FLOAT32
    a, b = (
        torch.autograd.grad((x * reads).sum(), policy.lm_head.weight, retain_graph=True)[0] for x in (got.logp, want)
    )
    assert float((a - b).abs().max()) <= FLOAT32 * float(b.abs().max().clamp(min=1))
    (other_grad,) = torch.autograd.grad((got.logp * ~reads).sum(), policy.lm_head.weight)
    assert not bool(other_grad.any())


def test_an_analytic_teacher_is_as_good_as_its_model():
    rollouts, policy, other = responses(), language_model(0), language_model(1)
    at = places(rollouts.action, rollouts, rollouts)
    known = Known(OfModel(other), rollouts.ids, *at, HEAT)
    a = compare(policy, rollouts, rollouts.action, known, FORMS, temperature=HEAT, chunk_bytes=4 * VOCABULARY * 5)
    b = found(rollouts, rollouts, rollouts.action, policy, other)
    for x, y in zip(a.divergence, b.divergence, strict=True):
        assert float((x - y).abs().max()) <= FLOAT32


def test_what_stands_at_the_end_of_a_row_is_not_read_by_the_next():
    """A planted divergence before the last token of row 0 shows there and nowhere else."""
    rollouts, policy = responses(), language_model(0)
    with torch.no_grad():
        for p in policy.parameters():
            p.zero_()  # every token alike
    last = int(rollouts.length[0]) - 1
    at = places(rollouts.action, rollouts, rollouts)
    known = Known(Flat(rollouts.ids[0, :last]), rollouts.ids, *at)
    got = compare(policy, rollouts, rollouts.action, known).divergence[0]
    assert float(got[0, last]) > 10
    got[0, last] = 0
    assert float(got.detach().abs().max()) <= FLOAT32


def test_no_token_gives_zeros_that_can_be_differentiated():
    rollouts, policy = responses(), language_model(0)
    got = found(rollouts, rollouts, torch.zeros_like(rollouts.action), policy, language_model(1))
    assert not bool(got.divergence[0].any())
    got.divergence[0].sum().backward()
    assert not bool(policy.lm_head.weight.grad.any())


def broken(seed: int) -> Any:
    model = language_model(seed)
    with torch.no_grad():
        model.get_output_embeddings().weight[7] = torch.nan
    return model


class Never:
    """No chance for token 3."""

    vocabulary = VOCABULARY

    def log_probs(self, ids: Tensor, length: Tensor) -> Tensor:
        out = torch.zeros(len(length), VOCABULARY)
        out[:, 3] = -torch.inf
        return out.log_softmax(-1)


def test_bad_logits_are_told_by_side_row_and_token():
    rollouts, good = responses(), language_model(0)
    with pytest.raises(UserError, match=r"prompt \d, token \d of a response: the policy gives logits that are nan"):
        found(rollouts, rollouts, rollouts.action, broken(0), good)
    with pytest.raises(UserError, match=r"the reference gives logits that are nan"):
        found(rollouts, rollouts, rollouts.action, good, broken(1), who="the reference")
    at = places(rollouts.action, rollouts, rollouts)
    never = Known(Never(), rollouts.ids, *at)
    with pytest.raises(UserError, match=r"the teacher gives token 3 no chance at all and the policy some"):
        compare(good, rollouts, rollouts.action, never)
    finite = compare(good, rollouts, rollouts.action, never, (Form("jsd"), Form(impossible="leave_out"))).divergence
    assert all(bool(torch.isfinite(x).all()) for x in finite)


def test_an_analytic_teacher_must_give_what_was_asked():
    class Short(Flat):
        def log_probs(self, ids: Tensor, length: Tensor) -> Tensor:
            return super().log_probs(ids, length)[:, 1:]

    rollouts = responses()
    at = places(rollouts.action, rollouts, rollouts)
    known = Known(Short(rollouts.ids[0]), rollouts.ids, *at)
    with pytest.raises(UserError, match=rf"Short: log_probs gave \({len(at[0])}, {VOCABULARY - 1}\)"):
        compare(language_model(0), rollouts, rollouts.action, known)


def test_a_token_with_nothing_before_it_is_refused():
    rollouts = responses()
    first = torch.zeros_like(rollouts.action)
    first[2, 0] = True
    with pytest.raises(UserError, match="nothing comes before it"):
        places(first, rollouts, rollouts)
