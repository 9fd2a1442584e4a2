"""Transitions from and to Minari data sets, through Minari's own reader and its buffer interface.

Minari is the extra `control`. Its recorder is not used: it would need jax. Leaves out: downloading, recording.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from steersman.core.errors import UserError, one_line
from steersman.offline.arrays import actions, flags, numeric, observations, rewards
from steersman.offline.chunks import check_finite
from steersman.offline.rollouts import discrete
from steersman.offline.transitions import Transitions

INSTALL = "pip install 'steersman[control]'"


def is_minari(path: Path) -> bool:
    """Whether a folder is a Minari data set, or its folder `data`."""
    return any((p / "metadata.json").is_file() for p in (path, path / "data"))


def from_minari(dataset: Any) -> Transitions:
    """Transitions of all episodes.

    Args:
        dataset: a `minari.MinariDataset`, the folder of one, or the id of one that Minari finds on this machine.

    Raises:
        UserError: Minari is not installed; nothing there; observations or actions that are dicts or tuples; NaN; an
            episode inside the data that is neither terminated nor truncated.

    Edge cases: an episode that stops without a flag is cut. Values keep their dtypes.
    """
    found = _load(dataset)
    size, first = discrete(found.spec.action_space)
    parts: dict[str, list[np.ndarray]] = {
        k: [] for k in ("obs", "next_obs", "action", "reward", "terminated", "truncated")
    }
    for episode in _episodes(found):
        where = f"episode {episode.id}"
        for name, value in (("observations", episode.observations), ("actions", episode.actions)):
            if not isinstance(value, np.ndarray):
                raise UserError(f"{name} are a {type(value).__name__}", where=where, allowed="one array",
                                cure="flatten the spaces first (gymnasium.wrappers.FlattenObservation)")  # fmt: skip
        seen = observations("observations", numeric("observations", episode.observations))
        check_finite(f"{where}, observations", seen)
        steps = len(episode.rewards)
        if len(seen) != steps + 1:
            raise UserError(
                f"has {len(seen)} observations for {steps} steps", where=where, allowed="one more than steps"
            )
        row = {
            "obs": seen[:-1], "next_obs": seen[1:], "action": numeric("actions", episode.actions),
            "reward": rewards(numeric("rewards", episode.rewards)),
            "terminated": flags("terminations", numeric("terminations", episode.terminations)),
            "truncated": flags("truncations", numeric("truncations", episode.truncations)),
        }  # fmt: skip
        for k, x in row.items():
            parts[k].append(x)
    if not parts["reward"]:
        raise UserError("has no episodes", where="Minari data set")
    offsets = np.cumsum([0, *(len(x) for x in parts["reward"])]).astype(np.int64)
    whole = {k: np.concatenate(v) for k, v in parts.items()}
    whole["action"], n_actions = actions(whole["action"] if size is None else whole["action"] - first, size)
    return Transitions(**whole, episode=offsets, n_actions=n_actions).check()


def to_minari(data: Transitions, dataset_id: str, **known: Any) -> Any:
    """Write whole episodes as a Minari data set; gives the `minari.MinariDataset`.

    Args:
        data: transitions.
        dataset_id: Minari's id, such as "building/heating-v0".
        known: options of `minari.create_dataset_from_buffers` (environment, author, description ...).

    Raises:
        UserError: Minari is not installed; an episode that is not whole, which Minari cannot hold; a data set of this
            id exists.
    """
    minari = _minari()
    import gymnasium

    last = data.episode[1:] - 1
    open_ended = ~(data.terminated | data.truncated)[last]
    if data.started is not None:
        open_ended |= ~data.started
    if open_ended.any():
        raise UserError(
            f"{int(open_ended.sum())} of {len(last)} episodes are cut or lack their first steps", where="to_minari",
            cure="leave them out with slice(start, stop)",
        )  # fmt: skip
    buffers = []
    for i, (a, b) in enumerate(zip(data.episode[:-1], data.episode[1:], strict=True)):
        seen = np.concatenate([data.obs[a:b], data.next_obs[b - 1 : b]])
        buffers.append(
            minari.data_collector.EpisodeBuffer(
                id=i, observations=seen, actions=np.asarray(data.action[a:b]), rewards=np.asarray(data.reward[a:b]),
                terminations=np.asarray(data.terminated[a:b]), truncations=np.asarray(data.truncated[a:b]),
            )
        )  # fmt: skip
    spaces = {
        "observation_space": _box(gymnasium, data.obs),
        "action_space": gymnasium.spaces.Discrete(data.n_actions or int(data.action.max()) + 1)
        if data.discrete
        else _box(gymnasium, data.action),
    }
    if "env" in known:
        spaces = {}
    try:
        return minari.create_dataset_from_buffers(dataset_id, buffers, **spaces, **known)
    except (ValueError, OSError, ImportError) as error:
        raise UserError(f"Minari refuses it: {one_line(str(error))}", where=f"Minari data set {dataset_id}") from None


def _box(gymnasium: Any, x: np.ndarray) -> Any:
    if x.dtype.kind == "f":
        return gymnasium.spaces.Box(-np.inf, np.inf, x.shape[1:], x.dtype)
    ends = (0, 1) if x.dtype.kind == "b" else (np.iinfo(x.dtype).min, np.iinfo(x.dtype).max)
    return gymnasium.spaces.Box(*ends, x.shape[1:], x.dtype)


def _minari() -> Any:
    try:
        import minari
        import minari.data_collector
    except ImportError as error:
        raise UserError(f"Minari is not installed ({one_line(str(error))})", where="Minari", cure=INSTALL) from None
    return minari


def _episodes(found: Any) -> Iterator[Any]:
    """The data set's episodes; a file that cannot be read becomes one message."""
    try:
        yield from found.iterate_episodes()
    except (OSError, KeyError, ValueError) as error:
        if isinstance(error, UserError):
            raise
        raise UserError(f"an episode cannot be read ({one_line(str(error))})", where="Minari data set") from None


def _load(dataset: Any) -> Any:
    if hasattr(dataset, "iterate_episodes"):
        return dataset
    minari = _minari()
    folder = Path(dataset)
    try:
        if is_minari(folder):
            return minari.MinariDataset(folder / "data" if (folder / "data" / "metadata.json").is_file() else folder)
        return minari.load_dataset(str(dataset))
    except (ValueError, OSError, KeyError, ImportError) as error:
        raise UserError(f"cannot be read as a Minari data set ({one_line(str(error))})", where=str(dataset)) from None
