"""Rollouts come back from disk as they were, with nothing but their real tokens stored."""

from dataclasses import replace

import pytest
import torch

from steersman.core.errors import CorruptFile, UserError
from steersman.core.types import Rollouts
from steersman.store.checkpoint import flatten
from steersman.store.rollouts import from_state, load_rollouts, save_rollouts, to_state


def rollouts(extra: int = 0, **known: object) -> Rollouts:
    ids = torch.tensor([[1, 2, 3, 9, 9], [4, 5, 6, 7, 8], [1, 9, 9, 9, 9]])
    length, prompt = torch.tensor([3, 5, 1]), torch.tensor([1, 2, 1])
    forced = torch.zeros(3, 5, dtype=torch.bool)
    forced[1, 3] = True
    number = torch.arange(15.0).view(3, 5)
    streams = {"advantage": number, "advantage_row": torch.tensor([1.0, 2, 3]), "hidden": torch.ones(3, 5, 2)}
    real = torch.arange(5) < length[:, None]
    streams = {k: x if x.ndim == 1 else x * (real if x.ndim == 2 else real[..., None]) for k, x in streams.items()}
    streams["hidden_prompt"] = torch.arange(12.0).view(3, 4)
    made = Rollouts.of(ids, length, prompt, forced=forced, streams=streams, **known)  # type: ignore[arg-type]
    return made.widen(5 + extra)


def same(a: Rollouts, b: Rollouts) -> bool:
    """Equal in every field, NaN equal to NaN."""
    left, right = (flatten(to_state(x)) for x in (a, b))
    return left[1] == right[1] and all(torch.equal(x, right[0][k]) or bool(x.isnan().any()) for k, x in left[0].items())


def test_everything_comes_back(tmp_path):
    known = {
        "reward": torch.tensor([1.0, torch.nan, 0.5]),
        "valid": torch.tensor([True, False, True]),
        "correct": torch.tensor([True, False, False]),
        "answer": ("7", None, "x"),
        "feedback": (None, "no", None),
        "logp_behaviour": torch.full((3, 5), -0.5) * (torch.arange(5) < torch.tensor([[3], [5], [1]])),
    }
    made = rollouts(**known)
    step, back = load_rollouts(save_rollouts(tmp_path, 4, made))
    assert step == 4
    assert same(made, back)
    assert torch.equal(back.ids, made.ids)
    assert torch.equal(back.streams["hidden"], made.streams["hidden"])
    assert torch.isnan(back.reward[1])
    assert back.answer == made.answer
    assert back.feedback == made.feedback


def test_only_real_tokens_are_stored():
    assert to_state(rollouts())["ids"].tolist() == [1, 2, 3, 4, 5, 6, 7, 8, 1]
    assert to_state(rollouts())["streams"]["hidden"].shape == (9, 2)


def test_no_rows_and_no_padding():
    empty = rollouts().index(torch.zeros(3, dtype=torch.bool))
    assert from_state(to_state(empty)).ids.shape == (0, 5)
    full = rollouts().index(torch.tensor([1]))
    assert same(from_state(to_state(full)), full)


def test_an_altered_file_is_refused(tmp_path):
    folder = save_rollouts(tmp_path, 0, rollouts())
    file = folder / "tensors.safetensors"
    content = file.read_bytes()
    file.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    with pytest.raises(CorruptFile):
        load_rollouts(folder)


def test_concat_joins_batches_of_different_widths():
    a, b = rollouts(), rollouts(extra=3).index(torch.tensor([1, 0]))
    joined = Rollouts.concat([a, b])
    assert joined.ids.shape == (5, 8)
    assert joined.length.tolist() == [3, 5, 1, 5, 3]
    assert joined.streams["hidden"].shape == (5, 8, 2)
    assert same(joined.index(slice(0, 3)), a.widen(8))
    assert same(Rollouts.concat([a]), a)


@pytest.mark.parametrize(
    "change", [{"streams": {}}, {"reward": torch.zeros(3)}, {"answer": ("a", "b", "c")}, {"feedback": (None,) * 3}]
)
def test_concat_refuses_batches_that_know_different_things(change):
    with pytest.raises(UserError, match="in some parts only"):
        Rollouts.concat([rollouts(), replace(rollouts(), **change)])
    with pytest.raises(UserError, match="nothing to join"):
        Rollouts.concat([])
