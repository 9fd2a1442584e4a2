"""What in an rl recipe cannot work together is refused by name, and what is odd gives a line."""

from typing import ClassVar, Literal

import pytest

from steersman.core.component import Stage
from steersman.core.config import read, validate
from steersman.core.errors import UserError
from steersman.recipes.presets import PRESETS
from steersman.recipes.rl import RLRecipe
from steersman.recipes.rl_checks import check_method, check_phases
from steersman.recipes.rl_parts import gap_limit, needs_reference, stages_of, terms_of, total_steps
from steersman.train.rl import GAP_LIMIT

BASE = {"model": {"path": "m"}, "task": {"kind": "questions", "train": "t.jsonl"}}


def recipe(*sets: str) -> RLRecipe:
    return validate(RLRecipe, read(None, sets, BASE))


REFUSED = {
    "no advantage": (["stages=[]"], "needs 'advantage', which no stage gives"),
    "no credit": (['stages=["grpo"]'], 'Add "uniform" behind them'),
    "wrong order": (['stages=["uniform","grpo"]'], "needs 'advantage_row'.*Move GRPO before it"),
    "gae without critic": (['stages=["gae"]'], r"stages\[0\]: gae needs 'value'.*Add the table \[critic\]"),
    "critic without returns": (["critic.clip=0.2"], "critic: is fitted to 'returns', which no stage gives"),
    "top_p": (["rollout.top_p=0.9"], "rollout.top_p: removes tokens.*importance"),
    "min_p": (["rollout.min_p=0.1"], "rollout.min_p: removes tokens"),
    "greedy": (["rollout.temperature=0"], "rollout.temperature: is 0"),
    "two penalties": (["kl.beta=1", 'stages=["kl_reward","rloo","uniform"]'], "kl: puts a KL penalty in the loss, and"),
    "gspo by tokens": (["loss.kind=gspo"], "aggregate.mode: is token_mean"),
    "minibatches": (["rollout.minibatches=300"], "32 x 8 = 256 responses"),
    "lonely dynamic": (["preset=dapo", "rollout.samples=1"], "a group of one response"),
    "lonely poise": (["preset=poise", "rollout.samples=1"], r"stages\[0\]: pairs the responses.*features = \["),
    "lonely grpo": (["rollout.samples=1"], r"stages\[0\]: grpo compares the responses.*every advantage is 0.*baseline"),
    "lonely rloo": (["preset=rloo", "rollout.samples=1"], r"stages\[1\]: rloo compares the responses"),
    "dynamic by a model": (["preset=dapo", "reward.kind=model", "reward.path=r"], "reads 'correct', which this task's"),
    "adora by a model": (
        ['stages=["grpo","adora","uniform"]', "reward.kind=model", "reward.path=r"],
        r"ADORA reads 'correct', which this task's grader does not give\n +A verifiable reward says it.*correct_at",
    ),
    "overlong beyond": (['stages=[{kind="overlong",limit=999,cache=9},"grpo","uniform"]'], "begins to punish at 990"),
    "the same twice": (['stages=["grpo","grpo","uniform"]'], r"stages\[0\]: grpo gives 'advantage_row', which grpo"),
    "two advantages": (['stages=["grpo","rloo","uniform"]'], "which rloo behind it replaces.*Keep one of the two"),
    "advantage of tokens too": (
        ['stages=["grpo","uniform","reinforce_pp"]'],
        r"stages\[1\]: uniform gives 'advantage'",
    ),
    "advantage behind": (['stages=["reinforce_pp","grpo"]'], r"stages\[1\]: grpo .* which nothing behind it reads"),
    "shaped too late": (
        ['stages=["grpo","shape_reward","uniform"]'],
        r"stages\[1\]: shape_reward.*nothing.*Put it before",
    ),
    "kl too late": (['stages=["grpo","uniform","kl_reward"]'], r"stages\[2\]: kl_reward gives 'token_reward'"),
    "two beats": (
        [
            'stages=["grpo",{kind="contrastive_credit",teacher="copy",sync=5},'
            '{kind="contrastive_credit",stream="advantage",teacher="copy",sync=7}]'
        ],
        r"stages\[1\].teacher: copies are taken every 5 and 7 steps",
    ),
    "a copy and a teacher": (
        [
            'stages=["grpo",{kind="contrastive_credit",teacher="copy",sync=5}]',
            'loss={kind="distill",teacher={path="t"}}',
        ],
        r"stages\[1\].teacher: is a copy of the policy, and the loss has a teacher",
    ),
    "a divergence from oneself": (
        [
            'stages=[{kind="select_tokens",rule="entropy",mode="sample",gamma=1.0}]',
            'loss={kind="distill",teacher={kind="self"}}',
        ],
        r"stages\[0\]: select_tokens reads 'divergence_jsd', which it asks of a teacher that is another model",
    ),
    "a divergence from nobody": (
        ['stages=["grpo","uniform",{kind="select_tokens",rule="entropy",mode="sample",gamma=1.0}]'],
        "SelectTokens asks for a pass by a teacher",
    ),
    "unbiased for another mean": (
        [
            'stages=[{kind="select_tokens",rule="entropy",mode="sample",unbiased=true}]',
            'loss={kind="distill",teacher={path="t"}}',
            "aggregate.mode=seq_mean_token_mean",
        ],
        "aggregate.mode: is seq_mean_token_mean; unbiased draws estimate the mean over the tokens of a step",
    ),
    "chain_sum graded": (["task.kind=chain_sum", "reward.kind=verifiable"], "reward: chain_sum grades itself"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused_with_the_missing_thing_and_a_cure(name: str) -> None:
    sets, message = REFUSED[name]
    with pytest.raises(UserError, match=f"(?s){message}"):
        check_method(recipe(*sets))


WARNED = {
    "reinforce": (["loss.kind=reinforce", "rollout.minibatches=4"], "3 of the 4 updates of a batch are off-policy"),
    "less than a batch": (["preset=dapo", "budget.steps=5"], "a batch of responses serves 16: 5 of them end within"),
    "filter before a probe": (
        ['stages=["dynamic_sampling","internal_value","uniform"]'],
        "dynamic_sampling drops responses by outcome before internal_value",
    ),
    "overlong": (['stages=[{kind="overlong",limit=300,cache=100},"grpo","uniform"]'], "punishes up to 300 tokens"),
}


@pytest.mark.parametrize("name", WARNED)
def test_odd_but_possible(name: str) -> None:
    sets, message = WARNED[name]
    (line,) = check_method(recipe(*sets))
    assert line.startswith("warning: ")
    assert message in line


ALONE = {
    "reinforce_pp": ["preset=reinforce_pp"],
    "ppo": ["preset=ppo"],
    "baseline": ['stages=["baseline","uniform"]'],
    "the prompt alone": ["preset=poise", 'stages=[{kind="internal_value",features=["prompt"]},"uniform"]'],
}


@pytest.mark.parametrize("name", ALONE)
def test_groups_of_one_where_none_is_compared(name: str) -> None:
    check_method(recipe(*ALONE[name], "rollout.samples=1"))


READ = {
    "rewards add up": ["shape_reward", "overlong", "kl_reward", "rloo", "uniform"],
    "changed, not replaced": ["grpo", "adora", "uniform", "pf_ppo", "d3s_rows", "d3s_tokens"],
    "weights multiply": ["importance", "top_entropy", "overlong_filter", "grpo", "uniform", "off_policy_mask"],
    "filters give nothing": ["dynamic_sampling", "grpo", "uniform", "dynamic_sampling", "pods"],
}


@pytest.mark.parametrize("name", READ)
def test_what_is_read_or_changed_is_not_refused(name: str) -> None:
    assert check_method(recipe(f"stages={READ[name]}", "rollout.max_new_tokens=20480")) == []


def test_every_preset_passes() -> None:
    for name in PRESETS:
        assert [x for x in check_method(recipe(f"preset={name}")) if "stages[" in x] == []


class Own(Stage):
    """A stage of the user's own."""

    gives: ClassVar[tuple[str, ...]] = ("advantage_row",)
    kind: Literal["mine:Own"] = "mine:Own"


def test_an_own_stage_that_ignores_or_is_ignored_only_warns() -> None:
    for stages in (["grpo", Own(), "uniform"], [Own(), "grpo", "uniform"]):
        (line,) = check_method(RLRecipe.model_validate({**BASE, "stages": stages}))
        assert line.startswith("warning: stages[0]: ")
    assert check_method(RLRecipe.model_validate({**BASE, "stages": ["overlong", Own(), "uniform"]})) == []


def test_a_group_of_one_is_allowed_where_an_own_stage_makes_the_advantage() -> None:
    of_one = {**BASE, "rollout": {"samples": 1}, "stages": ["grpo", Own(), "uniform"]}
    assert any("there is one: every advantage is 0" in x for x in check_method(RLRecipe.model_validate(of_one)))


def test_filters_are_allowed_with_a_correction_and_lift_the_gap_limit() -> None:
    filtered = recipe("rollout.top_p=0.9", 'stages=["grpo","uniform","importance"]')
    assert check_method(filtered) == []
    assert gap_limit(filtered) is None
    assert gap_limit(recipe()) == GAP_LIMIT
    assert gap_limit(recipe("model.precision=bfloat16")) is None
    assert gap_limit(recipe("rollout.gap_limit=0.5")) == 0.5


def test_phases_need_their_model_and_leave_steps_over() -> None:
    check_phases(recipe("preset=ppo"), 11)
    with pytest.raises(UserError, match="last 10 steps of 10"):
        check_phases(recipe("preset=ppo"), 10)
    with pytest.raises(UserError, match=r"budget\.phases\.0: trains a critic, and there is none"):
        check_phases(recipe('budget.phases=[{steps=1,trains=["critic"]}]'), 100)


def test_length_of_a_run() -> None:
    assert total_steps(recipe("budget.steps=7"), None) == 7
    assert total_steps(recipe("budget.epochs=2", "budget.batch=10"), 25) == 5
    assert total_steps(recipe("budget.batch=10", "rollout.minibatches=4", "rollout.epochs=2"), 25) == 3 * 8
    with pytest.raises(UserError, match=r"budget\.steps: is missing.*never run out"):
        total_steps(recipe("task.kind=chain_sum"), None)


def test_terms_and_the_need_of_a_reference() -> None:
    assert [t.name for t in terms_of(recipe("preset=ppo", "kl.beta=0.1"))] == ["policy", "kl", "value"]
    assert not needs_reference(recipe("preset=dapo"))
    assert needs_reference(recipe("kl.beta=0"))
    assert needs_reference(recipe("preset=rloo"))


def test_each_job_has_stages_of_its_own() -> None:
    made = recipe('stages=[{kind="kl_reward",target=1.0},"rloo","uniform"]')
    first, second = stages_of(made), stages_of(made)
    first[0].load_state_dict({"beta": 0.5})
    assert first[0].state_dict() == {"beta": 0.5}
    assert second[0].state_dict() == {}
    assert made.stages[0].state_dict() == {}
