"""Stages and losses of the user's own: every ordinary mistake is one message that names the part, never a traceback."""

from typing import Any

import pytest
import rl_toys as toys
import torch

from steersman.core.component import START, Component, Moment, Stage
from steersman.core.errors import UserError
from steersman.core.types import Rollouts
from steersman.objective.components_advantage import GRPO, UniformCredit
from steersman.objective.components_policy import Clipped
from steersman.store.run import RunDir
from steersman.train.loop import Budget, Habits
from steersman.train.rl import rl

CREDIT = [GRPO(), UniformCredit()]


class _Stage(Stage):
    def __call__(self, rollouts: Rollouts, at: Moment = START) -> Any:
        return self.made(rollouts)

    def made(self, rollouts: Rollouts) -> Any:
        return rollouts, {}


class GivesNothing(_Stage):
    gives = ("token_weight",)


class NoTuple(_Stage):
    def made(self, rollouts: Rollouts) -> Any:
        return rollouts


class TextMetric(_Stage):
    def made(self, rollouts: Rollouts) -> Any:
        return rollouts, {"note": "fine"}


class VectorMetric(_Stage):
    def made(self, rollouts: Rollouts) -> Any:
        return rollouts, {"length": rollouts.length}


class Raises(_Stage):
    def made(self, rollouts: Rollouts) -> Any:
        return rollouts.index(torch.tensor([10**6])), {}


class WrongShape(_Stage):
    def made(self, rollouts: Rollouts) -> Any:
        return rollouts.with_streams(advantage=torch.zeros(3, 3)), {}


class NoState(_Stage):
    def state_dict(self) -> dict[str, Any]:
        return {"seen": {1, 2}}


@pytest.mark.parametrize(
    "stage, what",
    [
        (GivesNothing(), r"stages\[2\] .*says it gives 'token_weight' and did not"),
        (NoTuple(), r"stages\[2\] .*returned Rollouts"),
        (TextMetric(), r"stages\[2\] .*its metric 'note' is 'fine'"),
        (VectorMetric(), r"stages\[2\] .*its metric 'length' is \(12,\)"),
        (Raises(), r"stages\[2\] .*test_own_code.py.*Raises raised IndexError"),
        (WrongShape(), r"stages\[2\] .*streams.advantage: has shape \(3, 3\)"),
    ],
    ids=lambda x: type(x).__name__ if isinstance(x, Stage) else "",
)
def test_a_stage_that_does_not_do_what_it_says(stage, what, tmp_path):
    made = toys.learner({"stages": [*CREDIT, stage], "loss": Clipped()}, run=RunDir(tmp_path))
    with pytest.raises(UserError, match=what):
        made.step(0)
    assert list((tmp_path / "rollouts").glob("step-*"))


def test_a_state_that_no_checkpoint_can_hold_is_found_before_the_first_step():
    with pytest.raises(UserError, match=r"stages\[2\] .*its state cannot be saved"):
        toys.learner({"stages": [*CREDIT, NoState()], "loss": Clipped()})


class _Loss(Component):
    def __call__(self, logp: torch.Tensor, logp_old: torch.Tensor, advantage: torch.Tensor, mask: torch.Tensor) -> Any:
        return -advantage * logp


class NothingBack(_Loss):
    def __call__(self, *given: Any) -> Any:
        return None


class Constant(_Loss):
    def __call__(self, *given: Any) -> Any:
        return torch.zeros_like(given[0]).detach()


class OneArgument(_Loss):
    def __call__(self, logp: torch.Tensor) -> Any:
        return logp


class PerRow(_Loss):
    def __call__(self, *given: Any) -> Any:
        return given[0].sum(1)


class Typo(_Loss):
    needs = ("advantages",)


def test_a_loss_that_lists_no_needs_trains():
    assert float(toys.learner({"stages": CREDIT, "loss": _Loss()}).step(0)["grad_norm"]) > 0


@pytest.mark.parametrize(
    "loss, what",
    [
        (NothingBack(), "NothingBack returned NoneType"),
        (Constant(), "Constant returned a tensor without a gradient"),
        (OneArgument(), "OneArgument raised TypeError"),
        (PerRow(), r"PerRow returned \(12,\)"),
    ],
    ids=lambda x: type(x).__name__ if isinstance(x, Component) else "",
)
def test_a_loss_that_is_none(loss, what):
    with pytest.raises(UserError, match=what):
        toys.learner({"stages": CREDIT, "loss": loss}).step(0)


def test_a_misspelt_need_of_a_loss_is_named_with_its_neighbour():
    with pytest.raises(UserError, match="the policy loss needs the unknown stream 'advantages'") as caught:
        toys.learner({"stages": CREDIT, "loss": Typo()})
    assert caught.value.cure == "Did you mean 'advantage'?"


class DropAll(_Stage):
    def made(self, rollouts: Rollouts) -> Any:
        return rollouts.index(slice(0, 0)), {}


def test_a_limit_on_what_a_skipped_step_lacks_is_no_mistake(tmp_path):
    made = toys.learner({"stages": [*CREDIT, DropAll()], "loss": Clipped()}, run=RunDir(tmp_path))
    budget = Budget(steps=6, seed=7, limits={"kl_old": 0.5, "reward_mean": 2.0})
    assert rl(made, budget, RunDir(tmp_path), Habits(log_every=1)).reason == "finished"


def test_a_limit_on_what_only_the_first_update_of_a_batch_has_holds_for_all(tmp_path):
    made = toys.learner("ppo", run=RunDir(tmp_path))
    budget = Budget(steps=6, seed=7, limits={"gap_max": 1.0, "reward_mean": 2.0, "entropy": 99.0})
    assert rl(made, budget, RunDir(tmp_path), Habits(log_every=1)).reason == "finished"


def test_a_misspelt_limit_is_refused(tmp_path):
    budget = Budget(steps=6, seed=7, limits={"kl_odl": 0.5})
    with pytest.raises(UserError, match="'kl_odl' is no training metric") as caught:
        rl(toys.learner("grpo"), budget, RunDir(tmp_path), Habits(log_every=1))
    assert caught.value.cure == "Did you mean 'kl_old'?"
