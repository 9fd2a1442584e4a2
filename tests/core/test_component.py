"""Components, stages of every kind, and the order of a pipeline."""

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

import pytest
import torch
from pydantic import PrivateAttr, ValidationError

from steersman.core.component import START, Component, Moment, Stage, check_pipeline
from steersman.core.errors import UserError
from steersman.core.types import Rollouts


class DropInvalid(Stage):
    """Drops rows."""

    kind: Literal["drop"] = "drop"

    def __call__(self, rollouts: Rollouts, at: Moment = START) -> tuple[Rollouts, dict[str, float]]:
        return rollouts.index(rollouts.valid), {"kept": float(rollouts.valid.float().mean())}


class Repeat(Stage):
    """Repeats rows."""

    kind: Literal["repeat"] = "repeat"
    times: int = 2

    def __call__(self, rollouts: Rollouts, at: Moment = START) -> tuple[Rollouts, dict[str, float]]:
        return rollouts.index(torch.arange(len(rollouts)).repeat_interleave(self.times)), {}


class LogRatio(Stage):
    """Writes a stream."""

    kind: Literal["log_ratio"] = "log_ratio"
    needs: ClassVar[tuple[str, ...]] = ("logp", "logp_ref")
    gives: ClassVar[tuple[str, ...]] = ("log_ratio",)

    def __call__(self, rollouts: Rollouts, at: Moment = START) -> tuple[Rollouts, dict[str, float]]:
        ratio = rollouts.streams["logp"] - rollouts.streams["logp_ref"]
        return rollouts.with_streams(log_ratio=ratio), {"log_ratio": float(ratio.mean())}


class FromRatio(Stage):
    """Needs what `LogRatio` gives."""

    kind: Literal["from_ratio"] = "from_ratio"
    needs: ClassVar[tuple[str, ...]] = ("log_ratio",)
    gives: ClassVar[tuple[str, ...]] = ("token_reward",)


class Counter(Stage):
    """Remembers how many rows it saw."""

    kind: Literal["counter"] = "counter"
    _seen: int = PrivateAttr(0)

    def __call__(self, rollouts: Rollouts, at: Moment = START) -> tuple[Rollouts, dict[str, float]]:
        self._seen += len(rollouts)
        return rollouts, {"seen": float(self._seen)}

    def state_dict(self) -> dict[str, Any]:
        return {"seen": self._seen}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self._seen = state["seen"]


class Misspelt(Stage):
    """Needs a stream nobody declared."""

    kind: Literal["misspelt"] = "misspelt"
    needs: ClassVar[tuple[str, ...]] = ("logp_reff",)


class GivesUnknown(Stage):
    """Gives a stream nobody declared."""

    kind: Literal["gives_unknown"] = "gives_unknown"
    gives: ClassVar[tuple[str, ...]] = ("qqqq",)


def rollouts() -> Rollouts:
    ids = torch.arange(12).reshape(3, 4)
    return Rollouts.of(
        ids,
        torch.tensor([4, 3, 4]),
        torch.tensor([1, 1, 2]),
        valid=torch.tensor([True, False, True]),
        streams={"logp": -torch.ones(3, 4), "logp_ref": torch.full((3, 4), -3.0)},
    )


def test_a_pipeline_of_every_kind_runs_in_order() -> None:
    stages = [DropInvalid(), LogRatio(), Repeat(times=3), Counter()]
    have = check_pipeline(stages, ["logp", "logp_ref"])
    assert have == {"logp", "logp_ref", "log_ratio"}
    x, metrics = rollouts(), {}
    for stage in stages:
        x, found = stage(x)
        metrics |= found
    assert x.ids[:, 0].tolist() == [0, 0, 0, 8, 8, 8]
    assert torch.equal(x.streams["log_ratio"], torch.full((6, 4), 2.0))
    assert metrics == {"kept": pytest.approx(2 / 3), "log_ratio": 2.0, "seen": 6.0}


def test_a_stage_without_work_is_the_identity() -> None:
    x = rollouts()
    same, metrics = Stage()(x)
    assert same is x
    assert metrics == {}


def test_a_missing_stream_names_who_gives_it() -> None:
    with pytest.raises(UserError) as caught:
        check_pipeline([DropInvalid(), LogRatio()], ["logp"])
    assert caught.value.where == "stages[1]"
    assert "LogRatio needs 'logp_ref', which nothing before it gives" in str(caught.value)
    assert "the frozen reference" in caught.value.cure


def test_a_stream_that_is_given_too_late_says_what_to_move() -> None:
    with pytest.raises(UserError) as caught:
        check_pipeline([FromRatio(), DropInvalid(), LogRatio()], ["logp", "logp_ref"])
    assert caught.value.cure == "Move LogRatio before it."
    assert caught.value.where == "stages[0]"
    check_pipeline([LogRatio(), FromRatio()], ["logp", "logp_ref"])


def test_a_stage_does_not_feed_itself() -> None:
    class Own(Stage):
        needs: ClassVar[tuple[str, ...]] = ("value",)
        gives: ClassVar[tuple[str, ...]] = ("value",)

    with pytest.raises(UserError, match="Own needs 'value'"):
        check_pipeline([Own()], [])


def test_unknown_streams_get_the_nearest_spelling() -> None:
    with pytest.raises(UserError) as caught:
        check_pipeline([Misspelt()], ["logp_ref"])
    assert "unknown stream 'logp_reff'" in str(caught.value)
    assert caught.value.cure == "Did you mean 'logp_ref'?"
    with pytest.raises(UserError) as caught:
        check_pipeline([DropInvalid(), GivesUnknown()], [])
    assert caught.value.where == "stages[1]"
    assert caught.value.cure == ""


def test_an_empty_pipeline_keeps_what_is_given() -> None:
    assert check_pipeline([], ["logp"]) == {"logp"}


def test_state_goes_round_and_a_stateless_stage_refuses_one() -> None:
    first, second = Counter(), Counter()
    first(rollouts())
    second.load_state_dict(first.state_dict())
    assert second(rollouts())[1] == {"seen": 6.0}
    DropInvalid().load_state_dict(DropInvalid().state_dict())
    with pytest.raises(UserError, match=r"DropInvalid keeps no state but was given \['seen'\]"):
        DropInvalid().load_state_dict(first.state_dict())


def test_components_are_frozen_and_take_no_unknown_keys() -> None:
    with pytest.raises(ValidationError):
        Repeat(times=2).times = 3
    with pytest.raises(ValidationError):
        Repeat(tmies=2)

    class WrongDefault(Component):
        count: int = "many"  # type: ignore[assignment]

    with pytest.raises(ValidationError):
        WrongDefault()
