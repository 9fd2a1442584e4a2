"""Hidden states between the layers of a trunk, from hooks that are there for one forward only.

Layers are numbered as `transformers` numbers ``hidden_states``: 0 the embeddings, l the output of layer l, which is
what layer l + 1 is given, and n of n layers what the trunk returns, after its final norm.
Leaves out: the forward and which stream position belongs to which token (`trunk`, `score`).
"""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn

from steersman.core.errors import UserError


def count_layers(config: Any) -> int:
    """Layers of a model, from its configuration."""
    return int(config.get_text_config().num_hidden_layers)


def layer_index(layer: int | float | None, layers: int) -> int:
    """The number of a layer of a model that has `layers`.

    Args:
        layer: 0 to `layers`; a float below 1 = that share of the depth, rounded; None = the last.
        layers: n of the model.

    Raises:
        UserError: there is no such layer.
    """
    if layer is None:
        return layers
    if isinstance(layer, float) and 0 < layer < 1:
        return round(layer * layers)
    if layer != int(layer) or not 0 <= layer <= layers:
        cure = "hidden states are numbered from 0, the embeddings, to the number of layers"
        raise UserError(f"the model has no layer {layer}", where="layer", allowed=f"0 to {layers}", cure=cure)
    return int(layer)


@contextmanager
def layer_states(trunk: nn.Module, layers: int, wanted: Iterable[int]) -> Iterator[dict[int, list[Tensor]]]:
    """Inside the block every forward of the trunk adds the states of the wanted layers to their lists, detached.

    Args:
        trunk: a model without its head.
        layers: n of it.
        wanted: numbers (`layer_index`).

    Yields:
        number -> one tensor ``[B, T, D]`` for each forward; the hooks are gone when the block ends, however it ends.

    Raises:
        UserError: the model has no one list of its layers.
    """
    seen: dict[int, list[Tensor]] = {number: [] for number in wanted}
    hooks = []
    try:
        for number, found in seen.items():
            if number == layers:
                hooks.append(trunk.register_forward_hook(_after(found)))
            else:
                hooks.append(_stack(trunk, layers)[number].register_forward_pre_hook(_before(found), with_kwargs=True))
        yield seen
    finally:
        for handle in hooks:
            handle.remove()


def _after(found: list[Tensor]) -> Any:
    """A hook that keeps what the trunk returns."""

    def keep(module: nn.Module, given: tuple[Any, ...], out: Any) -> None:
        found.append(out[0].detach())

    return keep


def _before(found: list[Tensor]) -> Any:
    """A hook that keeps what its layer is given."""

    def keep(module: nn.Module, given: tuple[Any, ...], named: dict[str, Any]) -> None:
        found.append((given[0] if given else named["hidden_states"]).detach())

    return keep


def _stack(trunk: nn.Module, layers: int) -> nn.ModuleList:
    """The layers of a trunk: its one list of `layers` modules that are of a kind."""
    lists = [m for m in trunk.modules() if isinstance(m, nn.ModuleList) and len(m) == layers]
    if len(lists) != 1:
        what = f"has {len(lists)} lists of {layers} modules, so that its layers cannot be told"
        raise UserError(what, where=type(trunk).__name__, cure="Ask for the last layer, or take another model.")
    return lists[0]
