"""The runs of the causal-minimax study: in each, all methods see the same worlds and rows.

Leaves out: claims (`claims`), what a run does (`exact`, `search`, `estimated`, `gate`, `files`).
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from steersman.core.errors import UserError
from steersman.studies.causal_minimax.names import (
    BLOCKS,
    ESTIMATED_PER_CELL,
    ESTIMATED_WORLDS,
    GATE_ROWS,
    GATE_SEEDS,
    GRAPHS,
    PARTS,
    PER_CELL,
    ROWS,
    SEARCHED,
    SPLITS,
)
from steersman.study.declare import Arm, Cell, ModeName

ALL = Arm("all methods", {}, "every subset or method on the same worlds and rows")
ESTIMATED_FROM = 100_000
"""Seeds of the worlds that are estimated, apart from those of the exact part."""


def cells(mode: ModeName, extra_seeds: int = 0, data: bool = False) -> tuple[Cell, ...]:
    """The runs of a size; an extra seed adds a block of worlds to both parts and a draw of the gate."""
    if mode == "gpu":
        raise UserError("has no gpu mode: nothing in it needs one", where="causal-minimax", allowed="quick, full")
    task = {"sizes": list(SEARCHED[mode]), "graphs": GRAPHS[mode]}
    found = [Cell(PARTS["search"], ALL, task, 0)]
    for i in range(BLOCKS[mode] + extra_seeds):
        found.append(Cell(PARTS["exact"], ALL, {"worlds": PER_CELL}, i))
    for i in range(ESTIMATED_WORLDS[mode] // ESTIMATED_PER_CELL + extra_seeds):
        found.append(Cell(PARTS["estimated"], ALL, {"worlds": ESTIMATED_PER_CELL, "rows": list(ROWS[mode])}, i))
    for i in range(GATE_SEEDS[mode] + extra_seeds):
        found.append(Cell(PARTS["gate"], ALL, {"rows": GATE_ROWS}, i))
    for part, splits in SPLITS.items() if data and mode == "full" else ():
        found += [Cell(PARTS[part], ALL, {"file": part}, i, ("data",)) for i in range(splits)]
    return tuple(found)


def run(cell: Cell, artefacts: Mapping[str, Path]) -> dict[str, Any]:
    """One run."""
    if cell.part == PARTS["search"]:
        from steersman.studies.causal_minimax import search

        return search.run(list(cell.task["sizes"]), int(cell.task["graphs"]), cell.seed)
    if cell.part == PARTS["exact"]:
        from steersman.studies.causal_minimax import exact

        worlds = int(cell.task["worlds"])
        return exact.run(cell.seed * worlds, worlds)
    if cell.part == PARTS["estimated"]:
        from steersman.studies.causal_minimax import estimated

        worlds = int(cell.task["worlds"])
        return estimated.run(ESTIMATED_FROM + cell.seed * worlds, worlds, list(cell.task["rows"]))
    if cell.part == PARTS["gate"]:
        from steersman.studies.causal_minimax import gate

        return gate.run(int(cell.task["rows"]), cell.seed)
    from steersman.studies.causal_minimax import files

    return files.run(artefacts["data"], str(cell.task["file"]), cell.seed)
