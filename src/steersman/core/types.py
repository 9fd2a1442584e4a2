"""The batches that loops, objectives and stages exchange: `Rollouts`, `Pairs`, `Scores`.

Token ids are the record and text is derived from them. Per-token tensors are aligned to the token they *predict*:
entry ``[n, t]`` speaks of ``ids[n, t]``. Rows are right-padded in memory; what is real comes from ``length``, never
from ``ids != pad``, so a pad token that equals the end-of-sequence token does no harm. Construction checks are O(1);
the O(N L) invariants are in `Rollouts.check`, which loaders and tests call once.
Leaves out: transitions of control problems (`offline`), text (`language`).
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from steersman.core.errors import UserError
from steersman.core.streams import check_stream, per_token

STOP_EOS, STOP_LENGTH, STOP_ABORTED, STOP_FAILED = 0, 1, 2, 3
"""Why a rollout ended: it drew an end-of-sequence token, it was cut, it was aborted, or its environment failed."""


@dataclass(frozen=True, slots=True)
class Rollouts:
    """N token sequences, each a prompt and a response, with what is known about them.

    Args:
        ids: token ids ``[N, L]``, right-padded; padding may hold any valid id.
        length: real tokens of a row ``[N]``, prompt included.
        prompt_length: tokens of the prompt ``[N]``, ``0 <= prompt_length <= length``.
        action: ``[N, L]``; True = drawn by the policy (its end-of-sequence token included, nothing after it). In `fit`
            the data's completion and its end-of-sequence token are the actions.
        forced: ``[N, L]``; True = a response token that was placed and not drawn (dataset reset, tool output).
        group: explicit id of the prompt ``[N]``; never derived from token strings.
        valid: ``[N]``; False = the row could not be made or graded. It is dropped or retried, never worth 0.
        stop: ``[N]`` int64, one of the ``STOP_*`` constants.
        weight: ``[N]`` row weights, default 1.
        version: ``[N]`` int64, number of the policy update that drew the row, default 0.
        logp_behaviour: nats ``[N, L]`` under the distribution really sampled from; None for data nobody sampled.
        reward: ``[N]``; None before grading.
        correct: ``[N]`` bool where the task can say it.
        answer: one extracted answer a row where the task has answers.
        feedback: what the grader said of each row that is wrong, where it says something in words.
        streams: further per-token ``[N, L]`` or per-row ``[N]`` tensors named in `core.streams`.

    Raises:
        UserError: shapes that disagree, a wrong dtype, or a stream nobody declared.
    """

    ids: Int[Tensor, "N L"]
    length: Int[Tensor, " N"]
    prompt_length: Int[Tensor, " N"]
    action: Bool[Tensor, "N L"]
    forced: Bool[Tensor, "N L"]
    group: Int[Tensor, " N"]
    valid: Bool[Tensor, " N"]
    stop: Int[Tensor, " N"]
    weight: Float[Tensor, " N"]
    version: Int[Tensor, " N"]
    logp_behaviour: Float[Tensor, "N L"] | None = None
    reward: Float[Tensor, " N"] | None = None
    correct: Bool[Tensor, " N"] | None = None
    answer: tuple[str | None, ...] | None = None
    feedback: tuple[str | None, ...] | None = None
    streams: dict[str, Tensor] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.ids.ndim != 2 or self.ids.dtype != torch.int64:
            raise UserError(f"ids must be int64 [N, L], got {self.ids.dtype} {tuple(self.ids.shape)}", where="Rollouts")
        n, width = self.ids.shape
        for name in _TENSORS:
            x = getattr(self, name)
            if x is None:
                continue
            shape = (n, width) if name in _PER_TOKEN else (n,)
            if tuple(x.shape) != shape:
                raise UserError(f"{name} has shape {tuple(x.shape)}, expected {shape}", where="Rollouts")
            if not (x.dtype == _DTYPES[name] if name in _DTYPES else x.is_floating_point()):
                wanted = _DTYPES.get(name, "floating point")
                raise UserError(f"{name} is {x.dtype}, expected {wanted}", where="Rollouts")
        for name in _TEXTS:
            texts = getattr(self, name)
            if texts is not None and len(texts) != n:
                raise UserError(f"{name} has {len(texts)} entries for {n} rows", where="Rollouts")
        for name, x in self.streams.items():
            check_stream(name, x, n, width)

    def __len__(self) -> int:
        return self.ids.shape[0]

    @classmethod
    def of(
        cls,
        ids: Int[Tensor, "N L"],
        length: Int[Tensor, " N"],
        prompt_length: Int[Tensor, " N"],
        **known: Any,
    ) -> "Rollouts":
        """Rollouts whose response tokens are all actions, with defaults for everything not `known`."""
        n, width = ids.shape
        position = torch.arange(width, device=ids.device)
        inside = (position >= prompt_length[:, None]) & (position < length[:, None])
        forced = known.get("forced")
        defaults: dict[str, Any] = {
            "action": inside if forced is None else inside & ~forced,
            "forced": torch.zeros_like(inside),
            "group": torch.arange(n, device=ids.device),
            "valid": torch.ones(n, dtype=torch.bool, device=ids.device),
            "stop": torch.full((n,), STOP_EOS, device=ids.device),
            "weight": torch.ones(n, device=ids.device),
            "version": torch.zeros(n, dtype=torch.int64, device=ids.device),
        }
        return cls(ids, length, prompt_length, **(defaults | known))

    def index(self, rows: Tensor | slice) -> "Rollouts":
        """The rows `rows` (int64 indices, a bool mask or a slice) as a new batch; repeats are allowed."""
        changed: dict[str, Any] = {k: x[rows] for k in _TENSORS if (x := getattr(self, k)) is not None}
        texts = {k: x for k in _TEXTS if (x := getattr(self, k)) is not None}
        if texts:
            picked = torch.arange(len(self), device=self.ids.device)[rows].tolist()
            changed |= {k: tuple(x[i] for i in picked) for k, x in texts.items()}
        return replace(self, **changed, streams={k: x[rows] for k, x in self.streams.items()})

    def to(self, device: torch.device | str) -> "Rollouts":
        """The same batch with every tensor on `device`."""
        changed: dict[str, Any] = {k: x.to(device) for k in _TENSORS if (x := getattr(self, k)) is not None}
        return replace(self, **changed, streams={k: x.to(device) for k, x in self.streams.items()})

    def trim(self) -> "Rollouts":
        """The same batch without the columns that no row reaches."""
        width = max(int(self.length.max()), 1) if len(self) else 1
        cut: dict[str, Any] = {k: x[:, :width] for k in _PER_TOKEN if (x := getattr(self, k)) is not None}
        return replace(self, **cut, streams={k: x[:, :width] if per_token(k) else x for k, x in self.streams.items()})

    def with_streams(self, **streams: Tensor) -> "Rollouts":
        """The same batch with the given streams added or replaced."""
        return replace(self, streams=self.streams | streams)

    def widen(self, width: int) -> "Rollouts":
        """The same batch with padding up to `width` columns."""
        extra = width - self.ids.shape[1]
        if extra <= 0:
            return self
        pad = torch.nn.functional.pad
        grown: dict[str, Any] = {k: pad(x, (0, extra)) for k in _PER_TOKEN if (x := getattr(self, k)) is not None}
        beside = {2: (0, extra), 3: (0, 0, 0, extra)}
        streams = {k: pad(x, beside[x.ndim]) if per_token(k) else x for k, x in self.streams.items()}
        return replace(self, **grown, streams=streams)

    @classmethod
    def concat(cls, parts: "Sequence[Rollouts]") -> "Rollouts":
        """The rows of several batches, one behind the other.

        Raises:
            UserError: no batch at all, or an optional field or stream that some have and others lack.
        """
        if not parts:
            raise UserError("there is nothing to join", where="Rollouts.concat")
        first = parts[0]
        for name in (*_OPTIONAL, *(k for p in parts for k in p.streams)):
            have = [(p.streams.get(name) if name not in _OPTIONAL else getattr(p, name)) is not None for p in parts]
            if any(have) and not all(have):
                raise UserError(f"{name} is there in some parts only", where="Rollouts.concat")
        wide = [p.widen(max(q.ids.shape[1] for q in parts)) for p in parts]
        joined: dict[str, Any] = {
            k: torch.cat([getattr(p, k) for p in wide]) for k in _TENSORS if getattr(first, k) is not None
        }
        for name in _TEXTS:
            if getattr(first, name) is not None:
                joined[name] = tuple(x for p in parts for x in getattr(p, name))
        streams = {k: torch.cat([p.streams[k] for p in wide]) for k in first.streams}
        return replace(first, **joined, streams=streams)

    def check(self) -> "Rollouts":
        """Verify what construction cannot in O(1), and return the batch.

        Raises:
            UserError: names the first row in which a length is impossible, an action or a forced token lies in the
                prompt or in the padding, a token is both, or a valid row has no response token at all.
        """
        position = torch.arange(self.ids.shape[1], device=self.ids.device)
        prompt, beyond = position < self.prompt_length[:, None], position >= self.length[:, None]
        faults = {
            "prompt_length is negative": self.prompt_length < 0,
            "prompt_length exceeds length": self.prompt_length > self.length,
            "length exceeds the width of ids": self.length > self.ids.shape[1],
            "an action lies in the prompt": (self.action & prompt).any(1),
            "an action lies in the padding": (self.action & beyond).any(1),
            "a forced token lies in the prompt": (self.forced & prompt).any(1),
            "a forced token lies in the padding": (self.forced & beyond).any(1),
            "a forced token is also an action": (self.action & self.forced).any(1),
            "the response is empty": self.valid & ~(self.action | self.forced).any(1),
        }
        for what, bad in faults.items():
            if bool(bad.any()):
                raise UserError(what, where=f"Rollouts, row {int(bad.nonzero()[0, 0])}")
        return self


_PER_TOKEN = ("ids", "action", "forced", "logp_behaviour")
_DTYPES = dict.fromkeys(("ids", "length", "prompt_length", "group", "stop", "version"), torch.int64) | dict.fromkeys(
    ("action", "forced", "valid", "correct"), torch.bool
)
_TEXTS = ("answer", "feedback")
_OPTIONAL = ("logp_behaviour", "reward", "correct", *_TEXTS)
_TENSORS = tuple(f.name for f in fields(Rollouts) if f.name not in (*_TEXTS, "streams"))


@dataclass(frozen=True, slots=True)
class Pairs:
    """N pairs of responses to the same prompts, with the probability that the first is the better one.

    Args:
        first: the sides called chosen in data files.
        second: the sides called rejected.
        label: ``[N]`` in [0, 1]: probability that `first` is preferred; 1 = certain, 0.5 = a tie.

    Raises:
        UserError: sides of unequal number; labels are verified by `check`.
    """

    first: Rollouts
    second: Rollouts
    label: Float[Tensor, " N"]

    def __post_init__(self) -> None:
        if not (len(self.first),) == (len(self.second),) == tuple(self.label.shape):
            sizes = len(self.first), len(self.second), *self.label.shape
            raise UserError(f"first, second and label have {sizes} rows", where="Pairs")

    def __len__(self) -> int:
        return len(self.first)

    def index(self, rows: Tensor | slice) -> "Pairs":
        """The pairs `rows` as a new batch."""
        return replace(self, first=self.first.index(rows), second=self.second.index(rows), label=self.label[rows])

    def to(self, device: torch.device | str) -> "Pairs":
        """The same pairs with every tensor on `device`."""
        return replace(self, first=self.first.to(device), second=self.second.to(device), label=self.label.to(device))

    def check(self) -> "Pairs":
        """Verify both sides and the labels row by row, and return the pairs."""
        bad = ~((self.label >= 0) & (self.label <= 1))
        if bool(bad.any()):
            row = int(bad.nonzero()[0, 0])
            raise UserError(f"label is {float(self.label[row])}", where=f"Pairs, row {row}", allowed="[0, 1]")
        self.first.check()
        self.second.check()
        return self


@dataclass(frozen=True, slots=True)
class Scores:
    """What a grader said of N responses; a grader that failed gives an invalid row, never 0.

    Args:
        value: ``[N]``; NaN where not `valid`.
        valid: ``[N]``; False = the grader or its worker failed.
        parts: named parts of the score, each ``[N]``.
        errors: row -> what went wrong.
    """

    value: Float[Tensor, " N"]
    valid: Bool[Tensor, " N"]
    parts: dict[str, Tensor] = field(default_factory=dict)
    errors: dict[int, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.value.shape != self.valid.shape or self.value.ndim != 1:
            raise UserError(f"value {tuple(self.value.shape)}, valid {tuple(self.valid.shape)}", where="Scores")

    def __len__(self) -> int:
        return self.value.shape[0]
