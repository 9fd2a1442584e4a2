"""rDPO: is a preference loss that corrects for wrong labels worth having? (Ray Chowdhury, Kini, Natarajan, ICML 2024)

Part A (`exact*`) is a log-linear world in which the truth is known; Part B (`sentiment*`) trains a small language model
on real film reviews. Both were declared before they were run.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from steersman.core.errors import UserError
from steersman.store.run import RunDir
from steersman.studies.rdpo import exact, sentiment_claims
from steersman.study.declare import Cell, Mode, ModeName, NotTestable, Result, Shown, Study, Word

MINUTES = {"quick": 1.5, "full": 19.0}
NOTES = {
    "quick": "Part B with three arms and three seeds: its claims can only stay open. Part A decides its own.",
    "full": "All arms and controls, ten seeds in Part B, forty in Part A.",
}


def mode(name: ModeName, extra_seeds: int = 0) -> Mode:
    """The runs of one size."""
    if name == "gpu":
        raise UserError("has no gpu mode: its models are made for two cores", where="rdpo", allowed="quick, full")
    from steersman.studies.rdpo.sentiment_world import artefacts

    cells = (*sentiment_claims.cells(name, extra_seeds), *exact.cells(name, extra_seeds))
    return Mode(name, cells, artefacts(), MINUTES[name], NOTES[name])


def run(cell: Cell, run_dir: RunDir, artefacts: Mapping[str, Path]) -> dict[str, Any]:
    """One run of either part."""
    if cell.part == sentiment_claims.PART:
        from steersman.studies.rdpo import sentiment

        return sentiment.run(cell, run_dir, artefacts)
    return exact.run(cell, run_dir, artefacts)


def answer(results: Sequence[Result], words: Mapping[str, Word]) -> str:
    """What came out, in plain words."""
    from steersman.studies.rdpo import sentiment_show

    told = [sentiment_show.sentence(results, words), exact.sentence(results)]
    return " ".join(t for t in told if t) or "Nothing has been run yet."


def show(results: Sequence[Result]) -> Shown:
    """Figures of both parts, arms against DPO, samples coloured by what each arm made of them."""
    from steersman.studies.rdpo import sentiment_show as text

    samples = text.samples(results)
    panels = (*text.panels(results), *exact.show(results))
    return Shown(panels, text.differences(results), samples, text.STREAMS if samples else ())


STUDY = Study(
    name="rdpo",
    title="rDPO on film reviews: preference labels that are often wrong",
    question="Is rDPO more robust to wrong preference labels than DPO, and would a tuned DPO do as well?",
    paper="Ray Chowdhury, Kini, Natarajan: Provably robust DPO. ICML 2024 (arXiv 2403.00409)",
    version=1,
    mode=mode,
    run=run,
    claims=(*exact.CLAIMS, *sentiment_claims.CLAIMS),
    answer=answer,
    show=show,
    not_testable=(
        NotTestable(
            "Helpful and harmless dialogues, judged by GPT-4", "neither the data nor the judge is available here"
        ),
        NotTestable("Models of the paper's size", "two cores; the models here have 0.17 M parameters"),
        NotTestable("The paper's tables", "its full text could not be read; claims are from the abstract and derived"),
    ),
    equal="pairs, labels and flips, data order, gradient steps, reference model, evaluation prompts and noise",
    method_page="docs/rdpo.md",
    preload=("torch", "transformers", "sklearn.linear_model", "steersman.studies.rdpo.sentiment"),
)
