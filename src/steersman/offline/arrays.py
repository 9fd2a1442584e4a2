"""Transitions from and to plain arrays, D4RL's names included.

Leaves out: files (`columns`, `parquet`, `by_minari`, `npz`). Source of the names: Fu et al. 2020 (D4RL).
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

from steersman.core.errors import UserError
from steersman.offline.chunks import check_finite, check_unflagged, no_ends, split
from steersman.offline.transitions import Transitions

D4RL = {
    "observations": "obs", "actions": "action", "rewards": "reward", "terminals": "terminated",
    "timeouts": "truncated", "next_observations": "next_obs",
}  # fmt: skip
"""D4RL's names and ours."""


def from_arrays(
    obs: Any,
    action: Any,
    reward: Any,
    terminated: Any,
    truncated: Any,
    *,
    next_obs: Any = None,
    episode: Any = None,
    n_actions: int | None = None,
    unflagged: str = "refuse",
    extra: Mapping[str, Any] | None = None,
) -> Transitions:
    """Check arrays and put them together.

    Args:
        obs: [N] or [N, ...] numbers.
        action: [N] or [N, 1] integers, one-hot rows [N, K], or floats [N] or [N, A].
        reward: [N] numbers.
        terminated, truncated: [N], bool or 0 and 1.
        next_obs: [N, ...]; None = the row after, within the episode.
        episode: [N] ids, one after the other; None = episodes end where a flag is set.
        n_actions: size of a discrete space, which then refuses floats other than one-hot rows.
        unflagged: what the end of an episode without a flag means, where `episode` tells it: "refuse", "terminated",
            "truncated" or "cut".
        extra: further columns, named in `transitions.EXTRA`.

    Returns:
        Transitions whose values were all looked at.

    Raises:
        UserError: NaN, infinity, lengths that differ, float actions in a discrete space, no end of any episode, an
            episode without an end inside the log; each names the field and the row.

    Edge cases: the last episode may stop without a flag: it is cut. Without `next_obs` what follows the last row of a
        truncated or cut episode is not known: `extra["bootstrap"]` is False there.
    """
    check_unflagged(unflagged)
    given = {"obs": obs, "action": action, "reward": reward, "terminated": terminated, "truncated": truncated}
    got = {k: numeric(k, v) for k, v in given.items()}
    n = len(got["reward"])
    for name, x in got.items():
        if len(x) != n:
            raise UserError(f"has {len(x):,} rows, reward has {n:,}", where=name, cure="every column needs N rows")
    if n == 0:
        raise UserError("has no rows", where="reward")
    ids = None if episode is None else np.asarray(episode)
    if ids is not None and ids.shape != (n,):
        raise UserError(f"has shape {ids.shape}, reward has {n:,} rows", where="episode", allowed="one id a row")
    ends = {k: flags(k, got[k]) for k in ("terminated", "truncated")}
    if ids is None and not (ends["terminated"] | ends["truncated"]).any() and unflagged == "refuse":
        raise no_ends(n)
    begins, done, stopped = split(ends["terminated"], ends["truncated"], ids, unflagged)
    if unflagged in ("terminated", "truncated") and not (done[-1] or stopped[-1]):
        done, stopped = done.copy(), stopped.copy()
        (done if unflagged == "terminated" else stopped)[-1] = True
    offsets = np.concatenate([[0], np.flatnonzero(begins), [n]]).astype(np.int64)
    seen = observations("obs", got["obs"])
    if next_obs is None:
        after, known = following(seen, offsets, done)
    else:
        after, known = observations("next_obs", numeric("next_obs", next_obs)), None
    more = {k: numeric(k, v) for k, v in (extra or {}).items()}
    if known is not None and "bootstrap" not in more and not known.all():
        more["bootstrap"] = known
    acts, n_actions = actions(got["action"], n_actions)
    return Transitions(
        seen, acts, rewards(got["reward"]), after, done, stopped, offsets, n_actions, None, more
    ).check()  # fmt: skip


def following(obs: np.ndarray, offsets: np.ndarray, terminated: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Observations after each action from those before, and whether they are known.

    Args:
        obs: [N, ...]; offsets: [E + 1]; terminated: [N].

    Returns:
        next_obs [N, ...], which repeats `obs` in the last row of an episode, and [N] bool: False where that matters,
        because the episode did not terminate there.
    """
    last = offsets[1:] - 1
    after = np.concatenate([obs[1:], obs[-1:]])
    after[last] = obs[last]
    known = np.ones(len(obs), bool)
    known[last] = terminated[last]
    return after, known


def numeric(name: str, values: Any) -> np.ndarray:
    """An array of numbers or bools with rows, or a refusal by name."""
    if hasattr(values, "detach"):  # a tensor
        values = values.detach().cpu().numpy()
    try:
        x = np.asarray(values)
    except ValueError as error:
        raise UserError(f"rows differ in shape ({error})", where=name) from None
    if x.dtype.kind not in "fiub" or x.ndim == 0:
        raise UserError(f"is {x.dtype} of shape {x.shape}", where=name, allowed="rows of numbers")
    return x.astype(np.float32) if x.dtype == np.float16 else x


def observations(name: str, x: np.ndarray) -> np.ndarray:
    """Observations with at least two dimensions."""
    return x[:, None] if x.ndim == 1 else x


def rewards(x: np.ndarray) -> np.ndarray:
    """Rewards as floats [N]; whole numbers become float64, which holds them exactly."""
    x = x[:, 0] if x.ndim == 2 and x.shape[1] == 1 else x
    if x.ndim != 1:
        raise UserError(f"has shape {x.shape}", where="reward", allowed="[N]")
    return x if x.dtype.kind == "f" else x.astype(np.float64)


def flags(name: str, x: np.ndarray, start: int = 0) -> np.ndarray:
    """[N] bool from bool or from 0 and 1, other numbers refused by row."""
    x = x[:, 0] if x.ndim == 2 and x.shape[1] == 1 else x
    if x.ndim != 1:
        raise UserError(f"has shape {x.shape}", where=name, allowed="[N]")
    if x.dtype.kind != "b":
        check_finite(name, x, start)
        bad = np.flatnonzero((x != 0) & (x != 1))
        if len(bad):
            where = f"{name}, row {start + int(bad[0]):,}"
            raise UserError(f"is {x[bad[0]]}", where=where, allowed="true or false, 1 or 0")
    return x.astype(bool)


def actions(x: np.ndarray, n_actions: int | None, start: int = 0) -> tuple[np.ndarray, int | None]:
    """Actions as indices [N] or floats [N, A], and the size of a discrete space where it is known.

    Raises:
        UserError: floats in a discrete space, integers in several columns that are not one-hot.
    """
    if x.dtype.kind == "b" or x.dtype == np.uint64:
        x = x.astype(np.int64)
    hot = x.ndim == 2 and x.shape[1] > 1 and (x.dtype.kind != "f" or n_actions == x.shape[1])
    if hot and ((x == 0) | (x == 1)).all() and (x.sum(1) == 1).all():
        return x.argmax(1), x.shape[1] if n_actions is None else n_actions
    if x.dtype.kind == "f":
        if n_actions is not None:
            from steersman.offline.chunks import check_actions

            check_actions(x, n_actions, start)
        return (x[:, None] if x.ndim == 1 else x), None
    x = x[:, 0] if x.ndim == 2 and x.shape[1] == 1 else x
    if x.ndim != 1:
        raise UserError(
            f"is {x.dtype} of shape {x.shape}, and its rows are not one-hot", where="action",
            allowed="integers [N], one-hot rows, or floats [N, A]",
            cure="combine several discrete choices into one index, or store continuous actions as floats",
        )  # fmt: skip
    return x, n_actions


def from_d4rl(data: Mapping[str, Any], **known: Any) -> Transitions:
    """Transitions from arrays in D4RL's names: observations, actions, rewards, terminals, timeouts, next_observations.

    Args:
        data: the arrays; `timeouts` and `next_observations` may be missing, other keys (infos) are left out.
        known: options of `from_arrays`.

    Raises:
        UserError: an array is missing; everything that `from_arrays` refuses.
    """
    found = {ours: data[theirs] for theirs, ours in D4RL.items() if theirs in data}
    if missing := [k for k, ours in D4RL.items() if ours not in found and ours not in ("truncated", "next_obs")]:
        raise UserError(f"{missing[0]!r} is missing", where="D4RL arrays", allowed=f"found: {', '.join(data)}")
    found.setdefault("truncated", np.zeros(len(found["reward"]), bool))
    return from_arrays(**found, **known)


def to_d4rl(data: Transitions) -> dict[str, np.ndarray]:
    """The arrays of transitions under D4RL's names; reads back with `from_d4rl`.

    Raises:
        UserError: a cut episode inside the log, whose end D4RL's flags cannot hold.
    """
    last = data.episode[1:-1] - 1
    silent = np.flatnonzero(~(data.terminated | data.truncated)[last])
    if len(silent):
        raise UserError(
            "is cut inside the log, and flags cannot say so", where=f"episode {int(silent[0])}",
            cure="write Parquet, which has a column of episodes, or leave the episode out",
        )  # fmt: skip
    ours = data.columns()
    return {theirs: ours[name] for theirs, name in D4RL.items()}
