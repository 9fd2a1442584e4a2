"""The sentiment world: texts, gold scorer, labels and flips."""

from pathlib import Path

import numpy as np
import pytest
from sklearn.feature_extraction.text import TfidfVectorizer

from steersman.core.errors import UserError
from steersman.task.sentiment import (
    Gold,
    Review,
    bradley_terry_labels,
    fit_gold,
    flip,
    lexicon_scores,
    load_reviews,
    sentences,
    split,
)

ROUNDING = 1e-12
GOOD = "a warm and moving film with great acting"
BAD = "a dull and boring film with awful acting"


def reviews(n: int) -> list[Review]:
    return [Review(f"{GOOD if i % 2 else BAD} number {i}", bool(i % 2), "imdb") for i in range(n)]


@pytest.fixture(scope="module")
def gold() -> Gold:
    return fit_gold(reviews(40), reviews(10), min_count=2)


def test_reviews_are_read_once_each_in_an_order_of_their_own(tmp_path: Path) -> None:
    file = tmp_path / "reviews.csv"
    rows = [f'"text <br /> {i % 7}",{int(i % 2)},imdb' for i in range(14)]
    file.write_text("text,label,source\n" + "\n".join(rows))
    found = load_reviews(file)
    assert len(found) == 7
    assert sorted(r.text for r in found) == [f"text   {i}" for i in range(7)]
    assert [r.text for r in found] != sorted(r.text for r in found)
    assert load_reviews(file) == found


def test_the_teachers_of_gold_are_not_seen_by_policies() -> None:
    teach, rest = split([*reviews(20_005), Review("short line", True, "rotten_tomatoes")])
    assert len(teach) == 20_000
    assert {r.text for r in teach} & {r.text for r in rest} == set()
    assert rest[-1].source == "rotten_tomatoes"


def test_sentences_are_whole_lines_or_the_first_three_of_a_review() -> None:
    long = Review("One two three four five six. " * 5 + "Seven.", True, "imdb")
    assert sentences([long]) == ["one two three four five six."]
    assert sentences([Review("too short", True, "imdb")]) == []
    line = Review("A line. With two sentences and more words here", True, "rotten_tomatoes")
    assert sentences([line]) == ["a line. with two sentences and more words here"]


def test_gold_is_the_tfidf_product(gold: Gold) -> None:
    texts = [GOOD, BAD, f"{GOOD} {BAD}", "unknown words only"]
    vectors = TfidfVectorizer(ngram_range=(1, 2), vocabulary=list(gold.terms), token_pattern=r"(?u)\b\w\w+\b")
    vectors.idf_ = gold.idf
    expected = vectors.transform(texts) @ gold.weight + gold.bias
    assert np.abs(gold.score(texts) - expected).max() <= ROUNDING
    assert gold.score(["unknown words only"])[0] == gold.bias
    assert gold.score([GOOD])[0] > 0 > gold.score([BAD])[0]
    assert gold.accuracy == 1.0


def test_gold_survives_its_file(gold: Gold, tmp_path: Path) -> None:
    gold.save(tmp_path)
    again = Gold.load(tmp_path)
    assert again.terms == gold.terms
    assert np.array_equal(again.score([GOOD, BAD]), gold.score([GOOD, BAD]))


def test_labels_follow_the_margin() -> None:
    n = 20_000
    margin = np.full(n, 1.0)
    share = bradley_terry_labels(margin, np.zeros(n), 0.5, seed=3).mean()
    expected = 1 / (1 + np.exp(-2.0))
    assert abs(share - expected) <= 4 * np.sqrt(expected * (1 - expected) / n)
    assert bradley_terry_labels(np.array([1e6]), np.array([0.0]), 1.0, 0).all()


def test_flips_are_nested_over_rates_and_have_their_rate() -> None:
    label = np.arange(10_000) % 2 == 0
    low, flipped_low = flip(label, 0.2, seed=5)
    high, flipped_high = flip(label, 0.4, seed=5)
    assert (flipped_high | ~flipped_low).all()
    assert ((low != label) == flipped_low).all()
    assert ((high != label) == flipped_high).all()
    assert abs(flipped_low.mean() - 0.2) <= 4 * np.sqrt(0.16 / 10_000)
    assert not flip(label, 0.0, seed=5)[1].any()
    assert (flip(label, 0.2, seed=6)[1] != flipped_low).any()


@pytest.mark.parametrize("rate", [-0.1, 0.5, float("nan")])
def test_impossible_rates_are_refused(rate: float) -> None:
    with pytest.raises(UserError, match=r"\[0, 0.5\)"):
        flip(np.array([True]), rate, 0)


def test_the_lexicon_knows_the_obvious() -> None:
    pytest.importorskip("vaderSentiment")
    assert lexicon_scores([GOOD])[0] > 0 > lexicon_scores([BAD])[0]
