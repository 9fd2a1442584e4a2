"""ADORA's classes at fixed weights: how often two draws of responses disagree, and how often the length criterion holds
by the number of right responses; and both released programs' tables.

Of each prompt 128 responses are drawn. The first G of either half are two independent groups of size G. "By chance"
deals the same lengths out among right and wrong responses at random. Leaves out: training (`studies.rl_runs`).
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from steersman.core.noise import permutation
from steersman.core.types import STOP_LENGTH
from steersman.language.decode import generate
from steersman.language.load import load_model
from steersman.objective.advantage.adora import PRESETS, adora_class, adora_weights
from steersman.store.run import RunDir
from steersman.studies.adora.names import CRITERIA, GROUPS
from steersman.studies.chain_sum_policy import SETTINGS, model_folder
from steersman.study.declare import Cell
from steersman.study.progress import Progress
from steersman.task import chain_sum
from steersman.task.chain_sum import ChainSum

HALF = max(GROUPS)
OF = 8
"""Size of the groups of which right responses are counted."""
TABLE: tuple[tuple[str, tuple[int, ...], tuple[int, ...], tuple[int, ...], tuple[float, float]], ...] = (
    ("right and wrong, the criterion holds", (1, 1, 0, 0), (5, 9, 6, 8), (0, 0, 0, 0), (1.0, 1.0)),
    ("right and wrong, it does not hold", (1, 1, 0, 0), (5, 6, 6, 8), (0, 0, 0, 0), (0.1, 0.1)),
    ("equal lengths", (1, 1, 0, 0), (7, 7, 7, 7), (0, 0, 0, 0), (0.1, 0.1)),
    ("all wrong", (0, 0, 0, 0), (5, 6, 7, 8), (0, 0, 0, 0), (0.1, 1.0)),
    ("all right", (1, 1, 1, 1), (5, 6, 7, 8), (0, 0, 0, 0), (1.0, 0.1)),
    ("every wrong response was cut", (1, 1, 0, 0), (5, 6, 9, 9), (0, 0, 1, 1), (1.0, 0.1)),
)
"""Group, right, lengths, cut, weight in the text program and in the vision program."""


def run(cell: Cell, run_dir: RunDir, policy: Path) -> dict[str, Any]:
    """Classes of `cell.task["prompts"]` prompts.

    Returns:
        ``tables``: cells of the programs' tables that are reproduced, and cells; ``flicker``: criterion -> size of the
        group -> for each prompt whether its class changed; ``longer``: for 1 to 7 right responses of 8 the groups in
        which the length criterion held, those by chance, and all groups.
    """
    task, n = ChainSum.model_validate(cell.arm.settings["task"]), int(cell.task["prompts"])
    given = chain_sum.prompts(task, n, seed=cell.seed, purpose="classes")
    drawn = generate(
        load_model(model_folder(policy)),
        given,
        max_new_tokens=task.max_response + SETTINGS["spare"],
        stop_ids=chain_sum.EOS,
        seed=cell.seed,
        samples_per_prompt=2 * HALF,
    )
    right = chain_sum.grade(drawn).parts["correct"].view(n, 2 * HALF)
    length = (drawn.length - drawn.prompt_length).view(n, 2 * HALF)
    cut = (drawn.stop == STOP_LENGTH).view(n, 2 * HALF)
    Progress(run_dir.path, 1, "draws").advance(1)
    return {
        "tables": list(_tables()),
        "flicker": {c: {str(g): _flicker(right, length, cut, g, c) for g in GROUPS} for c in CRITERIA},
        "longer": _longer(right, length, cut, cell.seed),
    }


def _tables() -> tuple[int, int]:
    """Cells of the programs' tables that `adora_weights` reproduces, and how many there are."""
    good = 0
    for _, right, length, cut, expected in TABLE:
        rows = torch.tensor(right).bool(), torch.tensor(length), torch.zeros(len(right), dtype=torch.long)
        for preset, weight in zip(PRESETS, expected, strict=True):
            found = adora_weights(*rows, torch.tensor(cut).bool(), preset=preset)
            good += bool((found == torch.tensor(weight)).all())
    return good, len(TABLE) * len(PRESETS)


def _class(right: Tensor, length: Tensor, cut: Tensor, criterion: str) -> Tensor:
    """The class of each group; a row of the arguments is a group."""
    group = torch.arange(len(right)).repeat_interleave(right.shape[1])
    found = adora_class(right.flatten(), length.flatten(), group, cut.flatten(), criterion)
    return found.view(right.shape)[:, 0]


def _flicker(right: Tensor, length: Tensor, cut: Tensor, size: int, criterion: str) -> list[int]:
    halves = (slice(0, size), slice(HALF, HALF + size))
    one, two = (_class(right[:, h], length[:, h], cut[:, h], criterion) for h in halves)
    return (one != two).long().tolist()


def _longer(right: Tensor, length: Tensor, cut: Tensor, seed: int) -> Mapping[str, list[int]]:
    right, length, cut = (x.reshape(-1, OF) for x in (right, length, cut))
    order = torch.stack([permutation(OF, seed, "adora/chance", i) for i in range(len(right))])
    holds = _class(right, length, cut, "length") == 1
    chance = _class(right, length.gather(1, order), cut.gather(1, order), "length") == 1
    count = right.sum(1)
    of = [count == k for k in range(1, OF)]
    return {
        "holds": [int(holds[rows].sum()) for rows in of],
        "chance": [int(chance[rows].sum()) for rows in of],
        "groups": [int(rows.sum()) for rows in of],
    }
