"""What a study is: arms, cells, claims stated before the run, and what cannot be tested here and why.

A study is data plus four functions: `prepare` (built once, cached by content), `run` (one cell in one process), the
measures of its claims, and `show` (figures and samples of the report). Nothing here runs anything (`study.run`) or
judges anything (`study.verdict`).
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from steersman.stats import Interval
from steersman.store.run import RunDir

if TYPE_CHECKING:
    from steersman.study.report import Difference, Panel, Sample, StreamInfo

Word = Literal["supported", "contradicted", "inconclusive", "not testable here"]
ModeName = Literal["quick", "full", "gpu"]


@dataclass(frozen=True, slots=True)
class Arm:
    """One way of doing the thing; arms of a study usually differ in one component.

    Args:
        name: short name, used in tables and figures.
        settings: JSON values that define the arm completely once resolved.
        meaning: one line for the reader.
    """

    name: str
    settings: Mapping[str, Any]
    meaning: str = ""


@dataclass(frozen=True, slots=True)
class Cell:
    """One run: a part of the study, an arm, a task and a seed.

    Args:
        part: which of the study's experiments the cell belongs to.
        arm: the arm.
        task: JSON values that define the task (sample size, noise rate, ...).
        seed: seed of everything random in the run.
        needs: names of prepared artefacts the run reads.
    """

    part: str
    arm: Arm
    task: Mapping[str, Any]
    seed: int
    needs: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Artefact:
    """Something built once and shared by runs (a base policy, a scorer, data), cached by content.

    Args:
        name: short name.
        settings: JSON values that define it.
        build: ``build(settings, folder, inputs) -> str`` fills the empty `folder` and returns one line about what it
            made; `inputs` maps the names in `needs` to their finished folders.
        needs: names of artefacts that must exist first.
        reads: data files whose contents enter the identity.
        version: raise it when `build` changes what it makes.
    """

    name: str
    settings: Mapping[str, Any]
    build: Callable[[Mapping[str, Any], Path, Mapping[str, Path]], str]
    needs: tuple[str, ...] = ()
    reads: tuple[Path, ...] = ()
    version: int = 1


@dataclass(frozen=True, slots=True)
class Result:
    """A finished cell: what `Study.run` returned, and the machine's figures of it."""

    cell: Cell
    value: Mapping[str, Any]
    timing: Mapping[str, Any]
    folder: Path


@dataclass(frozen=True, slots=True)
class Shown:
    """What `Study.show` returns: the figures and samples of the report, in the order of the page."""

    panels: "tuple[Panel, ...]" = ()
    differences: "tuple[Difference, ...]" = ()
    samples: "tuple[Sample, ...]" = ()
    streams: "tuple[StreamInfo, ...]" = ()


@dataclass(frozen=True, slots=True)
class Finding:
    """What the measurement of one claim found, before correction over the study's claims.

    Args:
        estimate: our figure with its interval; None where nothing was measured.
        n: number of independent units (paired seeds, replications) behind it.
        p_for: p-value of the hypothesis that the claim is false (small = evidence for the claim); None = no test.
        p_against: p-value of the hypothesis that the claim is true; None = no test.
        holds: for exact statements (identities, enumerations) True or False; None otherwise.
        test: name of the test in words.
        equal: what was held equal between the arms.
        reference: the null value or margin, drawn on the axis.
        margin: half-width of an equivalence region around `reference`, if the claim is one of equivalence.
        unit: unit of the estimate.
        detail: one more sentence for the reader.
        counted: what `n` counts, in the plural.
    """

    estimate: Interval | None
    n: int
    p_for: float | None = None
    p_against: float | None = None
    holds: bool | None = None
    test: str = ""
    equal: str = ""
    reference: float | None = None
    margin: float | None = None
    unit: str = ""
    detail: str = ""
    counted: str = "seeds"


@dataclass(frozen=True, slots=True)
class Claim:
    """A statement written down before the run.

    Args:
        id: short label such as "C4".
        text: the claim in one sentence.
        paper: the paper's figure with its place, or who says it.
        measure: results of this mode -> `Finding`; None = the mode has no run that could test it.
        parts: parts of the study whose results it reads.
        pairs: paired units (seeds) that each mode gives a sign-flip permutation test, for planning; seeds added by
            the user add as many. An exact statement, or a test without such a limit, leaves it empty.
        sided: "two-sided" or "greater", for the smallest p-value the planner computes.
    """

    id: str
    text: str
    paper: str
    measure: Callable[[Sequence[Result]], Finding | None]
    parts: tuple[str, ...]
    pairs: Mapping[str, int] = field(default_factory=dict)
    sided: Literal["two-sided", "greater"] = "two-sided"


@dataclass(frozen=True, slots=True)
class Mode:
    """One size of a study.

    Args:
        name: "quick", "full" or "gpu".
        cells: the runs, in the order they are started.
        artefacts: what must be prepared for them.
        minutes: what it takes on two cores (one GPU for "gpu"), stated beforehand.
        note: what this size leaves out.
    """

    name: ModeName
    cells: tuple[Cell, ...]
    artefacts: tuple[Artefact, ...]
    minutes: float
    note: str = ""


@dataclass(frozen=True, slots=True)
class NotTestable:
    """Something the paper claims that cannot be tested here, and why."""

    what: str
    why: str


@dataclass(frozen=True, slots=True)
class Study:
    """A study of one method.

    Args:
        name: what the command line calls it.
        title: title of the report.
        question: what is asked, in one plain sentence.
        paper: authors, title, venue.
        version: version of the study's method; enters every run's identity, raise it when results would change.
        mode: ``mode(name, extra_seeds) -> Mode``; cheap, and more seeds only ever add cells. A study without that
            size raises `UserError`.
        run: ``run(cell, run_dir, artefacts) -> dict`` of JSON values; it resumes by itself from `run_dir`. The key
            "timing", if there is one, goes to ``timing.json`` (figures of the machine, ``tokens``) and must be the
            only place for what may differ between two executions.
        claims: all claims, whatever the mode.
        answer: results and verdict words by claim id -> one sentence in plain words for the top of the report.
        show: results -> figures and samples of the report.
        not_testable: what is left out and why.
        equal: what was held equal in every comparison.
        method_page: path of the method's page in the docs.
        preload: modules that a worker imports once before it forks the runs ("torch", ...); the study's own module
            then imports them inside its functions, so that listing studies stays quick.
    """

    name: str
    title: str
    question: str
    paper: str
    version: int
    mode: Callable[[ModeName, int], Mode]
    run: Callable[[Cell, RunDir, Mapping[str, Path]], dict[str, Any]]
    claims: tuple[Claim, ...]
    answer: Callable[[Sequence[Result], Mapping[str, Word]], str]
    show: Callable[[Sequence[Result]], Shown]
    not_testable: tuple[NotTestable, ...] = ()
    equal: str = ""
    method_page: str = ""
    preload: tuple[str, ...] = ()
