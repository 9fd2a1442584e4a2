"""Part A of the rDPO study: a miniature run, and every claim's measure on results that support, refute, leave open."""

import json
import math
from pathlib import Path

import numpy as np
import pytest

from steersman.stats import holm
from steersman.store.run import RunDir
from steersman.studies.rdpo import exact
from steersman.studies.rdpo.exact_claims import PREDICTED_MARGIN, predicted
from steersman.studies.rdpo.exact_data import (
    CURVES,
    FAMILY,
    FEATURES,
    FLIP_RATES,
    METRICS,
    NORM,
    PART,
    Point,
    Table,
    at,
)
from steersman.study.declare import Result

ALPHA = 0.05
SEEDS = 12
CLAIMS = {claim.id: claim for claim in exact.CLAIMS}
SAMPLES = (2000, 4000, 8000, 16000, 32000)


def noise(name, size=SEEDS, spread=1.0):
    """Fixed noise of mean zero and the standard deviation asked for."""
    x = np.random.default_rng(list(str(name).encode())).standard_normal(size)
    return spread * (x - x.mean()) / x.std()


def results(values, seeds=SEEDS):
    """Finished cells from {(point, metric): array over seeds}; metrics not given are 0."""
    fits = []
    for point in dict.fromkeys(p for p, _ in values):
        metrics = {m: list(map(float, values.get((point, m), np.zeros(seeds)))) for m in METRICS}
        fits.append({**point._asdict(), "seeds": list(range(seeds)), "beta": 1.0, **metrics})
    cell = exact.cells("quick")[1]
    return [Result(cell, {"fits": fits}, {}, Path())]


def verdict(finding):
    """The word that the p-values stand for before correction."""
    assert 0 <= finding.p_for <= 1
    assert 0 <= finding.p_against <= 1
    assert not (finding.p_for < ALPHA and finding.p_against < ALPHA)
    return "for" if finding.p_for < ALPHA else "against" if finding.p_against < ALPHA else "open"


def two(a, b, metric, gap, spread=0.05, tag=0):
    """Values of two points whose mean difference a - b is `gap`."""
    return {
        (a, metric): 1 + gap + noise(2 * tag + 1, spread=spread),
        (b, metric): 1 + noise(2 * tag + 2, spread=spread),
    }


ORDERINGS = {
    "C3a": [(at(f, e, "dpo"), at(f, e, "rdpo")) for f in FEATURES for e in FLIP_RATES],
    "C3b": [(at(f, e, "cdpo"), at(f, e, "dpo")) for f in FEATURES for e in FLIP_RATES],
    "C5": [(at(f, 0.0, "rdpo", e), at(f, 0.0, "dpo")) for f in FEATURES for e in (0.1, 0.2, 0.3)],
    "C6": [(at("skewed", e, "rdpo"), at("skewed", e, "forward")) for e in (0.3, 0.4)],
    "C7a": [
        (at("gaussian", 0.3, "rdpo", e), at("gaussian", 0.3, "rdpo"))
        for e in (0.0, 0.05, 0.1, 0.15, 0.2, 0.4, 0.45)
    ],
    "C7b": [
        (at("gaussian", 0.3, "rdpo", 0.3 + d), at("gaussian", 0.3, "rdpo", 0.3 - d)) for d in (0.05, 0.1, 0.15)
    ],
}  # fmt: skip


def rounded(point):
    return point._replace(assumed=round(point.assumed, 10))


@pytest.mark.parametrize("name", ORDERINGS)
@pytest.mark.parametrize("gap, word", [(0.5, "for"), (-0.5, "against"), (0.0, "open")])
def test_orderings_can_be_supported_contradicted_and_left_open(name, gap, word):
    values = {}
    for tag, (worse, better) in enumerate(ORDERINGS[name]):
        shared = {key: value for key, value in values.items() if key[0] == rounded(better)}
        values |= two(rounded(worse), rounded(better), "error", gap, tag=tag) | shared
    finding = CLAIMS[name].measure(results(values))
    assert verdict(finding) == word
    assert math.copysign(1, finding.estimate.value) == math.copysign(1, gap) or word == "open"


@pytest.mark.parametrize("name", ["C3a", "C3b", "C5", "C6", "C7b"])
def test_one_setting_that_disagrees_is_enough_to_lose_support(name):
    values = {}
    for tag, (worse, better) in enumerate(ORDERINGS[name]):
        values |= two(rounded(worse), rounded(better), "error", -0.5 if tag == 1 else 0.5, tag=tag)
    assert verdict(CLAIMS[name].measure(results(values))) != "for"


@pytest.mark.parametrize("gap, word", [(0.01, "for"), (-0.01, "against"), (0.0, "open")])
def test_skewed_direction(gap, word):
    values = two(at("skewed", 0.3, "rdpo"), at("skewed", 0.3, "dpo"), "cosine", gap, spread=0.005)
    assert verdict(CLAIMS["C3f"].measure(results(values))) == word


@pytest.mark.parametrize("gap, spread, word", [(0.0, 0.0005, "for"), (0.01, 0.0005, "against"), (0.0, 0.02, "open")])
def test_same_direction_is_an_equivalence(gap, spread, word):
    points = [at("gaussian", 0.3, loss) for loss in ("dpo", "cdpo", "rdpo")]
    values = {(p, "cosine"): 0.98 + gap * (p.loss == "rdpo") + noise(i, spread=spread) for i, p in enumerate(points)}
    assert verdict(CLAIMS["C3c"].measure(results(values))) == word


@pytest.mark.parametrize("share, word", [(0.9, "for"), (0.1, "against"), (0.5, "open")])
def test_mostly_length_splits_the_squared_error(share, word):
    values = {}
    for f in FEATURES:
        # DPO misses by (its length)^2 + (its direction)^2 = 1; rDPO by almost nothing
        miss = share + noise(f"length {f}", spread=0.02)
        values[at(f, 0.3, "dpo"), "error"] = np.ones(SEEDS)
        values[at(f, 0.3, "dpo"), "length"] = 1 - np.sqrt(miss) / NORM
        values[at(f, 0.3, "rdpo"), "error"] = np.full(SEEDS, 1e-3)
        values[at(f, 0.3, "rdpo"), "length"] = np.ones(SEEDS)
    finding = CLAIMS["C3d"].measure(results(values))
    assert verdict(finding) == word
    assert finding.estimate.value == pytest.approx(2 * share - 1, abs=1e-5)


@pytest.mark.parametrize("gap, word", [(0.5, "for"), (-0.5, "against"), (0.0, "open")])
def test_tuned_dpo_needs_both_measures(gap, word):
    a, b = at("gaussian", 0.3, "rdpo"), at("gaussian", 0.3, "dpo_tuned")
    values = two(a, b, "error", gap) | two(a, b, "regularised", gap, tag=1)
    assert verdict(CLAIMS["C3e"].measure(results(values))) == word
    mixed = two(a, b, "error", 0.5) | two(a, b, "regularised", -0.5, tag=1)
    assert verdict(CLAIMS["C3e"].measure(results(mixed))) != "for"


def law(scale=1.0, exponent=-0.5, spread=0.2, inflate=None):
    """Errors of rDPO and of DPO on clean labels: the sandwich's prediction times scale, with another exponent."""
    values = {}
    for f in FEATURES:
        for n in SAMPLES:
            for e in (0.0, *FLIP_RATES):
                point = Point(f, 10, n, e, "rdpo" if e else "dpo", e)
                base = predicted(point) if inflate is None else 0.05 * inflate ** (e > 0) / (1 - 2 * e)
                x = noise(f"{f}{n}{e}", spread=spread)
                bent = base * scale * (n / 8000) ** (exponent + 0.5)
                values[point, "error"] = bent * np.sqrt(np.exp(x) / np.exp(x).mean())
    return results(values)


@pytest.mark.parametrize(
    "exponent, spread, word", [(-0.5, 0.1, "for"), (-0.3, 0.1, "against"), (-0.7, 0.1, "against"), (-0.5, 3.0, "open")]
)
def test_rate_in_n_is_an_equivalence(exponent, spread, word):
    finding = CLAIMS["C2a"].measure(law(exponent=exponent, spread=spread))
    assert verdict(finding) == word
    if spread < 1:
        assert finding.estimate.value == pytest.approx(exponent, abs=0.02)


@pytest.mark.parametrize("scale, spread, word", [(1.0, 0.1, "for"), (1.3, 0.1, "against"), (1.0, 3.0, "open")])
def test_prediction_is_an_equivalence(scale, spread, word):
    finding = CLAIMS["C2b"].measure(law(scale, spread=spread))
    assert verdict(finding) == word
    assert finding.margin == PREDICTED_MARGIN
    assert finding.estimate.value == pytest.approx(scale**2, rel=1e-6)


@pytest.mark.parametrize("inflate, word", [(1.5, "for"), (0.7, "against"), (1.0, "open")])
def test_envelope(inflate, word):
    finding = CLAIMS["C2c"].measure(law(inflate=inflate))
    assert verdict(finding) == word
    assert finding.estimate.value == pytest.approx(math.log(inflate), abs=0.1)


def test_unbiasedness_holds_and_would_be_seen_to_fail():
    cell = exact.cells("quick")[0]
    value = exact.run(cell, RunDir(Path("unused")), {})
    assert CLAIMS["C1"].measure([Result(cell, value, {}, Path())]).holds is True
    assert value["exact"]["dpo"]["loss"] > 0.1  # the losses that do not correct are not unbiased
    assert value["exact"]["cdpo"]["gradient"] > 0.1
    biased = {**value, "exact": {**value["exact"], "rdpo": {"loss": 0.0, "gradient": 1e-9}}}
    assert CLAIMS["C1"].measure([Result(cell, biased, {}, Path())]).holds is False
    off = [{**row, "gradient_score": 4.5} if i == 3 else row for i, row in enumerate(value["monte_carlo"])]
    assert CLAIMS["C1"].measure([Result(cell, {**value, "monte_carlo": off}, {}, Path())]).holds is False


@pytest.mark.parametrize("name", CLAIMS)
def test_without_results_nothing_is_claimed(name):
    assert CLAIMS[name].measure([]) is None


@pytest.mark.parametrize("name", sorted(set(CLAIMS) - {"C1"}))
def test_a_single_seed_decides_nothing(name):
    values = {(p, m): np.ones(1) for p in _every_point() for m in ("error", "length", "cosine", "regularised")}
    finding = CLAIMS[name].measure(results(values, 1))
    assert finding is None


def _every_point():
    cases = [tuple(case) for cell in exact.cells("quick")[1:] for case in cell.task["cases"]]
    return {at(f, e, loss, assumed) for f in FEATURES for e, loss, assumed in cases}


@pytest.fixture(scope="module")
def small():
    """Both kinds of fit in both worlds, two seeds, few pairs."""
    found = []
    for cell in exact.cells("quick"):
        if cell.task["kind"] == "fits":
            task = {**cell.task, "samples": [300], "replications": 2}
            cell = type(cell)(cell.part, cell.arm, task, cell.seed)
            value = exact.run(cell, RunDir(Path("unused")), {})
            found.append(Result(cell, json.loads(json.dumps(value, allow_nan=False)), {}, Path()))
    return found


def test_a_miniature_run_fits_everything_and_reports_it(small):
    table = Table(small)
    losses = {p.loss for p in table.points()}
    assert losses == {*CURVES, *FAMILY}
    for point in table.points():
        for metric in METRICS:
            values = list(table.values(point, metric).values())
            assert len(values) == 2
            assert all(math.isfinite(v) for v in values)
    dpo, rdpo = (Point("gaussian", 10, 300, 0.3, loss, 0.3) for loss in ("dpo", "rdpo"))
    assert table.values(dpo, "length")[1000] < table.values(rdpo, "length")[1000]
    none = Point("gaussian", 10, 300, 0.3, "rdpo", 0.0)  # rDPO that assumes no flips is DPO
    assert table.values(none, "error") == pytest.approx(table.values(dpo, "error"), rel=1e-6)
    alias = Point("gaussian", 10, 300, 0.0, "forward", 0.0)
    assert table.values(alias, "error") == table.values(alias._replace(loss="dpo"), "error")


def test_a_run_is_repeated_bit_for_bit_and_blocks_of_seeds_do_not_matter(small):
    cell = small[0].cell
    assert exact.run(cell, RunDir(Path("unused")), {}) == small[0].value
    alone = type(cell)(cell.part, cell.arm, {**cell.task, "replications": 1}, cell.seed + 1)
    for one, both in zip(exact.run(alone, RunDir(Path("unused")), {})["fits"], small[0].value["fits"], strict=True):
        assert one["error"][0] == pytest.approx(both["error"][1], rel=1e-6)


def test_ripo_is_robust_and_ipo_is_not(small):
    table = Table(small)
    ipo, ripo = (Point("gaussian", 10, 300, 0.3, loss, 0.3) for loss in ("ipo", "ripo"))
    # rIPO is IPO at a smaller tau: longer by 1/(1 - 2 eps), the same direction
    ratio = np.array(list(table.values(ripo, "length").values())) / list(table.values(ipo, "length").values())
    assert ratio == pytest.approx(2.5, rel=1e-4)


def test_tuned_beta_is_the_best_scale_of_dpo():
    from steersman.task.log_linear import World

    beta = exact.tuned_beta(World("gaussian", 3), 2000, 0.3)
    assert 0.15 < beta < 0.4  # near the length ratio of DPO at this rate
    assert exact.tuned_beta(World("gaussian", 3), 2000, 0.0) == pytest.approx(1.0, abs=0.05)


def test_figures_and_sentence_come_from_the_results(small):
    panels = exact.show(small)
    assert panels
    for panel in panels:
        for line in panel.lines:
            assert all(low <= mid <= high for low, mid, high in zip(line.low, line.mean, line.high, strict=True))
    assert exact.show([]) == ()
    assert exact.sentence(small) == ""  # the point at which losses are compared was not run
    values = {(at("gaussian", 0.3, loss), "error"): np.full(SEEDS, v) for loss, v in
              (("rdpo", 0.25), ("dpo", 1.5), ("cdpo", 1.75), ("dpo_tuned", 0.2))}  # fmt: skip
    text = exact.sentence(results(values))
    assert all(number in text for number in ("0.25", "1.50", "1.75", "0.20"))


def test_cells_of_each_mode():
    assert exact.cells("gpu") == ()
    quick, more = exact.cells("quick"), exact.cells("quick", 2)
    assert more[: len(quick)] == quick
    assert {cell.seed for cell in more[len(quick) :]} == {1012, 1013}
    assert all(cell.part == PART for cell in exact.cells("full"))
    assert max(n for cell in quick if "samples" in cell.task for n in cell.task["samples"]) == 8000
    assert json.dumps([dict(cell.task) for cell in exact.cells("full")])
    assert {cell.task["replications"] for cell in exact.cells("full") if cell.task["kind"] == "fits"} == {40}


def test_the_quick_mode_can_decide_its_claims():
    permuted = [0.5 ** claim.pairs["quick"] for claim in exact.CLAIMS if claim.pairs]
    assert holm([*permuted, *[0.5] * 12]).min() < ALPHA
