"""Distillation in the engine and the loop: the formula and gradients, selection, invariances, errors, resuming."""

from collections.abc import Callable
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import rl_toys as toys
import torch
from tiny_language import FIRST, VOCABULARY, grads, language_model, responses
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten

from steersman.core.component import Form
from steersman.core.errors import UserError
from steersman.core.noise import generator, permutation
from steersman.core.types import Rollouts
from steersman.objective.components import Aggregation
from steersman.objective.components_tip import SelectTokens
from steersman.objective.divergence import divergence, sampled_unchecked
from steersman.objective.select.tokens import select
from steersman.train.engine.local import LocalEngine
from steersman.train.engine.work import Job
from steersman.train.optimise import AdamW, Optimiser
from steersman.train.passes import under
from steersman.train.terms import Against, Term
from steersman.train.terms_distill import distill_term

FLOAT32 = 1e-5
"""Of the largest gradient: other rows share the products."""
HEAT = 0.8
DRAWN = SelectTokens(rule="entropy", mode="sample", keep=0.4, alpha=0.5, gamma=1.5, unbiased=True)
BOTH = frozenset({"policy", "critic"})
FORMS = [
    Form(), Form("forward_kl"), Form("jsd", 0.3), Form(top_k=4), Form("jsd", top_k=4, of="teacher", tail=False),
    Form("sampled"),
]  # fmt: skip


def engine(teacher: Any = None, micro: int = 4096, **options: Any) -> LocalEngine:
    policy = language_model(0)
    optimiser = Optimiser(policy.named_parameters(), AdamW(lr=1e-3), 4)
    known = {"reference": language_model(2), "teacher": language_model(1) if teacher is None else teacher}
    return LocalEngine(policy, optimiser, **known, micro_tokens=micro, **options)


def engine_parts() -> tuple[Any, Optimiser]:
    policy = language_model(0)
    return policy, Optimiser(policy.named_parameters(), AdamW(), 1)


def weighed(rollouts: Rollouts, seed: int = 3, share: float = 0.4) -> Rollouts:
    """Some tokens out of the loss, and one row not valid."""
    kept = torch.from_numpy(generator(seed, "kept").random(rollouts.ids.shape)) < share
    kept |= torch.arange(rollouts.ids.shape[1]) == rollouts.length[:, None] - 1
    return replace(rollouts, valid=torch.arange(len(rollouts)) != 5).with_streams(token_weight=kept.float())


def step(engine: LocalEngine, rollouts: Rollouts, term: Term, shown: Rollouts | None = None) -> tuple[Any, Any]:
    """Metrics and gradients."""
    told = engine.accumulate([Job(rollouts, (term,), shown)], BOTH, HEAT)
    found = grads(engine.policy)
    engine.forget()
    return {k: float(v) for k, v in told.items()}, found


def naive(policy: Any, other: Any, rollouts: Rollouts, shown: Rollouts, mask: Tensor, form: Form) -> Tensor:
    """Sum of divergences one token at a time through whole models."""
    total = torch.zeros(())
    for i, t in mask.nonzero().tolist():
        s = t - int(rollouts.prompt_length[i]) + int(shown.prompt_length[i])
        z = policy(rollouts.ids[i : i + 1, :t]).logits[0, -1] / HEAT
        with torch.no_grad():
            y = other(shown.ids[i : i + 1, :s]).logits[0, -1] / HEAT
        if form.kind == "sampled":
            total = total + sampled_unchecked(z, y, rollouts.ids[i, t])
        else:
            total = total + divergence(z, y, form.kind, form.beta, form.top_k, form.of, form.tail)
    return total


def hinted(rollouts: Rollouts) -> Rollouts:
    """Every response behind its prompt and two tokens more."""
    before = [[*ids[:n], 9, 8] for ids, n in zip(rollouts.ids.tolist(), rollouts.prompt_length.tolist(), strict=True)]
    return under(rollouts, before)


def close(a: dict[str, Tensor], b: dict[str, Tensor], most: float = FLOAT32) -> bool:
    largest = max(float(x.abs().max()) for x in b.values())
    return a.keys() == b.keys() and all(float((a[k] - b[k]).abs().max()) <= most * largest for k in b)


@pytest.mark.parametrize("form", FORMS, ids=str)
@pytest.mark.parametrize("by", ["teacher", "reference", "policy"])
def test_loss_and_gradient_are_those_of_whole_models(form, by):
    made, rollouts = engine(micro=24), weighed(responses(FIRST, 1))
    shown = hinted(rollouts) if by != "reference" else None
    term = distill_term(Against(by, None if shown is None else len, form), Aggregation())
    told, found = step(made, rollouts, term, shown)
    mask = term.mask(rollouts)
    policy, other = language_model(0), language_model({"policy": 0, "teacher": 1, "reference": 2}[by])
    loss = naive(policy, other, rollouts, rollouts if shown is None else shown, mask, form) / mask.sum()
    loss.backward()
    assert told["loss/distill"] == pytest.approx(float(loss.detach()), rel=FLOAT32)
    assert told["divergence"] == pytest.approx(float(loss.detach()), rel=FLOAT32)
    assert told["tokens_trained"] == int(mask.sum()) < int(rollouts.action.sum())
    assert close(found, grads(policy))
    others = [*made.models["teacher"].parameters(), *made.models["reference"].parameters()]
    assert all(p.grad is None for p in others)
    assert not made.models["teacher"].training


class Mixture:
    """Two whole models whose log-probabilities are averaged."""

    def __init__(self, first: Any, second: Any, share: float) -> None:
        self.first, self.second, self.share = first, second, share

    def __call__(self, ids: Tensor) -> Any:
        one, two = ((m(ids).logits / HEAT).log_softmax(-1) for m in (self.first, self.second))
        return SimpleNamespace(logits=HEAT * ((1 - self.share) * one + self.share * two))


@pytest.mark.parametrize("form", FORMS, ids=str)
def test_a_teacher_mixed_with_the_policy_behind_the_same_text(form):
    made, rollouts = engine(micro=24, teacher_mix=0.3), weighed(responses(FIRST, 1))
    shown, term = hinted(rollouts), distill_term(Against(before=len, form=form), Aggregation())
    told, found = step(made, rollouts, term, shown)
    mask, policy = term.mask(rollouts), language_model(0)
    other = Mixture(language_model(1), language_model(0), 0.3)
    loss = naive(policy, other, rollouts, shown, mask, form) / mask.sum()
    loss.backward()
    assert told["loss/distill"] == pytest.approx(float(loss.detach()), rel=FLOAT32)
    assert close(found, grads(policy))  # nothing flows through the policy's part of the teacher
    assert all(p.grad is None for p in made.models["teacher"].parameters())


def test_a_mixture_lies_between_the_teacher_and_the_policy():
    rollouts, form = responses(FIRST, 1), Form()
    far = [engine(teacher_mix=m).compare(rollouts, rollouts, "teacher", [form], HEAT)[form] for m in (0.0, 0.2, 0.9)]
    inside = rollouts.action
    assert bool((far[0][inside] > far[1][inside]).all())
    assert bool((far[1][inside] > far[2][inside]).all())
    same = engine(language_model(0), teacher_mix=0.4).compare(rollouts, rollouts, "teacher", [form], HEAT)[form]
    assert float(same.abs().max()) <= FLOAT32
    analytic = engine(Broken(-3.0), teacher_mix=0.4).compare(rollouts, rollouts, "teacher", [form], HEAT)[form]
    assert bool((analytic[inside] > 0).all())


@pytest.mark.parametrize("change", ["micro", "chunk", "padding", "order"])
def test_nothing_depends_on_how_the_rows_are_cut(change, monkeypatch):
    rollouts, term = weighed(responses(FIRST, 1)), distill_term(Against(), Aggregation())
    told, found = step(engine(), rollouts, term)
    made, given = engine(micro=10 if change == "micro" else 4096), rollouts
    if change == "chunk":
        monkeypatch.setattr("steersman.language.head_divergence.CPU_CHUNK_BYTES", 4 * VOCABULARY * 3)
    if change == "padding":
        given = rollouts.widen(rollouts.ids.shape[1] + 9)
    if change == "order":
        given = rollouts.index(permutation(len(rollouts), 1, "order"))
    again, other = step(made, given, term)
    assert again == pytest.approx(told, rel=FLOAT32, abs=1e-7)
    assert close(other, found)


def test_keeping_everything_is_the_full_loss_to_the_bit():
    rollouts, term = responses(FIRST, 1), distill_term(Against(), Aggregation())
    score = torch.from_numpy(generator(4, "score").random(rollouts.ids.shape)).float()
    luck = torch.from_numpy(generator(5, "luck").random(rollouts.ids.shape)).float()
    told, found = step(engine(micro=24), rollouts, term)
    for mode in ("top", "bottom", "sample"):
        kept = select(score, rollouts.action, 1.0, mode, noise=luck)
        again, other = step(engine(micro=24), rollouts.with_streams(token_weight=kept.float()), term)
        assert again == told
        assert all(torch.equal(other[k], found[k]) for k in found)
    stage = SelectTokens(keep=1.0)
    again, other = step(engine(micro=24), stage(rollouts)[0], term)
    assert again == told
    assert all(torch.equal(other[k], found[k]) for k in found)


def test_the_gradient_of_a_selection_is_the_full_one_of_its_rows():
    """Selected tokens and the others add up to the whole, each over its own number of tokens."""
    rollouts, term = responses(FIRST, 1), distill_term(Against(), Aggregation())
    some = torch.from_numpy(generator(6, "some").random(rollouts.ids.shape)) < 0.3
    whole = step(engine(), rollouts, term)[1]
    parts = [rollouts.with_streams(token_weight=(x & rollouts.action).float()) for x in (some, ~some)]
    told, found = zip(*(step(engine(), p, term) for p in parts), strict=True)
    k, rest = (t["tokens_trained"] for t in told)
    joined = {n: (found[0][n] * k + found[1][n] * rest) / (k + rest) for n in whole}
    assert close(joined, whole)


class _Largest(TorchDispatchMode):
    """The largest number of elements of any tensor that an operation gives."""

    most = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        out = func(*args, **(kwargs or {}))
        self.most = max([self.most, *(x.numel() for x in tree_flatten(out)[0] if isinstance(x, Tensor))])
        return out


def test_tokens_that_are_not_kept_never_meet_the_vocabulary(monkeypatch):
    """With k of m tokens kept, no tensor of k V elements is there when the head works in chunks, and none of m V
    when it does not."""
    from steersman.language.build import SmallModel, build_model

    large, size = 4000, SmallModel(width=8, layers=1, heads=2, context=64)
    policy, teacher = build_model(size, large, 0), build_model(size, large, 1)
    made = LocalEngine(policy, Optimiser(policy.named_parameters(), AdamW(), 1), teacher=teacher)
    whole = responses(FIRST, 1)
    m, kept = int(whole.action.sum()), weighed(whole, share=0.25)
    term = distill_term(Against(), Aggregation())
    k = int(term.mask(kept).sum())
    assert 8 < k < m / 2  # what is wide as the model is smaller than what is counted
    made.accumulate([Job(kept, (term,))], BOTH)
    for rows, most in ((None, k), (4, 8)):
        if rows is not None:
            monkeypatch.setattr("steersman.language.head_divergence.CPU_CHUNK_BYTES", 4 * large * rows)
        with _Largest() as seen, torch.autograd.set_multithreading_enabled(False):
            made.accumulate([Job(kept, (term,))], BOTH)
        assert seen.most == most * large


class Broken:
    """An analytic teacher with something wrong at one token of the vocabulary."""

    def __init__(self, value: float, vocabulary: int = VOCABULARY) -> None:
        self.value, self.vocabulary = value, vocabulary

    def log_probs(self, ids: Tensor, length: Tensor) -> Tensor:
        out = torch.zeros(len(length), self.vocabulary).log_softmax(-1)
        out[length == int(length.max()), 3] = self.value  # only the last rows, so that others have gradients already
        return out


@pytest.mark.parametrize(
    ("value", "match"), [(torch.nan, "the teacher gives logits that are nan"), (-torch.inf, "gives token 3 no chance")]
)
def test_after_an_error_model_and_optimiser_are_as_before(value, match):
    made, rollouts, term = engine(micro=12), responses(FIRST, 1), distill_term(Against(), Aggregation())
    step(made, rollouts, term)
    made.accumulate([Job(rollouts, (term,))], BOTH)
    made.apply(0, BOTH)
    before = {k: x.clone() for k, x in flat(made.state_dict()).items()}
    made.known = Broken(value)
    with pytest.raises(UserError, match=match):
        made.accumulate([Job(rollouts, (term,))], BOTH)
    assert not grads(made.policy)
    after = flat(made.state_dict())
    assert before.keys() == after.keys()
    assert all(torch.equal(before[k], after[k]) for k in before)
    with pytest.raises(UserError, match=match):
        made.compare(rollouts, rollouts, "teacher", [Form()])


def flat(state: Any, at: str = "") -> dict[str, Tensor]:
    if isinstance(state, dict):
        return {k: x for name, inner in state.items() for k, x in flat(inner, f"{at}/{name}").items()}
    return {at: torch.as_tensor(state)} if isinstance(state, Tensor | float | int) else {}


def test_a_policy_that_broke_is_named():
    made = engine()
    with torch.no_grad():
        made.policy.get_output_embeddings().weight[7] = torch.nan
    with pytest.raises(UserError, match="the policy gives logits that are nan"):
        made.accumulate([Job(responses(FIRST, 1), (distill_term(Against(), Aggregation()),))], BOTH)


@pytest.mark.parametrize(
    ("make", "match"),
    [
        (lambda: engine(Broken(0.0, 7)), "the policy's vocabulary has 60 rows, the teacher's 7"),
        (lambda: engine(Broken(0.0, 7), shared_vocabulary=8), "shares 8 ids"),
        (lambda: engine(object()), "object is no analytic policy"),
        (lambda: engine(teacher_rate=1.5), "teacher_rate: is 1.5"),
        (lambda: engine(Broken(0.0), teacher_rate=0.1), "only a copy of the policy can follow it"),
        (lambda: engine(language_model(0), teacher_rate=0.1, teacher_every=0), "teacher_every: is 0"),
        (lambda: engine(teacher_mix=1.0), "teacher_mix: is 1.0"),
        (lambda: LocalEngine(*engine_parts(), teacher_mix=0.5), "no teacher to mix the policy with"),
        (lambda: distill_term(Against(form=Form("sampled", top_k=3)), Aggregation()), "and no other"),
        (lambda: distill_term(Against(form=Form(top_k=3, of="me")), Aggregation()), "of: is 'me'"),
        (lambda: toys.learner({"stages": [DRAWN], "loss": toys.Clipped()}), "asks for a pass by a teacher"),
        (lambda: distill_term(Against("policy"), Aggregation()), "compared with itself"),
        (lambda: distill_term(Against(form=Form("jsd", 0.0)), Aggregation()), "0 < beta < 1"),
        (lambda: distill_term(Against(form=Form("kl")), Aggregation()), "unknown divergence"),
        (lambda: distill_term(Against(), Aggregation(), ratio_cap=0.0), "ratio_cap is 0"),
        (
            lambda: toys.learner({"stages": [SelectTokens()], "loss": toys.Clipped()}),
            "needs 'divergence', which nothing",
        ),
        (
            lambda: toys.learner({**toys.METHODS["self-distil"], "stages": [*toys.CREDIT, SelectTokens()]}),
            "some responses",
        ),
    ],
)
def test_what_cannot_work_is_refused_at_the_start(make, match):
    with pytest.raises(UserError, match=match):
        make()


def test_a_spare_row_more_does_no_harm():
    wide = Broken(0.0, VOCABULARY + 4)
    made = engine(wide, shared_vocabulary=VOCABULARY - 2)
    told = made.accumulate([Job(responses(FIRST, 1), (distill_term(Against(), Aggregation()),))], BOTH)
    assert 0 < float(told["loss/distill"]) < 10


def test_nothing_to_learn_from_leaves_no_gradient():
    rollouts, made = responses(FIRST, 1), engine()
    empty = rollouts.with_streams(token_weight=torch.zeros(rollouts.ids.shape))
    told = made.accumulate([Job(empty, (distill_term(Against(), Aggregation()),))], BOTH)
    assert told == {"tokens_trained": 0.0}
    assert not grads(made.policy)


def test_two_other_sides_in_a_step_are_refused():
    terms = tuple(distill_term(Against(by), Aggregation()) for by in ("teacher", "reference"))
    with pytest.raises(UserError, match="two terms of a step compare"):
        engine().accumulate([Job(responses(FIRST, 1), terms)], BOTH)


def test_the_ratio_to_the_policy_that_drew_a_token_is_capped():
    rollouts, agg = responses(FIRST, 1), Aggregation()
    made = engine()
    now = made.score(rollouts, "policy", ["logp"], HEAT)["logp"]
    gaps = torch.from_numpy(generator(8, "gaps").normal(size=now.shape)).float()
    batch = rollouts.with_streams(logp_old=now - gaps)
    found = made.compare(rollouts, rollouts, "teacher", [Form()], HEAT)[Form()]
    wanted = (found * gaps.exp().clamp(max=2.0))[rollouts.action].mean()
    told, _ = step(made, batch, distill_term(Against(), agg, ratio_cap=2.0))
    assert told["loss/distill"] == pytest.approx(float(wanted), rel=FLOAT32)
    assert step(made, batch, distill_term(Against(), agg))[0]["loss/distill"] != pytest.approx(float(wanted), rel=0.01)


def test_a_teacher_that_follows_moves_by_its_rate_and_is_in_the_checkpoint():
    made = engine(language_model(0), teacher_rate=0.25)
    start = {k: p.detach().clone() for k, p in made.policy.named_parameters()}
    shown, term = hinted(responses(FIRST, 1)), distill_term(Against(before=len), Aggregation())
    for i in range(2):
        before = {k: p.detach().clone() for k, p in made.models["teacher"].named_parameters()}
        made.accumulate([Job(responses(FIRST, 1), (term,), shown)], BOTH)
        made.apply(i, BOTH)
        moved = dict(made.policy.named_parameters())
        for k, p in made.models["teacher"].named_parameters():
            assert torch.allclose(p, 0.75 * before[k] + 0.25 * moved[k], atol=1e-7, rtol=0)
    assert any(not torch.equal(p, start[k]) for k, p in made.models["teacher"].named_parameters())
    other = engine(language_model(0), teacher_rate=0.25)
    other.load_state_dict(made.state_dict())
    for (_, a), (_, b) in zip(*(e.models["teacher"].named_parameters() for e in (made, other)), strict=True):
        assert torch.equal(a, b)
    assert "teacher" not in engine().state_dict()


def test_a_copy_is_taken_every_so_many_steps():
    """rate 1 every two steps: the policy of two steps ago, then that of now; a resumed engine keeps the beat."""
    made = engine(language_model(0), teacher_rate=1.0, teacher_every=2)
    shown, term = hinted(responses(FIRST, 1)), distill_term(Against(before=len), Aggregation())
    states = []
    for i in range(5):
        if i == 3:
            kept = {k: x.clone() for k, x in flat(made.state_dict()).items()}
            later = engine(language_model(0), teacher_rate=1.0, teacher_every=2)
            later.load_state_dict(copied(made.state_dict()))
            assert all(torch.equal(x, kept[k]) for k, x in flat(later.state_dict()).items())
        for e in (made, later) if i >= 3 else (made,):
            e.accumulate([Job(responses(FIRST, 1), (term,), shown)], BOTH)
            e.apply(i, BOTH)
        vectors = (
            torch.cat([p.detach().flatten() for p in made.models[n].parameters()]) for n in ("policy", "teacher")
        )
        states.append(tuple(vectors))
    policy, teacher = zip(*states, strict=True)
    assert torch.equal(teacher[1], policy[1])
    assert torch.equal(teacher[2], policy[1])
    assert torch.equal(teacher[4], teacher[3])
    assert torch.equal(teacher[3], policy[3])
    assert not torch.equal(teacher[0], policy[0])
    again = torch.cat([p.detach().flatten() for p in later.models["teacher"].parameters()])
    assert torch.equal(again, teacher[4])


def test_both_divergences_and_the_entropy_come_out_of_one_comparison():
    made = toys.learner({**toys.METHODS["tip"], "stages": [SelectTokens(keep=0.4), SelectTokens(rule="q3", keep=0.5)]})
    calls: list[Any] = []
    plain, plain_score = made.engine.compare, made.engine.score
    made.engine.compare = lambda *a: calls.append([getattr(q, "kind", q) for q in a[3]]) or plain(*a)
    made.engine.score = lambda *a: calls.append(a[2]) or plain_score(*a)
    made.step(0)
    assert calls == [["reverse_kl", "entropy", "logp"], ["forward_kl"]]


@pytest.mark.parametrize("name", ["distil", "tip", "self-distil"])
def test_training_comes_nearer_to_the_teacher(name):
    made = toys.learner({**toys.METHODS[name], "teacher_rate": 0.0}, total=24)
    drawn = toys.record(made.engine)
    told = [made.step(0)]
    rows, form = drawn[0, 0], made.against.form
    shown = rows if made.shown is None else made.shown
    first = made.engine.compare(rows, shown, "teacher", [form])[form]
    told += [made.step(i) for i in range(1, 24)]
    last = made.engine.compare(rows, shown, "teacher", [form])[form]
    assert float(last.sum()) < 0.8 * float(first.sum())
    fresh = [t for i, t in enumerate(told) if i % made.updates == 0]
    assert all(float(t["gap_max"]) <= 1e-4 for t in fresh)


def test_rows_without_another_text_count_nowhere():
    made = toys.learner("self-distil")
    made.step(0)
    batch, shown = made.batch, made.shown
    there = torch.tensor([x is not None for x in toys.told_the_sum(batch, [])])
    assert 0 < int(there.sum()) < len(there)
    assert torch.equal(batch.streams["taught"] > 0, there)
    mask = made.terms[1].mask(batch)
    assert torch.equal(mask.any(1), there)
    assert torch.equal(made.terms[0].mask(batch).any(1), torch.ones_like(there))
    assert torch.equal(shown.prompt_length - batch.prompt_length, torch.where(there, 3, 0))


def made_of(name: str, **changes: Any) -> Any:
    """A learner of `toys.METHODS`, or of the ways to choose tokens and to make a teacher that are only here."""
    own = {"drawn": "tip", "mixed": "self-distil", "copied": "self-distil", "sampled": "tip"}
    method = dict(toys.METHODS[own.get(name, name)]) | ({"minibatches": 1} if changes.pop("whole", False) else {})
    if name == "drawn":
        method["stages"] = [DRAWN]
    if name == "sampled":
        method["against"] = Against(form=Form("sampled"))
    if name == "mixed":
        method |= {"teacher": 2, "teacher_rate": 0.0}
    if name == "copied":
        method["teacher_rate"] = 1.0
    made = toys.learner(method, **changes)
    made.engine.teacher_mix = 0.3 if name == "mixed" else 0.0
    made.engine.teacher_every = 2 if name == "copied" else 1
    return made


LOOPS = ["distil", "tip", "self-distil", "drawn", "mixed", "copied", "sampled"]


@pytest.mark.parametrize("name", LOOPS)
def test_resumed_at_any_step_it_goes_on_to_the_bit(name):
    whole = made_of(name, total=5)
    states, told = [], []
    for i in range(5):
        states.append(copied(whole.state_dict()))
        told.append(whole.step(i))
    for first in range(1, 5):
        again = made_of(name, total=5)
        again.load_state_dict(states[first])
        rest = [again.step(i) for i in range(first, 5)]
        assert [{k: float(v) for k, v in t.items()} for t in rest] == [
            {k: float(v) for k, v in t.items()} for t in told[first:]
        ]
        assert torch.equal(toys.parameters(again), toys.parameters(whole))


def copied(state: Any) -> Any:
    if isinstance(state, dict):
        return {k: copied(v) for k, v in state.items()}
    if isinstance(state, Tensor):
        return state.clone()
    return [copied(x) for x in state] if isinstance(state, list) else state


@pytest.mark.parametrize("change", [lambda x: x, toys.widened, toys.shuffled], ids=["micro", "padding", "order"])
@pytest.mark.parametrize("name", [x for x in LOOPS if x != "distil"])
def test_steps_of_the_loop_do_not_depend_on_cuts_padding_or_order(name, change: Callable[[Rollouts], Rollouts]):
    # which rows make up a part of a batch is a matter of order
    first = made_of(name, total=2, whole=True)
    drawn = toys.record(first.engine)
    told = [first.step(i) for i in range(2)]
    again = made_of(name, total=2, micro=30, whole=True)
    toys.replay(again.engine, drawn, change)
    for i in range(2):
        found = again.step(i)
        assert float(found["loss/distill"]) == pytest.approx(float(told[i]["loss/distill"]), rel=1e-4)
    assert float((toys.parameters(again) - toys.parameters(first)).abs().max()) <= 1e-5
