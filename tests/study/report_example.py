"""A report with made-up but plausible numbers, of the size and kind that a study on preference losses gives."""

import math
import random

from steersman.page.number import Estimate
from steersman.study.report import (
    ClaimRow,
    CostRow,
    Difference,
    Line,
    NotTested,
    Panel,
    Report,
    Sample,
    StreamInfo,
    View,
)

HOSTILE = "</script><script>alert(1)</script><img src=x onerror=alert(2)>"
ARMS = ("dpo", "cdpo", "rdpo", "ipo", "dpo, beta tuned", "forward-corrected")
TEXT = (
    "The film| begins| like| a| hundred| others|,| and| then| the| camera| stays| on| her| face| for| a| minute|.|\n|"
    "It| is| the| best| scene| of| the| year|,| quiet| and| exact|;| nothing| in| the| dull| first| act| prepares| you|"
    " for| it|.| I| wanted| to| see| it| again| at| once|,| which| I| can|not| say| of| his| tedious| early| work|.|"
    "<|endoftext|>"
)
STREAMS = (
    StreamInfo("log-ratio", "nats", "signed", "log-probability under the policy minus that under the reference"),
    StreamInfo("entropy", "nats", "sequential", "how undecided the policy was before this token"),
    StreamInfo("weight", "", "sequential", "share of this token in the gradient"),
)


def _line(rng: random.Random, arm: str, x: tuple[float, ...], centre, noise: float, seeds: int = 5) -> Line:
    rows = []
    for _ in range(seeds):
        shift = rng.gauss(0, noise)
        rows.append(tuple(centre(v) + shift + rng.gauss(0, noise / 3) for v in x))
    mean = tuple(sum(column) / seeds for column in zip(*rows, strict=True))
    sd = [
        math.sqrt(sum((v - m) ** 2 for v in col) / (seeds - 1))
        for col, m in zip(zip(*rows, strict=True), mean, strict=True)
    ]
    half = [2.78 * s / math.sqrt(seeds) for s in sd]
    low, high = (tuple(m + k * h for m, h in zip(mean, half, strict=True)) for k in (-1, 1))
    return Line(arm, x, tuple(rows), mean, low, high)


def panels() -> tuple[Panel, ...]:
    rng = random.Random(1)
    slope = {"dpo": 3.2, "cdpo": 3.8, "rdpo": 1.6, "ipo": 2.9, "dpo, beta tuned": 2.0, "forward-corrected": 1.4}
    rates, steps = (0.0, 0.1, 0.2, 0.3, 0.4), tuple(float(s) for s in range(0, 301, 10))
    gold = [_line(rng, a, rates, lambda e, a=a: 1.25 - slope[a] * e * e * 1.6, 0.05) for a in ARMS]
    rise = [_line(rng, a, steps, lambda s, a=a: (1.3 - slope[a] / 6) * (1 - math.exp(-s / 80)), 0.03) for a in ARMS[:4]]
    sizes = (500.0, 1000.0, 2000.0, 4000.0, 8000.0, 16000.0, 32000.0)
    error = []
    for a, scale in (("rdpo", 26.0), ("forward-corrected", 23.0), ("dpo", 40.0)):
        line = _line(rng, a, sizes, lambda n, s=scale: math.log10(s / math.sqrt(n)), 0.035)
        rows = [tuple(10**v for v in row) for row in (*line.seeds, line.mean, line.low, line.high)]
        error.append(Line(a, sizes, tuple(rows[:-3]), *rows[-3:]))
    kl = [_line(rng, a, steps, lambda s, a=a: slope[a] * 0.5 * math.sqrt(s / 300) + 0.01, 0.04) for a in ARMS[:4]]
    broken = kl[1]
    lost = tuple(tuple(math.nan if i > 20 else v for i, v in enumerate(row)) for row in broken.seeds)
    cut = [tuple(math.nan if i > 20 else v for i, v in enumerate(r)) for r in (broken.mean, broken.low, broken.high)]
    kl[1] = Line("cdpo", steps, lost, *cut)
    return (
        Panel(
            "Gold reward against label noise",
            "share of flipped labels",
            "gold reward of samples (log-odds)",
            tuple(gold),
        ),
        Panel(
            "Parameter error against sample size",
            "pairs",
            "root mean square error, log scale",
            tuple(error),
            True,
            True,
            "Flip rate 0.3, ten dimensions.",
        ),
        Panel("Gold reward in training", "gradient step", "gold reward of samples (log-odds), 30 % flips", tuple(rise)),
        Panel("Distance from the reference", "gradient step", "KL to the reference (nats per sequence)", tuple(kl)),
    )


def claims() -> tuple[ClaimRow, ...]:
    same = "pairs, gradient steps, reference model, learning rate"
    return (
        ClaimRow(
            "A1",
            "rDPO is unbiased under label flips",
            "theorem (Sec. 3)",
            Estimate(0.00004, -0.00031, 0.00039, "nats"),
            20,
            0.0,
            0.001,
            "supported",
            "equivalent to zero within the margin",
            "two one-sided tests",
            0.0004,
            0.0024,
            "the same flips for both",
        ),
        ClaimRow(
            "A2",
            "Parameter error falls as n to the power −1/2",
            "rate (Thm 4.2)",
            Estimate(-0.51, -0.55, -0.47, "slope"),
            20,
            -0.5,
            None,
            "supported",
            "",
            "power-law fit, bootstrap over seeds",
            0.61,
            0.61,
            "features, ball",
        ),
        ClaimRow(
            "B1",
            "Better than DPO at 30 % flips with the same settings",
            "yes (Fig. 2)",
            Estimate(0.21, 0.09, 0.33, "log-odds"),
            5,
            0.0,
            0.05,
            "inconclusive",
            "five paired seeds cannot reach p < 0.05 after correction",
            "paired permutation test",
            0.0625,
            0.25,
            same,
        ),
        ClaimRow(
            "B2",
            "Still better once DPO's beta is tuned",
            "–",
            Estimate(-0.01, -0.06, 0.05, "log-odds"),
            5,
            0.0,
            0.05,
            "inconclusive",
            "the interval crosses the margin",
            "paired permutation test",
            0.81,
            1.0,
            same,
        ),
        ClaimRow(
            "B3",
            "Conservative DPO helps under noise",
            "no (Fig. 2)",
            Estimate(-0.17, -0.26, -0.09, "log-odds"),
            5,
            0.0,
            0.05,
            "contradicted",
            "worse than DPO beyond the margin",
            "paired permutation test",
            0.031,
            0.19,
            same,
        ),
        ClaimRow(
            "B4",
            "Holds with lexicon labels",
            "–",
            Estimate(math.nan, math.nan, math.nan, "log-odds"),
            0,
            0.0,
            0.05,
            "inconclusive",
            "all runs of this cell stopped: loss not finite",
            "",
            None,
            None,
            same,
        ),
        ClaimRow(
            "C1",
            "Wins on helpful and harmless dialogues",
            "62.3 % (Tab. 1)",
            None,
            0,
            None,
            None,
            "not testable here",
            "needs a GPT-4 judge",
            "",
            None,
            None,
            "",
        ),
    )


def sample(title: str, seed: int, tokens: tuple[str, ...]) -> Sample:
    rng = random.Random(seed)
    n, prompt = len(tokens), 6

    def stream(make):
        return tuple(None if i < prompt else make() for i in range(n))

    views = []
    truth = tuple(i for i in range(prompt, n) if rng.random() < 0.2)
    for arm, size in (("dpo", 0.6), ("rdpo", 0.9)):
        streams = {
            "log-ratio": stream(lambda s=size: rng.gauss(0.1, s)),
            "entropy": stream(lambda: rng.expovariate(0.7)),
            "weight": stream(lambda: rng.random() ** 2),
        }
        dropped = tuple(i >= prompt and rng.random() < 0.25 for i in range(n)) if arm == "rdpo" else None
        views.append(View(arm, streams, dropped))
    kept = sum(not views[1].dropped[i] for i in truth)
    return Sample(title, tokens, prompt, tuple(views), truth, f"{kept} of {len(truth)} kept by rdpo.")


def words() -> tuple[str, ...]:
    parts = TEXT.split("|")
    joined = "|".join(parts[-3:])  # the special token holds the separator
    return (*parts[:-3], joined)


def report(**changes) -> Report:
    rng = random.Random(2)
    long = tuple(f" {rng.choice(('good', 'dull', 'a', 'the', 'scene', 'of', 'nothing'))}" for _ in range(2000))
    other = (
        "فيلم",
        " جميل",
        " جدا",
        " و",
        "ممثلون",
        " رائعون",
        ".",
        " 映画",
        "は",
        "素晴らしい",
        "。",
        "\t",
        " ",
        "",
        "\u202e",
        HOSTILE,
    )
    differences = tuple(
        Difference(a, b, "Gold reward at 30 % flips", Estimate(d, d - 0.08, d + 0.1, "log-odds"))
        for i, a in enumerate(ARMS[:4])
        for k, b in enumerate(ARMS[:i])
        for d in [(i - k) * 0.09 - 0.13]
    )
    fields = {
        "study": "rdpo",
        "title": "Robust preference optimisation on film reviews",
        "sentence": (
            "At 30 % wrong labels rDPO scored 0.21 higher than DPO with the same settings; with five seeds that could "
            "be chance after correction. Once DPO's beta is tuned the two cannot be told apart."
        ),
        "mode": "full",
        "created": "2026-02-03 14:20 UTC",
        "stale": False,
        "claims": claims(),
        "panels": panels(),
        "differences": differences,
        "cost": tuple(
            CostRow(a, 25, 118.4 + 9 * i, 1_204_224 + 1000 * i, None if a == "ipo" else 412 + i)
            for i, a in enumerate(ARMS)
        ),
        "samples": (
            sample("held-out prompt 17", 3, words()),
            sample("two thousand tokens", 4, long),
            sample("other scripts", 5, other),
        ),
        "streams": STREAMS,
        "command": "steersman study run rdpo --full --seeds 5",
        "versions": {"steersman": "0.1.0", "torch": "2.13.0", "transformers": "5.23.0", "numpy": "2.4.0"},
        "machine": "2 cores, x86-64, 7.6 GiB",
        "equal": "pairs, gradient steps, reference model, prompts and sampling noise.",
        "not_tested": (
            NotTested("Helpful and harmless dialogues", "the judge of the paper is a commercial model"),
            NotTested("Models of several billion parameters", "not on two cores in twenty minutes"),
        ),
        "method_page": "https://example.org/methods/rdpo.html",
        "downloads": (("result.json", "result.json"),),
    }
    return Report(**{**fields, **changes})
