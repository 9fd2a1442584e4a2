"""One token a row through a model of Llama's form, in as few operations as it takes.

On small models calling `transformers`' modules takes longer than what they compute. Where a trunk has exactly the parts
of Llama (Mistral, Qwen2, Qwen3, SmolLM2 and others have them), the same numbers come from a flat list of products:
projections of one input joined, the rotation of queries and keys made at once, the residual added by the product.
Whether a trunk has that form is seen from its parts (`read`); that it computes what they suggest is for the probe of
`decode_cache.step_of` to say. Leaves out: the cache and attention (`decode_cache`), other forms of model, gradients.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn

_TRUNK = {"embed_tokens", "layers", "norm", "rotary_emb"}
_LAYER = {"self_attn", "mlp", "input_layernorm", "post_attention_layernorm"}
_ATTENTION = {"q_proj", "k_proj", "v_proj", "o_proj"}
_NORMS = {"q_norm", "k_norm"}
_MLP = {"gate_proj", "up_proj", "down_proj", "act_fn"}
_BY_LENGTH = {"dynamic", "longrope"}
"""Kinds of rotation whose angles depend on how long the longest row is."""
_JOIN_BELOW = 2**16
"""Weights of a projection below which a copy of them beside others pays: above, products take all the time."""
Seen = Mapping[int, list[Tensor]]
"""States between layers, those of each token in a list of its own (`layers.layer_states`)."""
NOBODY: Seen = {}
"""Nobody asks for the states between layers."""


class Attend(Protocol):
    """Attention of one new token a row to what came before; see `decode_cache.SharedPrompts.attend`."""

    def __call__(self, query: Tensor, both: Tensor, scale: float, softcap: float | None) -> Tensor:
        """``[R, H d]``."""
        ...


@dataclass(frozen=True, slots=True)
class _Norm:
    weight: Tensor
    eps: float

    def __call__(self, x: Tensor) -> Tensor:
        """``w x / rms(x)`` over the last dimension; rounded to the type of `x` before the weight, as Llama does."""
        half, size = x.dtype != torch.float32, x.shape[-1]
        wide = x.float() if half else x
        # [x, -x] has the mean 0 and the variance mean(x^2), so that one operation of the library does what takes seven.
        scaled = nn.functional.layer_norm(torch.cat([wide, -wide], -1), (2 * size,), eps=self.eps)[..., :size]
        return (scaled.to(x.dtype) if half else scaled) * self.weight


@dataclass(frozen=True, slots=True)
class _Product:
    """One linear map, or several of the same input with their outputs side by side."""

    parts: tuple[tuple[Tensor, Tensor | None], ...]

    @classmethod
    def of(cls, *modules: nn.Linear) -> "_Product":
        biases = [m.bias for m in modules]
        join = all(m.weight.numel() < _JOIN_BELOW for m in modules) and len({b is None for b in biases}) == 1
        if len(modules) == 1 or not join:
            return cls(tuple((m.weight, m.bias) for m in modules))
        bias = None if biases[0] is None else torch.cat(biases)
        return cls(((torch.cat([m.weight for m in modules]), bias),))

    def __call__(self, x: Tensor) -> Tensor:
        found = [nn.functional.linear(x, weight, bias) for weight, bias in self.parts]
        return found[0] if len(found) == 1 else torch.cat(found, -1)

    def add(self, x: Tensor, residual: Tensor) -> Tensor:
        """``residual`` plus the map of `x`."""
        ((weight, bias),) = self.parts
        out = torch.addmm(residual, x, weight.t())
        return out if bias is None else out.add_(bias)


@dataclass(frozen=True, slots=True)
class _Layer:
    """`heads` of the query, of the key."""

    before: _Norm
    inputs: _Product
    heads: tuple[int, int]
    size: int
    each: _Norm | None
    scale: float
    out: _Product
    after: _Norm
    gates: _Product
    inner: int
    act: Any
    down: _Product

    def __call__(self, x: Tensor, cos: Tensor, sin: Tensor, attend: Attend) -> Tensor:
        """``[R, D]`` to ``[R, D]``."""
        h_q, h_k = self.heads
        three = self.inputs(self.before(x)).view(len(x), -1, self.size)
        turned = three[:, : h_q + h_k]
        if self.each is not None:
            turned.copy_(self.each(turned))
        other = turned.roll(self.size // 2, -1)
        turned.mul_(cos).addcmul_(other, sin)
        mixed = attend(three[:, :h_q], three[:, h_q:], self.scale, None)
        x = self.out.add(mixed if mixed.dtype == x.dtype else mixed.to(x.dtype), x)
        both = self.gates(self.after(x))
        return self.down.add(self.act(both[:, : self.inner]).mul_(both[:, self.inner :]), x)


class Step:
    """A trunk as a list of products.

    Args:
        trunk: of the form that `read` knows.
        layers: its layers.
        positions: how many there are.
    """

    def __init__(self, trunk: Any, layers: Sequence[_Layer], positions: int) -> None:
        self.layers, self.norm, self.tokens = layers, _norm(trunk.norm), trunk.embed_tokens.weight
        cos, sin = trunk.rotary_emb(self.tokens, torch.arange(positions, device=self.tokens.device)[None])
        half = sin.shape[-1] // 2
        sin = torch.cat([-sin[..., :half], sin[..., half:]], -1)  # of a vector whose halves change places
        self.turns = list(zip(cos[0], sin[0], strict=True))

    def __call__(self, token: Tensor, position: int, attend: Attend, seen: Seen = NOBODY) -> Tensor:
        """Last hidden states ``[R, D]`` of tokens ``[R]`` at one position.

        Those between layers, ``[R, 1, D]``, are added to the lists of `seen`, as `layers.layer_states` numbers them.
        """
        x, turn = nn.functional.embedding(token, self.tokens), self.turns[position]
        for number, layer in enumerate(self.layers):
            if number in seen:
                seen[number].append(x[:, None])
            x = layer(x, *turn, attend)
        last = self.norm(x)
        if len(self.layers) in seen:
            seen[len(self.layers)].append(last[:, None])
        return last


def read(trunk: Any, positions: int) -> Step | None:
    """The trunk as a list of products, with its weights of now; None where it has other parts than Llama's.

    Joined weights are copies: read again after the weights have moved. Rotations must depend on the position alone.
    """
    if not _only(trunk, _TRUNK) or type(trunk.embed_tokens) is not nn.Embedding:
        return None
    if getattr(trunk.rotary_emb, "rope_type", "") in _BY_LENGTH:
        return None
    layers = [found for layer in trunk.layers if (found := _layer(layer)) is not None]
    if _norm(trunk.norm) is None or _hooked(trunk) or len(layers) < len(trunk.layers):
        return None
    return Step(trunk, layers, positions)


def _layer(layer: Any) -> _Layer | None:
    """A layer's products; None where it has other parts."""
    if not _only(layer, _LAYER) or not _only(layer.mlp, _MLP):
        return None
    a, mlp = layer.self_attn, layer.mlp
    each = _only(a, _ATTENTION | _NORMS)
    if not (each or _only(a, _ATTENTION)):
        return None
    linear = [*(getattr(a, k) for k in sorted(_ATTENTION)), mlp.gate_proj, mlp.up_proj, mlp.down_proj]
    before, after = _norm(layer.input_layernorm), _norm(layer.post_attention_layernorm)
    size = getattr(a, "head_dim", None)
    if any(type(m) is not nn.Linear or type(m.weight) is not nn.Parameter for m in linear):
        return None
    if before is None or after is None or not size:
        return None
    heads = a.q_proj.out_features // size, a.k_proj.out_features // size
    inputs, gates = _Product.of(a.q_proj, a.k_proj, a.v_proj), _Product.of(mlp.gate_proj, mlp.up_proj)
    of_heads = _each(a, heads) if each else None
    if each and of_heads is None:
        return None
    scale, inner = getattr(a, "scaling", size**-0.5), mlp.up_proj.out_features
    out, down = _Product.of(a.o_proj), _Product.of(mlp.down_proj)
    return _Layer(before, inputs, heads, size, of_heads, scale, out, after, gates, inner, mlp.act_fn, down)


def _each(attention: Any, heads: tuple[int, int]) -> _Norm | None:
    """The norms of queries and keys as one, ``[H_q + H_k, d]``."""
    q, k = _norm(attention.q_norm), _norm(attention.k_norm)
    if q is None or k is None or q.eps != k.eps or q.weight.shape != k.weight.shape:
        return None
    return _Norm(torch.cat([q.weight.expand(heads[0], -1), k.weight.expand(heads[1], -1)]), q.eps)


def _norm(module: Any) -> _Norm | None:
    eps = getattr(module, "variance_epsilon", None)
    names = {name for name, _ in module.named_parameters()}
    if eps is None or names != {"weight"} or not _only(module, set()):
        return None
    return _Norm(module.weight, eps)


def _only(module: Any, names: set[str]) -> bool:
    """Whether the module has just these parts, and no weights of its own beside them."""
    own = set(dict(module.named_parameters(recurse=False))) - {"weight"}
    return {name for name, _ in module.named_children()} == names and not own


def _hooked(trunk: nn.Module) -> bool:
    """Whether somebody listens to a module's calls; those that bring sharded weights together have done so before."""
    hooks = (h for m in trunk.modules() for kind in (m._forward_hooks, m._forward_pre_hooks) for h in kind.values())
    return any(not (getattr(h, "__module__", None) or "").startswith("torch.distributed") for h in hooks)
