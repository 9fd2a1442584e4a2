"""Noise of rows, tokens and groups that follows them wherever they stand in a batch.

A row is known by its group and the tokens of its response, so the noise is the same in any order of rows, under any
padding, and after a resume. Two rows of a group with the same tokens have the same noise: nothing tells them apart.
Leaves out: the generator itself (`core.noise`).
"""

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from steersman.core.component import Moment
from steersman.core.noise import uniform
from steersman.core.types import Rollouts

_STEP, _FIRST, _SECOND = (np.uint64(x) for x in (0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB))
_LOW_63 = np.uint64(2**63 - 1)


def _mixed(x: np.ndarray) -> np.ndarray:
    """Splitmix64 of uint64 numbers (Steele, Lea and Flood 2014)."""
    x = x + _STEP
    x = (x ^ (x >> np.uint64(30))) * _FIRST
    x = (x ^ (x >> np.uint64(27))) * _SECOND
    mixed: np.ndarray = x ^ (x >> np.uint64(31))
    return mixed


def row_key(rollouts: Rollouts) -> Int[np.ndarray, " N"]:
    """A number of 63 bits for each row, from its group and the tokens of its response in their order."""
    ids, group = rollouts.ids.cpu().numpy().astype(np.uint64), rollouts.group.cpu().numpy().astype(np.uint64)
    place = np.arange(ids.shape[1])[None, :] - rollouts.prompt_length.cpu().numpy()[:, None]
    inside = (place >= 0) & (place < (rollouts.length - rollouts.prompt_length).cpu().numpy()[:, None])
    tokens = _mixed((np.where(inside, place, 0).astype(np.uint64) << np.uint64(32)) ^ ids)
    total = np.where(inside, tokens, np.uint64(0)).sum(1, dtype=np.uint64)
    return (_mixed(_mixed(~group) ^ total) & _LOW_63).astype(np.int64)


def row_noise(rollouts: Rollouts, at: Moment, purpose: str) -> Float[Tensor, " N"]:
    """A uniform number in (0, 1) for each row, float64."""
    return torch.from_numpy(uniform(at.seed, purpose, row_key(rollouts), 0, at.step)).to(rollouts.ids.device)


def token_noise(rollouts: Rollouts, at: Moment, purpose: str) -> Float[Tensor, "N L"]:
    """A uniform number in (0, 1) for each token, float64."""
    place = np.arange(rollouts.ids.shape[1])[None, :] - rollouts.prompt_length.cpu().numpy()[:, None]
    found = uniform(at.seed, purpose, row_key(rollouts)[:, None], place.clip(min=0), at.step)
    return torch.from_numpy(found).to(rollouts.ids.device)


def group_noise(group: Tensor, at: Moment, purpose: str, number: int = 1) -> Float[Tensor, "G K"]:
    """`number` uniform numbers in (0, 1) for each group id ``[G]``, float64."""
    found = uniform(at.seed, purpose, group.cpu().numpy()[:, None], np.arange(number)[None, :], at.step)
    return torch.from_numpy(found).to(group.device)
