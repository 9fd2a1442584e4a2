"""What a reader is shown of each token: the rollouts' streams under plain names, and what follows from them.

Leaves out: where the streams come from (`show`, `samples`), how they are drawn (`page.tokens`).
"""

from collections.abc import Iterable, Mapping

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from steersman.core.streams import STREAMS
from steersman.page.tokens import StreamInfo

SHOWN: tuple[StreamInfo, ...] = (
    StreamInfo("advantage", "", "signed", "advantage of the token, as the method left it"),
    StreamInfo("|A|·H", "nats", "sequential", "size of the advantage times the entropy"),
    StreamInfo("weight", "", "sequential", "weight of a kept token in the loss, that of its row included"),
    StreamInfo("credit", "", "signed", "the token's advantage over the mean of its response, less 1"),
    StreamInfo("evidence", "nats", "signed", "log-probability gained by being told right, not wrong or nothing"),
    StreamInfo("entropy", "nats", "sequential", "uncertainty of the policy before the token"),
    StreamInfo("log-ratio", "nats", "signed", "log-probability gained over the reference policy"),
    StreamInfo("gap", "nats", "signed", "the trainer's log-probability minus that it was sampled with"),
    StreamInfo("logp", "nats", "sequential", "log-probability of the token when it was drawn"),
    StreamInfo("reward", "", "signed", "reward of the whole response, the same at all its tokens"),
)
"""The streams under a reader's names, in the order of the keys that choose them."""
_SAME = 1e-5
"""Shares of credit this small are rounding."""
_NAMED = {"advantage", "entropy", "token_weight", "logp_old", "logp_ref", "logp", "logp_behaviour"}


def reader_streams(
    streams: Mapping[str, Float[Tensor, "N L"]],
    kept: Bool[Tensor, "N L"],
    *,
    reward: Float[Tensor, " N"] | None = None,
    weight: Float[Tensor, " N"] | None = None,
) -> dict[str, Float[Tensor, "N L"]]:
    """The streams of N rows under the names of `SHOWN`, and all others under their own.

    |A|·H = |advantage| entropy; credit = advantage / its mean over the row - 1, in rows of one sign, and only if some
    row's advantages differ; evidence = logp_teacher - logp_teacher_wrong; log-ratio = logp_old - logp_ref; gap =
    logp_old - logp_behaviour; weight = token_weight (1 where nobody wrote it) times the row's, at kept tokens. Where
    nobody scored ``logp_old``, what the token was sampled with stands for it.

    Args:
        streams: per-token streams by the names of `core.streams`, and ``logp_behaviour``; NaN = no value.
        kept: tokens that the loss counts.
        reward: of each row.
        weight: of each row; None = 1.

    Returns:
        What there is a value of; NaN elsewhere. The weight of a dropped token is missing, not 0.
    """
    x = dict(streams)
    out = {name: value for name, value in x.items() if name not in _NAMED}
    out |= {k: x[k] for k in ("advantage", "entropy") if k in x}
    if "advantage" in x and "entropy" in x:
        out["|A|·H"] = x["advantage"].abs() * x["entropy"]
    if "advantage" in x and bool(((shared := credit(x["advantage"])).abs() > 0).any()):
        out["credit"] = shared
    if "logp_teacher" in x and "logp_teacher_wrong" in x:
        out["evidence"] = x["logp_teacher"] - x["logp_teacher_wrong"]
    row = torch.ones(len(kept)) if weight is None else weight
    token = x.get("token_weight", torch.ones(kept.shape)) * row[:, None]
    out["weight"] = torch.where(kept, token, torch.nan)
    sampled = x.get("logp_behaviour")
    logp = x.get("logp_old", sampled)
    if logp is not None:
        out["logp"] = logp
        out |= {"log-ratio": logp - x["logp_ref"]} if "logp_ref" in x else {}
        out |= {"gap": logp - sampled} if sampled is not None and "logp_old" in x else {}
    if reward is not None:
        out["reward"] = reward[:, None].expand(kept.shape)
    return {name: value for name, value in out.items() if bool(torch.isfinite(value).any())}


def credit(advantage: Float[Tensor, "N L"]) -> Float[Tensor, "N L"]:
    """How much more of its response's advantage a token gets than the mean token, as a share: 0 = as much.

    NaN where there is no value, and in rows whose advantages have two signs or are 0.
    """
    there = torch.isfinite(advantage)
    known = torch.where(there, advantage, torch.zeros_like(advantage))
    mean = known.sum(1, keepdim=True) / there.sum(1, keepdim=True).clamp(min=1)
    alike = (there & (known * mean > 0) | ~there).all(1, keepdim=True)
    found = known / torch.where(mean == 0, 1.0, mean) - 1
    found = torch.where(found.abs() < _SAME, 0.0, found)
    return torch.where(there & alike, found, torch.nan)


def described(names: Iterable[str]) -> tuple[StreamInfo, ...]:
    """What the named streams are to a reader: those of `SHOWN` first, then others of `core.streams`."""
    wanted = dict.fromkeys(names)
    known = {s.name for s in SHOWN}
    return (*(s for s in SHOWN if s.name in wanted), *(_other(n) for n in wanted if n not in known))


def _other(name: str) -> StreamInfo:
    s = STREAMS[name]
    return StreamInfo(name, "" if s.unit == "1" else s.unit, "signed" if s.signed else "sequential", s.meaning)
