"""A model whose parameters lie in shards over the processes (FSDP2), and the way back to whole ones.

Every use of the weights goes through the root's forward, which brings the embedding, the last norm and the head
together for as long as it runs; each decoder layer does the same for itself. Gradients are summed, not averaged: the
denominators of a loss are those of the whole step.
Memory of one process, for W processes and P parameters: P/W each of parameters, gradients and moments; in a forward
and backward besides that the root's own parameters and two layers. While it samples, all P (`gathered`).
Leaves out: what is computed (`distributed`), messages (`processes`). Source: torch.distributed.fsdp.fully_shard.
"""

import copy
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.utils._pytree import tree_map

from steersman.core.errors import UserError
from steersman.language.trunk import capability


class Root(nn.Module):
    """A model as the one module through whose forward it is used."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, work: Callable[[nn.Module], Any]) -> Any:
        """``work(model)``; with gradients as copies, because hooks on views get lost."""
        out = work(self.model)
        if not torch.is_grad_enabled():
            return out
        return tree_map(lambda x: x.clone() if isinstance(x, Tensor) and x.requires_grad else x, out)


def shard(model: nn.Module, mesh: DeviceMesh) -> Root:
    """Shard a model in place, each decoder layer by itself.

    Raises:
        UserError: a model that FSDP2 cannot shard (scalar parameters, trainable parameters of several types in one
            layer), or reentrant activation checkpointing.
    """
    capability(model)  # decided once, on whole weights
    _refuse_reentrant(model)
    root = Root(model)
    try:
        for layer in _layers(model):
            fully_shard(layer, mesh=mesh)
        fully_shard(root, mesh=mesh)
        for part in _parts(root):
            part.set_gradient_divide_factor(1.0)
            part.set_force_sum_reduction_for_comms(True)
        with torch.no_grad():
            root(lambda model: None)  # decides who is the root, before anything is switched off or used
    except (ValueError, AssertionError) as error:
        raise UserError(f"cannot be sharded ({error})", where=type(model).__name__) from None
    root.reshard()  # type: ignore[operator]
    return root


def _parts(root: nn.Module) -> list[FSDPModule]:
    return [m for m in root.modules() if isinstance(m, FSDPModule)]


def _layers(model: nn.Module) -> list[nn.Module]:
    """The decoder layers, as the model names them; one that shares parameters with others stays with the root."""
    names = {n for m in model.modules() for n in getattr(m, "_no_split_modules", None) or ()}
    found = [m for m in model.modules() if type(m).__name__ in names]
    inner = {id(x) for m in found for x in m.modules() if x is not m}
    outer = [m for m in found if id(m) not in inner]
    uses = Counter(id(p) for m in model.modules() for p in m.parameters(recurse=False))
    own = [[id(p) for x in m.modules() for p in x.parameters(recurse=False)] for m in outer]
    return [m for m, ids in zip(outer, own, strict=True) if ids and all(uses[i] == ids.count(i) for i in ids)]


def _refuse_reentrant(model: nn.Module) -> None:
    """Reentrant checkpointing runs a layer without gradients first, so its gradients would never be reduced."""
    for module in model.modules():
        options = getattr(getattr(module, "_gradient_checkpointing_func", None), "keywords", {})
        if getattr(module, "gradient_checkpointing", False) and options.get("use_reentrant"):
            cure = 'Enable it with {"use_reentrant": False}.'
            raise UserError("reentrant activation checkpointing cannot be sharded", where="model", cure=cure)


@contextmanager
def gathered(root: Root) -> Iterator[None]:
    """All parameters whole in every process for a block, so that a forward in it waits for nobody."""
    parts: list[Any] = _parts(root)
    sharded: Any = root
    sharded.set_reshard_after_forward(False)
    for part in parts:
        part.unshard()
    try:
        yield
    except BaseException:
        sharded.reset_iter_state()
        raise
    finally:
        for part in parts:
            part.reshard()
        sharded.set_reshard_after_forward(True)
        sharded.set_reshard_after_forward(False, recurse=False)


def whole(x: Tensor) -> Tensor:
    """A tensor with all its shards; every process must ask."""
    return x.full_tensor() if isinstance(x, DTensor) else x


def whole_state(state: Any, keep: bool) -> Any:
    """A nested state with whole tensors in the processor's memory, one gathered after the other; else nothing of it."""
    if isinstance(state, Tensor):
        full = whole(state)
        return full.cpu() if keep else None
    if isinstance(state, Mapping):
        return {k: whole_state(x, keep) for k, x in state.items()}
    return state


def shard_like(x: Tensor, like: Tensor) -> Tensor:
    """This process's shards of a whole tensor, laid out as `like`; without talking to others."""
    if not isinstance(like, DTensor) or x.shape != like.shape:
        return x
    x = x.to(like.device, like.dtype)
    return distribute_tensor(x, like.device_mesh, like.placements, src_data_rank=None)


def blank_copy(model: nn.Module) -> nn.Module:
    """A copy of a model that is not sharded, with parameters that take no memory; `filled` gives it some."""
    memo: dict[int, Any] = {id(p): nn.Parameter(p.detach().to("meta"), p.requires_grad) for p in model.parameters()}
    return copy.deepcopy(model, memo)


def filled(blank: nn.Module, model: nn.Module, keep: bool) -> nn.Module:
    """A copy of `blank` with the whole parameters of its sharded `model`, in the processor's memory.

    Every process must ask; where `keep` is False it gets the blank itself.
    """
    memo: dict[int, Any] = {}
    for empty, p in zip(blank.parameters(), model.parameters(), strict=True):
        full = whole(p.detach())
        if keep:
            memo[id(empty)] = nn.Parameter(full.cpu(), empty.requires_grad)
    return copy.deepcopy(blank, memo) if keep else blank
