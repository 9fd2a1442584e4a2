"""Scores by the package reasoning-gym, for a grading process.

The package is imported at the top, so that its import does not count against the time limit of the first answer; only
grading processes import this module. Leaves out: when it is called and what a failure means (`verifiable`).
"""

import json
from functools import lru_cache
from typing import Any

from reasoning_gym import create_dataset


def compare(answer: str, item: dict[str, Any]) -> dict[str, Any]:
    """The score that a generator gives to an answer to one of its own items: {"score": in [0, 1], "status": ...}.

    Args:
        answer: the answer.
        item: `name`, `config`, `size`, `seed` and `index`, from which the item is made again: some items do not survive
            being written as JSON.
    """
    data = _dataset(item["name"], json.dumps(item["config"], sort_keys=True), item["size"], item["seed"])
    score = float(data.score_answer(answer, data[item["index"]]))
    return {"score": score, "status": "correct" if score >= 1.0 else "wrong"}


@lru_cache(maxsize=16)
def _dataset(name: str, config: str, size: int, seed: int) -> Any:
    return create_dataset(name, **json.loads(config), size=size, seed=seed)
