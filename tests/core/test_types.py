"""Rollouts, pairs and scores: refusals, indexing, trimming, and that inputs stay as they were."""

from collections.abc import Iterator
from typing import Any

import jaxtyping
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from steersman.core.errors import UserError
from steersman.core.types import STOP_EOS, Pairs, Rollouts, Scores

N, WIDTH = 4, 6
TOKEN_FIELDS = ("action", "forced", "logp_behaviour")
ROW_FIELDS = ("length", "prompt_length", "group", "valid", "stop", "weight", "version", "reward", "correct")


@pytest.fixture(scope="module", autouse=True)
def as_a_user() -> Iterator[None]:
    """Users have no shape checker, so the refusals must be the library's own."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


def fields(n: int = N) -> dict[str, Any]:
    """Everything a rollout can hold, all rows different."""
    row = torch.arange(n)
    ids = torch.arange(n * WIDTH).reshape(n, WIDTH)
    length, prompt = 3 + row % 3, 1 + row % 2
    position = torch.arange(WIDTH)
    response = (position >= prompt[:, None]) & (position < length[:, None])
    forced = response & (position == prompt[:, None]) & (row[:, None] == 2)
    return {
        "ids": ids,
        "length": length,
        "prompt_length": prompt,
        "action": response & ~forced,
        "forced": forced,
        "group": row // 2,
        "valid": row != 3,
        "stop": row % 2,
        "weight": 1.0 + row,
        "version": row + 10,
        "logp_behaviour": -ids.float(),
        "reward": row / 2,
        "correct": row == 1,
        "answer": tuple(f"answer {i}" if i else None for i in range(n)),
        "feedback": tuple(f"said {i}" if i != 1 else None for i in range(n)),
        "streams": {
            "logp": -ids.double(),
            "advantage_row": row.float(),
            "hidden": ids[..., None].float().repeat(1, 1, 3),
            "hidden_prompt": ids[:, :2].float().repeat(1, 4),
        },
    }


def same(a: Rollouts, b: Rollouts) -> bool:
    """Equal in every field."""
    for name in ("ids", *TOKEN_FIELDS, *ROW_FIELDS):
        x, y = getattr(a, name), getattr(b, name)
        if (x is None) != (y is None) or (x is not None and not torch.equal(x, y)):
            return False
    return (
        (a.answer, a.feedback) == (b.answer, b.feedback)
        and a.streams.keys() == b.streams.keys()
        and all(torch.equal(x, b.streams[k]) for k, x in a.streams.items())
    )


def test_the_example_is_a_legal_batch() -> None:
    assert len(Rollouts(**fields()).check()) == N


@pytest.mark.parametrize("ids", [torch.zeros(3, dtype=torch.int64), torch.zeros(3, 4), torch.zeros(3, 4).int()])
def test_ids_must_be_int64_rows(ids: torch.Tensor) -> None:
    with pytest.raises(UserError, match=r"Rollouts: ids must be int64 \[N, L\]"):
        Rollouts(**fields() | {"ids": ids})


@pytest.mark.parametrize("name", [*TOKEN_FIELDS, *ROW_FIELDS])
@pytest.mark.parametrize("change", ["row more", "axis more"])
def test_every_shape_that_disagrees_is_refused(name: str, change: str) -> None:
    x = fields()[name]
    bad = torch.cat([x, x[:1]]) if change == "row more" else x[..., None]
    with pytest.raises(UserError, match=rf"Rollouts: {name} has shape"):
        Rollouts(**fields() | {name: bad})


@pytest.mark.parametrize("name", TOKEN_FIELDS)
def test_a_token_tensor_of_another_width_is_refused(name: str) -> None:
    with pytest.raises(UserError, match=rf"{name} has shape \(4, 5\), expected \(4, 6\)"):
        Rollouts(**fields() | {name: fields()[name][:, :-1]})


@pytest.mark.parametrize("name", [*TOKEN_FIELDS, *ROW_FIELDS])
def test_every_wrong_dtype_is_refused(name: str) -> None:
    x = fields()[name]
    for bad in (x.float(), x.int(), x.bool(), x.long()):
        if bad.dtype != x.dtype and not (bad.is_floating_point() and x.is_floating_point()):
            with pytest.raises(UserError, match=rf"{name} is torch\.\w+, expected"):
                Rollouts(**fields() | {name: bad})


@pytest.mark.parametrize("name", ["weight", "reward", "logp_behaviour"])
def test_any_floating_precision_is_taken(name: str) -> None:
    assert getattr(Rollouts(**fields() | {name: fields()[name].double()}), name).dtype == torch.float64


def test_answers_and_streams_must_fit() -> None:
    with pytest.raises(UserError, match="answer has 3 entries for 4 rows"):
        Rollouts(**fields() | {"answer": ("a", "b", None)})
    with pytest.raises(UserError, match="feedback has 1 entries for 4 rows"):
        Rollouts(**fields() | {"feedback": ("a",)})
    with pytest.raises(UserError, match="unknown stream 'lgop'"):
        Rollouts(**fields() | {"streams": {"lgop": torch.zeros(N, WIDTH)}})
    with pytest.raises(UserError, match=r"streams\.logp: has shape \(4, 5\)"):
        Rollouts(**fields()).with_streams(logp=torch.zeros(N, WIDTH - 1))


def test_of_fills_in_what_is_not_known() -> None:
    ids, length, prompt = torch.zeros(2, 5, dtype=torch.int64), torch.tensor([5, 3]), torch.tensor([2, 0])
    x = Rollouts.of(ids, length, prompt).check()
    assert x.action.long().tolist() == [[0, 0, 1, 1, 1], [1, 1, 1, 0, 0]]
    assert not x.forced.any()
    assert (x.group.tolist(), x.stop.tolist(), x.weight.tolist()) == ([0, 1], [STOP_EOS] * 2, [1.0, 1.0])
    assert (x.valid.tolist(), x.version.tolist(), x.reward, x.answer) == ([True, True], [0, 0], None, None)
    forced = torch.zeros(2, 5, dtype=torch.bool)
    forced[0, 2] = True
    x = Rollouts.of(ids, length, prompt, forced=forced, reward=torch.ones(2)).check()
    assert x.action.long().tolist() == [[0, 0, 0, 1, 1], [1, 1, 1, 0, 0]]
    assert x.reward is not None


ROWS = st.one_of(
    st.lists(st.integers(-N, N - 1), max_size=7).map(lambda r: torch.tensor(r, dtype=torch.int64)),
    st.lists(st.booleans(), min_size=N, max_size=N).map(torch.tensor),
    st.slices(N).filter(lambda s: s.step is None or s.step > 0),
)


@given(ROWS, st.data())
def test_indexing_twice_is_indexing_by_the_composition(rows: torch.Tensor | slice, data: st.DataObject) -> None:
    x = Rollouts(**fields())
    once = x.index(rows)
    picked = torch.arange(N)[rows]
    assert len(once) == len(picked)
    again = torch.tensor(
        data.draw(st.lists(st.integers(0, len(picked) - 1), max_size=5)) if len(picked) else [], dtype=torch.int64
    )
    assert same(once.index(again), x.index(picked[again]))
    assert same(x, Rollouts(**fields()))


def test_indexing_takes_everything_along() -> None:
    x = Rollouts(**fields()).index(torch.tensor([2, 2, 0]))
    assert x.ids[:, 0].tolist() == [12, 12, 0]
    assert x.answer == ("answer 2", "answer 2", None)
    assert x.feedback == ("said 2", "said 2", "said 0")
    assert x.streams["advantage_row"].tolist() == [2.0, 2.0, 0.0]
    assert x.streams["hidden"][:, 0, 0].tolist() == [12.0, 12.0, 0.0]
    for name in ROW_FIELDS:
        assert torch.equal(getattr(x, name), fields()[name][[2, 2, 0]])


def test_trim_drops_only_columns_nobody_reaches() -> None:
    x = Rollouts(**fields()).index(torch.tensor([0, 1]))
    cut = x.trim()
    assert cut.ids.shape == (2, 4)
    assert cut.length.tolist() == [3, 4]
    assert torch.equal(cut.streams["logp"], x.streams["logp"][:, :4])
    assert cut.streams["hidden"].shape == (2, 4, 3)
    assert cut.streams["advantage_row"].shape == (2,)
    assert torch.equal(cut.streams["hidden_prompt"], x.streams["hidden_prompt"])
    assert torch.equal(x.widen(WIDTH + 3).streams["hidden_prompt"], x.streams["hidden_prompt"])
    assert same(cut.trim(), cut)
    assert x.ids.shape == (2, WIDTH)
    cut.check()


def test_empty_batches_survive_everything() -> None:
    x = Rollouts(**fields()).index(torch.zeros(N, dtype=torch.bool))
    assert len(x) == 0
    assert x.answer == x.feedback == ()
    assert x.trim().ids.shape == (0, 1)
    assert len(x.check().to("cpu").index(slice(0, 0))) == 0


def test_with_streams_leaves_the_original_alone() -> None:
    x = Rollouts(**fields())
    new = x.with_streams(logp=torch.ones(N, WIDTH), value=torch.zeros(N, WIDTH))
    assert new.streams["logp"].sum() == N * WIDTH
    assert "value" not in x.streams
    assert same(x, Rollouts(**fields()))


def test_to_moves_every_tensor() -> None:
    moved = Rollouts(**fields()).to("meta")
    assert {getattr(moved, n).device.type for n in ("ids", *TOKEN_FIELDS, *ROW_FIELDS)} == {"meta"}
    assert {x.device.type for x in moved.streams.values()} == {"meta"}
    assert same(Rollouts(**fields()).to("cpu"), Rollouts(**fields()))


def _broken(name: str, row: int, column: int | None, value: Any) -> Rollouts:
    x = fields()
    x[name] = x[name].clone()
    x[name][row if column is None else (row, column)] = value
    return Rollouts(**x)


@pytest.mark.parametrize(
    "name, row, column, value, what",
    [
        ("prompt_length", 1, None, 5, "prompt_length exceeds length"),
        ("prompt_length", 1, None, -1, "prompt_length is negative"),
        ("length", 2, None, 7, "length exceeds the width of ids"),
        ("action", 1, 0, True, "an action lies in the prompt"),
        ("action", 2, 5, True, "an action lies in the padding"),
        ("forced", 3, 0, True, "a forced token lies in the prompt"),
        ("forced", 0, 5, True, "a forced token lies in the padding"),
        ("action", 2, 1, True, "a forced token is also an action"),
        ("action", 1, slice(None), False, "the response is empty"),
    ],
)
def test_check_names_fault_and_row(name: str, row: int, column: Any, value: Any, what: str) -> None:
    with pytest.raises(UserError) as caught:
        _broken(name, row, column, value).check()
    assert str(caught.value) == f"Rollouts, row {row}: {what}"


def test_check_names_the_first_bad_row() -> None:
    x = fields()
    x["length"] = torch.tensor([3, 7, 5, 9])
    with pytest.raises(UserError, match="row 1: length exceeds"):
        Rollouts(**x).check()


def test_an_invalid_row_may_be_empty() -> None:
    _broken("action", 3, slice(None), False).check()


def sides() -> tuple[Rollouts, Rollouts]:
    return Rollouts(**fields()), Rollouts(**fields()).index(torch.tensor([3, 2, 1, 0]))


def test_pairs_keep_their_sides_together() -> None:
    first, second = sides()
    pairs = Pairs(first, second, torch.tensor([1.0, 0.5, 0.0, 1.0])).check()
    picked = pairs.index(torch.tensor([1, 3]))
    assert len(picked) == 2
    assert picked.first.ids[:, 0].tolist() == [6, 18]
    assert picked.second.ids[:, 0].tolist() == [12, 0]
    assert picked.label.tolist() == [0.5, 1.0]
    assert {x.device.type for x in (picked.to("meta").label, picked.to("meta").second.ids)} == {"meta"}


@pytest.mark.parametrize("label", [torch.ones(3), torch.ones(()), torch.ones(N, 1)])
def test_pairs_of_unequal_number_are_refused(label: torch.Tensor) -> None:
    with pytest.raises(UserError, match="first, second and label have"):
        Pairs(*sides(), label)
    with pytest.raises(UserError, match="have"):
        Pairs(sides()[0], sides()[1].index(slice(0, 3)), torch.ones(N))


@pytest.mark.parametrize("bad", [-0.1, 1.5, float("nan"), float("inf")])
def test_a_label_outside_the_interval_is_named(bad: float) -> None:
    with pytest.raises(UserError) as caught:
        Pairs(*sides(), torch.tensor([1.0, 0.5, bad, bad])).check()
    assert caught.value.where == "Pairs, row 2"
    assert caught.value.allowed == "[0, 1]"


def test_check_of_pairs_looks_at_both_sides() -> None:
    good, bad = sides()[0], _broken("action", 1, 0, True)
    for first, second in ((good, bad), (bad, good)):
        with pytest.raises(UserError, match="an action lies in the prompt"):
            Pairs(first, second, torch.ones(N)).check()


def test_scores_must_be_one_number_a_row() -> None:
    assert len(Scores(torch.zeros(3), torch.ones(3, dtype=torch.bool))) == 3
    for value, valid in ((torch.zeros(3), torch.ones(2).bool()), (torch.zeros(3, 1), torch.ones(3, 1).bool())):
        with pytest.raises(UserError, match="Scores"):
            Scores(value, valid)
