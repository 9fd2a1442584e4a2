"""A world of two tokens in which everything is exact: what becomes of a policy whose reference holds a hidden coin.

A response is a bit b and an answer, right or wrong. The policy has two logits: p = P(b = 1) and q = P(right). A
reference is (c, right) with c a fair coin that the prompt does not show; told it, the policy prints b = c and answers
rightly. In the benign world there is no coin: told it, the policy leaves b as it is.
Leaves out: sampling; every expectation is a sum over the few cases.
Source: the coin is ours, after CEPO's argument that matching distributions leaks what was told.
"""

import itertools
import math
from collections.abc import Callable
from typing import Any, Literal

import torch
from torch import Tensor

from steersman.objective.credit.cepo import evidence
from steersman.objective.divergence import divergence

World = Literal["coin", "benign"]
START = {"bit": 0.95, "right": 0.6}
"""The untrained policy: it mostly begins with 1, and is mostly right."""
TOLD = 0.999
"""What the policy gives to what it was told."""
STEPS, RATE = 400, 2.0
LAM, EPS_W = 0.5, 0.5


def run() -> dict[str, Any]:
    """OPSD by gradient descent in both worlds, and the expected updates of RLSD and CEPO at the bit.

    Returns:
        ``opsd``: world -> loss at the bit at the end, its least possible value, P(b = 1) and P(right) at the end;
        ``start``; ``gradient``: method -> expected gradient at the bit's logit, at P(b = 1) = 1/2 and at the start;
        ``value``: P(b = 1 and right), what a grader that wants the usual beginning pays, before and after.
    """
    opsd = {world: _opsd(world) for world in ("coin", "benign")}
    gradient = {m: [_gradient(m, p, START["right"]) for p in (0.5, START["bit"])] for m in ("rlsd", "cepo")}
    value = {w: [START["bit"] * START["right"], found["bit"] * found["right"]] for w, found in opsd.items()}
    return {"start": START, "opsd": opsd, "gradient": gradient, "value": value}


def logit(p: float) -> float:
    """log p / (1 - p)."""
    return math.log(p / (1 - p))


def _two(x: Tensor) -> Tensor:
    """Logits of two tokens, the second with logit `x`."""
    return torch.stack([torch.zeros_like(x), x])


def _opsd(world: World) -> dict[str, float]:
    """Plain gradient descent on the mean forward KL of both tokens (OPSD's loss with beta 0)."""
    x = torch.tensor([logit(START["bit"]), logit(START["right"])], dtype=torch.float64, requires_grad=True)
    sure = torch.tensor(logit(TOLD), dtype=torch.float64)
    untold = x[0].detach().clone()
    bits = [sure, -sure] if world == "coin" else [untold, untold]

    def losses() -> tuple[Tensor, Tensor]:
        bit = torch.stack([divergence(_two(x[0]), _two(b), "forward_kl") for b in bits]).mean()
        return bit, divergence(_two(x[1]), _two(sure), "forward_kl")

    for _ in range(STEPS):
        (gradient,) = torch.autograd.grad(sum(losses()), x)
        x = (x.detach() - RATE * gradient).requires_grad_()
    bit, right = (float(v) for v in x.detach().sigmoid())
    return {"loss": float(losses()[0].detach()), "least": _least(world), "bit": bit, "right": right}


def _least(world: World) -> float:
    """min over p of the mean forward KL at the bit: log 2 less the entropy of what is told."""
    return math.log(2) - _entropy(TOLD) if world == "coin" else 0.0


def _entropy(p: float) -> float:
    return -p * math.log(p) - (1 - p) * math.log(1 - p)


def _gradient(method: str, p: float, q: float) -> float:
    """Expected gradient of the policy objective at the bit's logit, over bit, answer, coin and the wrong answer's bit.

    The reward is 1 for a right answer; A is that less its mean, by its deviation, as in a large group.
    """
    logp, chance, advantage = _cases(method, p, q)
    told, other = logp
    found = evidence(advantage, told, other, torch.ones_like(told, dtype=torch.bool), LAM, EPS_W)[:, 0]
    score = torch.tensor([b - p for b, _, _, _ in _ALL], dtype=torch.float64)  # d log pi(b) / d logit
    return float((chance * found * score).sum())


_ALL = tuple(itertools.product((0, 1), repeat=4))
"""Bit, answer right, coin of the reference, bit of the response whose wrong answer is told."""


def _cases(method: str, p: float, q: float) -> tuple[tuple[Tensor, Tensor], Tensor, Tensor]:
    def of(f: Callable[[int, int, int, int], float]) -> Tensor:
        return torch.tensor([f(*case) for case in _ALL], dtype=torch.float64)

    def bit(b: int) -> float:
        return p if b else 1 - p

    told = of(lambda b, a, c, d: math.log(TOLD if b == c else 1 - TOLD))
    wrong = of(lambda b, a, c, d: math.log(TOLD if b == d else 1 - TOLD))
    own = of(lambda b, a, c, d: math.log(bit(b)))
    chance = of(lambda b, a, c, d: bit(b) * (q if a else 1 - q) * 0.5 * bit(d))
    advantage = of(lambda b, a, c, d: (a - q) / math.sqrt(q * (1 - q)))
    return (told[:, None], (own if method == "rlsd" else wrong)[:, None]), chance, advantage
