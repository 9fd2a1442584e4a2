"""TIP's scores, selections and quadrants: closed forms, identities, exact inclusion probabilities, invariances."""

import math
from itertools import permutations

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from steersman.core.errors import UserError
from steersman.objective.divergence import divergence
from steersman.objective.select import ranks
from steersman.objective.select.tokens import MODES, RULES, quadrants, sampling_weights, scores, select, unbiased

FLOAT32 = 1e-6
DOUBLE = 1e-12
THEORY = 1e-9  # float64
SMALL = 1e-3  # a step's second-order model of a token's own loss, relative
SIGMAS = 5.0  # of a binomial share

H = torch.tensor([0.0, 0.5, 1.0, 2.0], dtype=torch.float64)
D = torch.tensor([4.0, 0.0, 1.0, 2.0], dtype=torch.float64)

numbers = st.lists(st.tuples(st.integers(0, 8), st.integers(0, 8)), min_size=1, max_size=12)


def noise_of(*shape, seed=0):
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def of(numbers):
    return torch.tensor(numbers, dtype=torch.float64)


def plane(pairs):
    """Entropies and divergences in quarters and halves."""
    both = torch.tensor(pairs, dtype=torch.float64)
    return both[:, 0] / 4, both[:, 1] / 2


def test_scores_by_hand():
    h, d = torch.tensor([0, 0.25, 0.5, 1]).double(), torch.tensor([1, 0, 0.25, 0.5]).double()
    assert torch.allclose(scores(H, D, entropy_clip_quantile=None), h + d - h * d, rtol=DOUBLE)
    assert torch.equal(scores(H, D, rule="entropy"), H)
    assert torch.equal(scores(H, D, rule="divergence"), D)
    assert torch.equal(scores(H, None, rule="random"), torch.ones(4).double())
    assert torch.allclose(scores(H, None, D, "q3", None), D * (1 - h), rtol=DOUBLE)


@pytest.mark.parametrize("q", [0.5, 0.9, 0.98, 1.0])
def test_the_clip_is_the_quantile_of_the_counted_tokens(q):
    entropy = noise_of(3, 40).square()
    mask = noise_of(3, 40, seed=1) < 0.7
    found = scores(entropy, torch.zeros(3, 40).double(), rule="soft_or", entropy_clip_quantile=q, mask=mask)
    cut = entropy.minimum(torch.quantile(entropy[mask], q))
    low, high = cut[mask].min(), cut[mask].max()
    assert torch.allclose(found[mask], (cut[mask] - low) / (high - low), atol=DOUBLE)
    assert not found[~mask].any()


@given(numbers, st.booleans())
@settings(deadline=None)
def test_soft_or_identities(pairs, clip):
    h, d = plane(pairs)
    q = 0.9 if clip else None
    s = scores(h, d, entropy_clip_quantile=q, divergence_clip_quantile=q)
    alone = [scores(x, torch.zeros_like(x), entropy_clip_quantile=q) for x in (h, d)]
    assert torch.equal(s, scores(d, h, entropy_clip_quantile=q, divergence_clip_quantile=q))
    assert bool((s >= torch.maximum(*alone)).all())
    assert bool(((s >= 0) & (s <= 1)).all())
    assert torch.allclose(s, 1 - (1 - alone[0]) * (1 - alone[1]), atol=DOUBLE)
    assert torch.equal(scores(torch.ones_like(h), d, entropy_clip_quantile=q, divergence_clip_quantile=q), alone[1])


@given(numbers, st.floats(0.1, 9), st.floats(-3, 3), st.sampled_from(["soft_or", "q3"]))
@settings(deadline=None)
def test_units_do_not_matter(pairs, unit, zero, rule):
    h, d = plane(pairs)
    first = scores(h, d, d, rule)
    moved = scores(unit * h + zero, unit * d + zero if rule == "soft_or" else d, d, rule)
    assert torch.allclose(first, moved, atol=1e3 * DOUBLE)


@given(numbers)
@settings(deadline=None)
def test_constant_axes_count_as_nothing(pairs):
    h, d = plane(pairs)
    same = torch.full_like(h, 0.7)
    assert torch.equal(scores(same, same), torch.zeros_like(h))
    assert torch.equal(scores(same, same, same, "q3"), same)
    # ties throughout: the lowest positions
    mask = torch.ones(len(h), dtype=torch.bool)
    k = max(1, len(h) // 2)
    assert select(scores(same, same), mask, 0.5).nonzero()[:, 0].tolist() == list(range(k))


@given(st.lists(st.floats(0.05, 5), min_size=1, max_size=5), st.lists(st.floats(0, 0.9), min_size=1, max_size=5),
       st.floats(0.2, 4), st.floats(0, 3))  # fmt: skip
@settings(deadline=None)
def test_blind_spot(wrong, right, power, scale):
    """Confident tokens, h = 0: no rule of h alone tells wrong (Q3) from right (Q4); Soft-OR puts Q3 above Q4."""
    d = torch.tensor([1 + x for x in wrong] + [0.99 * x for x in right], dtype=torch.float64)
    h = torch.zeros_like(d)
    of_entropy = scale * scores(h, d, rule="entropy").pow(power)  # any non-decreasing f with f(0) = 0
    assert not of_entropy.any()
    s = scores(torch.cat([h, h.new_tensor([2.0])]), torch.cat([d, d.new_tensor([0.0])]))[:-1]
    assert s[: len(wrong)].min() > s[len(wrong) :].max()
    q3 = scores(torch.cat([h, h.new_tensor([2.0])]), None, torch.cat([d, d.new_tensor([9.0])]), "q3")
    assert q3[: len(wrong)].min() > q3[len(wrong) :].max()  # the uncertain token, however far, among the last


@given(
    st.lists(st.integers(-8, 8).map(lambda k: k / 4), min_size=3, max_size=6), st.integers(0, 5), st.floats(0.01, 0.5)
)
@settings(deadline=None, max_examples=40)
def test_local_view_of_a_tokens_own_loss(logits, teacher, eta):
    """Forward KL in the logits: g = p - q, H = diag p - p p'; |g|^2 / (eta g'Hg) is the best step, the larger the surer
    the model is, since g'Hg <= tr H |g|^2 and tr H = 1 - sum p^2."""
    z = torch.tensor(logits, dtype=torch.float64)
    q = (torch.arange(len(z)) == teacher % len(z)).double().mul(3).softmax(0)

    def loss(x):
        return divergence(x, q.log(), "forward_kl")

    p = z.softmax(0)
    g, h = torch.autograd.functional.jacobian(loss, z), torch.autograd.functional.hessian(loss, z)
    assert torch.allclose(g, p - q, atol=THEORY)
    assert torch.allclose(h, p.diag() - p.outer(p), atol=THEORY)
    size, bend = g @ g, g @ h @ g
    assume(float(size) > SMALL)
    assert float(h.trace()) == pytest.approx(float(1 - p.square().sum()), abs=THEORY)
    assert bend <= h.trace() * size + THEORY
    best = size / (eta * bend)
    model = lambda w: -eta * w * size + (eta * w) ** 2 * bend / 2  # noqa: E731
    assert model(best) <= min(model(0.9 * best), model(1.1 * best))
    # the second-order model is that of the loss: over a small step it says how the loss changes
    tiny = SMALL / float(size.sqrt())
    change = loss(z - tiny * g) - loss(z)
    assert float(change) == pytest.approx(float(-tiny * size + tiny**2 * bend / 2), rel=SMALL)


@given(
    st.lists(st.tuples(st.floats(-2, 2), st.floats(0, 2)), min_size=1, max_size=4), st.floats(0.1, 2), st.floats(0.1, 3)
)
@settings(deadline=None)
def test_oracle_weights(tokens, eta, beta):
    """Separate quadratics with noisy gradients: w* = phi / (eta beta M) is best, and gains phi^2 / (2 beta M)."""
    for slope, noise in tokens:
        gradients = (slope - noise, slope + noise)  # each as likely
        phi, m = slope * sum(gradients) / 2, sum(g * g for g in gradients) / 2
        if m < THEORY:
            continue

        def expected(w, gradients=gradients, slope=slope):
            start = slope / beta  # of L(x) = beta x^2 / 2, whose gradient there is `slope`
            return sum(beta * (start - eta * w * g) ** 2 / 2 for g in gradients) / 2

        best = phi / (eta * beta * m)
        assert expected(best) <= min(expected(best - 0.01), expected(best + 0.01)) + THEORY
        assert expected(best) - expected(0.0) == pytest.approx(-(phi**2) / (2 * beta * m), abs=THEORY)


@pytest.mark.parametrize(("keep", "m", "k"), [(0.5, 5, 2), (0.29, 100, 29), (0.01, 5, 1), (0.07, 100, 7), (1.0, 5, 5)])
def test_number_kept(keep, m, k):
    score = noise_of(m)
    mask = torch.ones(m, dtype=torch.bool)
    for mode in MODES:
        assert int(select(score, mask, keep, mode, noise=noise_of(m, seed=1)).sum()) == k
    assert select(score, mask, keep).nonzero()[:, 0].tolist() == score.topk(k).indices.sort().values.tolist()
    assert (
        select(score, mask, keep, "bottom").nonzero()[:, 0].tolist() == (-score).topk(k).indices.sort().values.tolist()
    )


def test_sequences_keep_at_least_a_token_each():
    score = torch.tensor([[5.0, 6, 7, 8], [1, 2, 3, 4], [0, 0, 0, 0]])
    mask = torch.tensor([[True] * 4, [True, True, False, False], [False] * 4])
    kept = select(score, mask, 0.5, scope="sequence")
    assert kept.nonzero().tolist() == [[0, 2], [0, 3], [1, 1]]
    assert select(score, mask, 0.01, scope="sequence").sum(1).tolist() == [1, 1, 0]
    assert select(score, mask, 0.5).sum(1).tolist() == [3, 0, 0]
    h = torch.tensor([[1.0, 2, 3], [10, 20, 30]])
    alone = scores(h, torch.zeros(2, 3), entropy_clip_quantile=None, scope="sequence")
    assert torch.equal(alone[0], alone[1])


@given(numbers, st.sampled_from(MODES), st.sampled_from(ranks.SCOPES))
@settings(deadline=None)
def test_nested_in_keep_and_whole_at_one(pairs, mode, scope):
    h, d = (x.view(1, -1).repeat(2, 1) for x in plane(pairs))
    mask = noise_of(*h.shape, seed=3) < 0.8
    noise, before = noise_of(*h.shape), torch.zeros_like(mask)
    for keep in (0.1, 0.3, 0.5, 0.9, 1.0):
        kept = select(scores(h, d, mask=mask, scope=scope), mask, keep, mode, scope, noise)
        assert not (before & ~kept).any()
        assert not (kept & ~mask).any()
        before = kept
    assert torch.equal(before, mask)


@given(numbers, st.sampled_from(RULES), st.sampled_from(MODES), st.sampled_from(ranks.SCOPES))
@settings(deadline=None)
def test_order_of_rows_padding_and_what_stands_outside(pairs, rule, mode, scope):
    h, d = (x.view(1, -1).repeat(3, 1) * torch.tensor([[1.0], [2.0], [3.0]]).double() for x in plane(pairs))
    mask, noise = noise_of(*h.shape, seed=3) < 0.8, noise_of(*h.shape)

    def chosen(h, d, mask, noise):
        score = scores(h, d, d, rule, mask=mask, scope=scope)
        return select(ranks.coarse(score, mask, scope), mask, 0.4, mode, scope, noise)

    kept = chosen(h, d, mask, noise)
    order = torch.tensor([2, 0, 1])
    assert torch.equal(chosen(h[order], d[order], mask[order], noise[order]), kept[order])
    pad = torch.nn.functional.pad
    wide = chosen(
        pad(h, (0, 4), value=9.0), pad(d, (0, 4), value=9.0), pad(mask, (0, 4)), pad(noise, (0, 4), value=0.1)
    )
    assert torch.equal(wide, pad(kept, (0, 4)))
    broken = torch.where(mask, h, torch.nan), torch.where(mask, d, torch.inf)
    assert torch.equal(chosen(*broken, mask, noise), kept)


def test_ties_go_to_the_noise():
    mask, times = torch.ones(6, dtype=torch.bool), torch.zeros(6)
    for seed in range(400):
        times += select(torch.zeros(6), mask, 0.5, noise=noise_of(6, seed=seed))
    assert bool(((times - 200).abs() < SIGMAS * 10).all())


def inclusion(weight, k):
    """Probability that each is among k draws without replacement, by enumeration of all orders."""
    found = [0.0] * len(weight)
    for order in permutations(range(len(weight)), k):
        left, p = sum(weight), 1.0
        for i in order:
            p, left = p * weight[i] / left, left - weight[i]
        for i in order:
            found[i] += p
    return found


@pytest.mark.parametrize("k", [1, 2, 3])
def test_sampling_has_the_exact_inclusion_probabilities(k):
    weight, draws = [0.1, 0.4, 1.0, 0.0, 2.5], 20_000
    score = torch.tensor(weight).repeat(draws, 1)
    noise = noise_of(draws, 5)
    mask = torch.ones(draws, 5, dtype=torch.bool)
    kept = select(score, mask, k / 5, "sample", "sequence", noise)
    share = kept.double().mean(0)
    for p, found in zip(inclusion([max(w, 1e-8) for w in weight], k), share.tolist(), strict=True):
        assert found == pytest.approx(p, abs=SIGMAS * math.sqrt(p * (1 - p) / draws) + FLOAT32)
    assert torch.equal(kept, select(score, mask, k / 5, "sample", "sequence", noise))


@pytest.mark.parametrize(("alpha", "gamma"), [(1, 0), (0.5, 0), (2, 1), (0, 3), (1.5, 0.7)])
def test_powers_of_entropy_and_divergence_by_hand(alpha, gamma):
    """w = (H / log V)^alpha (J / log 2)^gamma, each at least 1e-8 before the power."""
    h, j = [0.0, 0.3, 1.1, 2.0], [0.6, 0.0, 0.2, math.log(2)]
    wanted = [
        max(a / math.log(9), 1e-8) ** alpha * max(b / math.log(2), 1e-8) ** gamma for a, b in zip(h, j, strict=True)
    ]
    found = sampling_weights(of(h), of(j), alpha, gamma, vocabulary=9)
    assert found.tolist() == pytest.approx(wanted, rel=DOUBLE)
    mask = torch.tensor([True, False, True, False])
    broken = torch.where(mask, of(h), torch.nan)
    part = sampling_weights(broken, of(j), alpha, gamma, vocabulary=9, mask=mask)
    assert part.tolist() == pytest.approx([w * m for w, m in zip(wanted, mask.tolist(), strict=True)], rel=DOUBLE)


@pytest.mark.parametrize("mode", MODES)
def test_powers_one_and_zero_are_the_entropy_itself(mode):
    h, noise = noise_of(4, 30).square() * 3, noise_of(4, 30, seed=1)
    mask = noise_of(4, 30, seed=2) < 0.8
    plain = select(h, mask, 0.3, mode, noise=noise)
    assert torch.equal(select(sampling_weights(h, mask=mask), mask, 0.3, mode, noise=noise, least=0), plain)
    # the unit is that of all weights alike, so it changes no draw
    told = sampling_weights(h, vocabulary=50_000, mask=mask)
    assert torch.equal(select(told, mask, 0.3, mode, noise=noise, least=0), plain)


@pytest.mark.parametrize("k", [1, 2])
def test_draws_by_powers_have_the_exact_inclusion_probabilities(k):
    h, j, draws = torch.tensor([0.2, 0.4, 1.0, 0.0]), torch.tensor([0.5, 0.1, 0.3, 0.6]), 20_000
    weight = sampling_weights(h, j, 2, 1, vocabulary=8)
    mask, noise = torch.ones(draws, 4, dtype=torch.bool), noise_of(draws, 4)
    kept = select(weight.repeat(draws, 1), mask, k / 4, "sample", "sequence", noise, 0)
    for p, found in zip(inclusion(weight.tolist(), k), kept.double().mean(0).tolist(), strict=True):
        assert found == pytest.approx(p, abs=SIGMAS * math.sqrt(p * (1 - p) / draws) + FLOAT32)


def test_small_weights_stay_apart():
    """Weights far below 1e-8, which powers make, are still drawn in their proportion."""
    weight = sampling_weights(torch.tensor([1e-3, 2e-3]).double(), alpha=8)
    draws = 4000
    kept = select(weight.repeat(draws, 1), torch.ones(draws, 2, dtype=torch.bool), 0.5, "sample", "sequence",
                  noise_of(draws, 2), 0)  # fmt: skip
    p = 1 / (1 + 2**8)
    share = float(kept[:, 0].double().mean())
    assert share == pytest.approx(p, abs=SIGMAS * math.sqrt(p * (1 - p) / draws))
    assert select(
        torch.zeros(1, 2), torch.ones(1, 2, dtype=torch.bool), 0.5, "sample", noise=noise_of(1, 2), least=0
    ).any()


@pytest.mark.parametrize("keep", [0.2, 0.5, 0.8])
def test_averaged_over_its_own_luck_a_token_weighs_its_part_of_all(keep):
    """Given the noise of all others, the weight of each token is K / M on average: so any mean is unbiased."""
    weight = torch.tensor([[0.1, 0.4, 1.0, 0.0, 2.5, 0.7]])
    points, mask = 4000, torch.ones(1, 6, dtype=torch.bool)
    luck = (torch.arange(points).double() + 0.5) / points
    for token in (0, 1, 4):
        noise = noise_of(1, 6, seed=token).repeat(points, 1)
        noise[:, token] = luck
        many = unbiased(weight.repeat(points, 1), mask.repeat(points, 1), keep, "sequence", noise)
        step = float(many[:, token].max()) / points  # one point more or less
        assert float(many[:, token].mean()) == pytest.approx(max(int(keep * 6), 1) / 6, abs=step)
    kept = select(weight, mask, keep, "sample", noise=noise_of(1, 6))
    assert torch.equal(unbiased(weight, mask, keep, "batch", noise_of(1, 6)) != 0, kept)


@pytest.mark.parametrize("scope", ranks.SCOPES)
def test_the_weighed_mean_is_that_of_all_tokens(scope):
    """Over many draws the mean of the kept losses is off by chance alone; unweighed it is far off."""
    weight, value = noise_of(3, 7) + 0.05, noise_of(3, 7, seed=1)
    mask = noise_of(3, 7, seed=2) < 0.8
    value = value + 4 * weight  # what is drawn more often is larger
    found, plain = [], []
    for seed in range(2000):
        u = unbiased(weight, mask, 0.4, scope, noise_of(3, 7, seed=seed + 9))
        kept = u != 0
        found.append(float((u * value)[kept].mean()))
        plain.append(float(value[kept].mean()))
    found, wanted = torch.tensor(found), float(value[mask].mean())
    error = SIGMAS * float(found.std()) / math.sqrt(len(found))
    assert float(found.mean()) == pytest.approx(wanted, abs=error)
    assert abs(sum(plain) / len(plain) - wanted) > error


def test_everything_drawn_weighs_one():
    mask = noise_of(3, 7, seed=2) < 0.8
    assert torch.equal(unbiased(noise_of(3, 7), mask, 1.0, "batch", noise_of(3, 7, seed=1)), mask.double())
    none = torch.zeros(2, 3, dtype=torch.bool)
    assert not unbiased(torch.ones(2, 3), none, 0.5, "sequence", torch.rand(2, 3)).any()


def test_fewer_weights_than_draws():
    score = torch.tensor([0.0, 3.0, 0.0, 0.0])
    kept = select(score, torch.ones(4, dtype=torch.bool), 0.75, "sample", noise=noise_of(4))
    assert int(kept.sum()) == 3
    assert kept[1]


def test_nothing_to_choose_from():
    none = torch.zeros(2, 3, dtype=torch.bool)
    bad = torch.full((2, 3), torch.nan)
    assert not scores(bad, bad, mask=none).any()
    assert not select(bad, none, 0.2).any()
    assert not select(bad, none, 0.2, "sample", "sequence", torch.rand(2, 3)).any()
    assert select(bad[:0], none[:0], 0.2).shape == (0, 3)
    assert scores(bad[:0], bad[:0]).shape == (0, 3)
    assert scores(bad[:, :0], bad[:, :0], scope="sequence").shape == (2, 0)
    assert select(torch.ones(1, 1), torch.ones(1, 1, dtype=torch.bool), 0.1).all()


def test_no_gradient_and_inputs_untouched():
    h, d = torch.tensor([1.0, 2.0, 3.0], requires_grad=True), torch.tensor([3.0, 1.0, 2.0], requires_grad=True)
    for rule in RULES:
        assert not scores(h, d, d, rule).requires_grad
    assert h.tolist() == [1, 2, 3]


def test_equal_contexts_are_equal_after_rounding():
    """The same context run in two micro-batches differs by rounding; that must not decide who is kept."""
    exact = torch.linspace(0.1, 0.9, 9).repeat_interleave(20)
    mask, noise = torch.ones(180, dtype=torch.bool), noise_of(180)
    one, two = (ranks.coarse(exact + 2e-7 * (noise_of(180, seed=s).float() - 0.5), mask) for s in (1, 2))
    assert torch.equal(select(one, mask, 0.25, noise=noise), select(two, mask, 0.25, noise=noise))
    unlike = (exact + 2e-7 * (noise_of(180, seed=s).float() - 0.5) for s in (1, 2))
    assert not torch.equal(*(select(x, mask, 0.25, noise=noise) for x in unlike))


def test_quadrants():
    mask = torch.tensor([True] * 4 + [False])
    h, d = torch.tensor([3.0, 3, 0, 0, 9]), torch.tensor([3.0, 0, 3, 0, torch.nan])
    found = quadrants(h, d, mask)
    assert found.label.tolist() == [1, 2, 3, 4, 0]
    assert found.share == {"Q1": 0.25, "Q2": 0.25, "Q3": 0.25, "Q4": 0.25}
    assert (found.entropy_threshold, found.divergence_threshold) == (1.5, 1.5)
    moved = quadrants(h, d, mask, entropy_threshold=3.0, divergence_threshold=0.0)
    assert moved.label.tolist() == [3, 4, 3, 4, 0]  # above, not at, the threshold
    empty = quadrants(h, d, torch.zeros(5, dtype=torch.bool))
    assert (set(empty.share.values()), set(empty.label.tolist())) == ({0.0}, {0})


@given(numbers)
@settings(deadline=None)
def test_shares_add_up(pairs):
    h, d = plane(pairs)
    found = quadrants(h, d)
    assert sum(found.share.values()) == pytest.approx(1, abs=FLOAT32)
    assert found.entropy_threshold == pytest.approx(float(torch.quantile(h, 0.5)), abs=FLOAT32)


ONE = torch.ones(2, 3)
ALL = torch.ones(2, 3, dtype=torch.bool)
BROKEN = torch.tensor([[1.0, 1, 1], [1, torch.inf, 1]])


@pytest.mark.parametrize(
    ("call", "match"),
    [
        (lambda: scores(ONE, ONE, rule="soft"), "unknown rule 'soft'"),
        (lambda: scores(ONE, None), "soft_or needs divergence, which is None"),
        (lambda: scores(ONE, ONE, rule="q3"), "q3 needs divergence_forward"),
        (lambda: scores(ONE, BROKEN), "divergence is inf at token 1 of row 1"),
        (lambda: scores(ONE, ONE[:1]), r"divergence is torch.float32 of shape \(1, 3\)"),
        (lambda: scores(ONE, ONE, mask=ONE), "mask torch.float32"),
        (lambda: scores(ONE.long(), ONE), "entropy is torch.int64"),
        (lambda: scores(ONE, ONE, entropy_clip_quantile=0.0), "quantile is 0.0"),
        (lambda: scores(ONE, ONE, divergence_clip_quantile=1.1), "quantile is 1.1"),
        (lambda: scores(ONE, ONE, scope="microbatch"), "cut to fit into memory"),
        (lambda: select(ONE, ALL, 0.0), "keep is 0.0"),
        (lambda: select(ONE, ALL, 1.5), "keep is 1.5"),
        (lambda: select(ONE, ALL, float("nan")), "keep is nan"),
        (lambda: select(ONE, ALL, 0.5, "best"), "unknown mode 'best'"),
        (lambda: select(ONE, ALL, 0.5, scope="group"), "unknown scope 'group'"),
        (lambda: select(ONE[0], ALL[0], 0.5, scope="sequence"), r"has shape \(3,\)"),
        (lambda: select(ONE, ALL, 0.5, "sample"), "mode sample needs noise"),
        (lambda: select(ONE, ALL, 0.5, noise=ONE[0]), r"noise has shape \(3,\)"),
        (lambda: select(BROKEN, ALL, 0.5), "score is inf at token 1 of row 1"),
        (lambda: sampling_weights(ONE, gamma=1), "gamma is 1 and jsd is None"),
        (lambda: sampling_weights(ONE, alpha=-1), "alpha: is -1"),
        (lambda: sampling_weights(ONE, ONE, gamma=17), "gamma: is 17"),
        (lambda: sampling_weights(ONE, vocabulary=1), "vocabulary: is 1"),
        (lambda: sampling_weights(ONE, BROKEN, gamma=1), "jsd is inf at token 1 of row 1"),
        (lambda: quadrants(ONE, ONE, entropy_threshold=float("nan")), "entropy_threshold: is nan"),
    ],
)  # fmt: skip
def test_bad_input_is_named(call, match):
    with pytest.raises(UserError, match=match):
        call()
