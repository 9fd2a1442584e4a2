"""Which columns of a table are observations, actions, rewards and ends of episodes.

A column is found by its usual name, or named by the user. Vectors are either one column of lists or numbered columns
(``obs_0, obs_1``). Leaves out: reading (`parquet`). A lone ``done`` is not taken: it does not tell a time limit from an
end of the task.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from steersman.core.errors import UserError
from steersman.offline.transitions import EXTRA

USUAL = {
    "obs": ("obs", "observation", "observations", "state"),
    "action": ("action", "actions"),
    "reward": ("reward", "rewards"),
    "terminated": ("terminated", "terminal", "terminals", "termination", "terminations"),
    "truncated": ("truncated", "timeout", "timeouts", "truncation", "truncations"),
    "episode": ("episode", "episode_id", "episode_index"),
    "next_obs": ("next_obs", "next_observation", "next_observations", "next_state"),
    "late": ("late",),
}
"""Names by which a column is found; the first is the one that is written."""
_NUMBERED = re.compile(r"^(.*?)(?:[_.](\d+)|\[(\d+)\])$")


@dataclass(frozen=True, slots=True)
class Columns:
    """Names of a table's columns by role; an empty tuple or string: there is none.

    Args:
        obs, action, next_obs: one column of numbers or lists, or several columns of numbers.
        reward, terminated, truncated: one column each.
        episode: ids that change from one episode to the next.
        late: true in the rows of an episode whose first steps are missing.
        extra: (name, its columns) of every extra column of `Transitions`.
    """

    obs: tuple[str, ...]
    action: tuple[str, ...]
    reward: str
    terminated: str = ""
    truncated: str = ""
    episode: str = ""
    next_obs: tuple[str, ...] = ()
    late: str = ""
    extra: tuple[tuple[str, tuple[str, ...]], ...] = ()

    def all(self) -> list[str]:
        """Every column that is read, each once."""
        one = (self.reward, self.terminated, self.truncated, self.episode, self.late)
        more = (c for _, columns in self.extra for c in columns)
        return list(dict.fromkeys([*self.obs, *self.action, *(c for c in one if c), *self.next_obs, *more]))


def find(columns: Sequence[str], where: str, named: Mapping[str, Sequence[str]] | None = None) -> Columns:
    """Give every column its role.

    Args:
        columns: names in the table.
        where: the table, for messages.
        named: role -> names, as the user says it; the rest is found by `USUAL`.

    Raises:
        UserError: a named column is not there; no observation, action or reward; nothing that ends an episode.
    """
    named = {k: v for k, v in (named or {}).items() if v}
    if unknown := [k for k in named if k not in USUAL]:
        raise UserError(f"{unknown[0]!r} is no role of a column", where=where, allowed=", ".join(USUAL))
    found: dict[str, tuple[str, ...]] = {}
    for role, usual in USUAL.items():
        if role in named:
            found[role] = tuple(
                c for name in named[role] for c in _called(columns, name) or _missing(columns, name, where)
            )
        else:
            found[role] = next((x for name in usual if (x := _called(columns, name))), ())
    for role in ("obs", "action", "reward"):
        if not found[role]:
            raise UserError(
                f"no column of {_WORDS[role]} was found", where=where, allowed=f"columns: {', '.join(columns)}",
                cure=f"name it: --{role} COLUMN{',COLUMN' if role != 'reward' else ''}",
            )  # fmt: skip
    for role in ("reward", "terminated", "truncated", "episode", "late"):
        if len(found[role]) > 1:
            raise UserError(f"{role} has several columns: {', '.join(found[role])}", where=where, allowed="one")
    if not (found["terminated"] or found["truncated"] or found["episode"]):
        done = next((c for c in columns if c in ("done", "dones")), "")
        says = f" ({done!r} does not tell a time limit from an end of the task)" if done else ""
        raise UserError(
            f"nothing says where episodes end{says}", where=where, allowed=f"columns: {', '.join(columns)}",
            cure=f"name it: --terminated {done or 'COLUMN'}, --truncated COLUMN, or --episode COLUMN",
        )  # fmt: skip
    one = {k: (found[k] or ("",))[0] for k in ("reward", "terminated", "truncated", "episode", "late")}
    extra = tuple((name, x) for name in EXTRA if (x := _called(columns, name)))
    return Columns(found["obs"], found["action"], next_obs=found["next_obs"], extra=extra, **one)


_WORDS = {"obs": "observations", "action": "actions", "reward": "rewards"}


def _called(columns: Sequence[str], name: str) -> tuple[str, ...]:
    """The column of this name, or columns ``name_0, name_1, ...`` in the order of their numbers."""
    if name in columns:
        return (name,)
    parts = [(m, c) for c in columns if (m := _NUMBERED.match(c)) and m[1] == name]
    return tuple(c for _, c in sorted((int(m[2] or m[3]), c) for m, c in parts))


def _missing(columns: Sequence[str], name: str, where: str) -> tuple[str, ...]:
    raise UserError(f"there is no column {name!r}", where=where, allowed=", ".join(columns))
