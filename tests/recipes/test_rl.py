"""The rl recipe: presets lie under a file, shorthands are written out, what follows another key follows it."""

from pathlib import Path
from typing import Any, Literal

import pytest

from steersman.core.component import Component, Stage
from steersman.core.config import Source, dump, read, to_toml, validate
from steersman.core.errors import UserError
from steersman.objective.components_adora import ADORA
from steersman.objective.components_advantage import GRPO, RLOO, UniformCredit
from steersman.objective.components_credit import ContrastiveCredit
from steersman.objective.components_d3s import D3SRows, D3STokens
from steersman.objective.components_filtration import PFPPO
from steersman.objective.components_policy import GSPO, Clipped
from steersman.objective.components_reward import Overlong
from steersman.recipes.presets import COMBINED, PRESETS, SHIPPED, wants_teacher
from steersman.recipes.rl import RLRecipe
from steersman.recipes.rl_checks import check_method
from steersman.reward.verifiable import ReasoningGym

BASE = {"model": {"path": "m"}, "task": {"train": "t.jsonl"}}
MOST_FIELDS = 15


class OwnStage(Stage):
    """A user's stage."""

    kind: Literal["own"] = "own"
    scale: float = 2.0


class OwnLoss(Component):
    """A user's loss, which is no stage."""

    kind: Literal["own_loss"] = "own_loss"


def recipe(*sets: str, **tables: Any) -> RLRecipe:
    return validate(RLRecipe, read(None, sets, {**BASE, **tables}))


@pytest.mark.parametrize("name", [None, *SHIPPED])
def test_every_preset_is_valid_and_survives_toml_and_json(name: str | None, tmp_path: Path) -> None:
    teacher = ["loss.teacher.path=t"] if name is not None and wants_teacher(name) else []
    found = recipe(*([] if name is None else [f"preset={name}"]), *teacher)
    assert check_method(found) == []
    (tmp_path / "r.toml").write_text(to_toml(found))
    assert validate(RLRecipe, read(tmp_path / "r.toml")) == found
    assert RLRecipe.model_validate(dump(found)) == found
    assert "preset" not in dump(found)


def test_no_table_has_too_many_keys() -> None:
    def tables(model: type[Component]) -> None:
        assert len(model.model_fields) <= MOST_FIELDS, model
        for info in model.model_fields.values():
            value = info.default
            if isinstance(value, Component):
                tables(type(value))

    tables(RLRecipe)


def test_presets_say_what_their_papers_say() -> None:
    dapo = recipe("preset=dapo")
    assert [s.kind for s in dapo.stages] == ["dynamic_sampling", "shape_reward", "overlong", "grpo", "uniform"]
    assert (dapo.loss, dapo.aggregate.mode, dapo.kl) == (Clipped(eps_low=0.2, eps_high=0.28), "token_mean", None)
    grpo = recipe("preset=grpo")
    assert grpo.kl is not None
    assert (grpo.kl.beta, grpo.kl.estimator, grpo.loss) == (0.04, "k3", Clipped(eps_low=0.2, eps_high=0.2))
    assert recipe("preset=dr_grpo").stages == (GRPO(scale="none"), UniformCredit())
    gspo = recipe("preset=gspo")
    assert (gspo.loss, gspo.rollout.minibatches) == (GSPO(eps_low=3e-4, eps_high=4e-4), 4)
    ppo = recipe("preset=ppo")
    assert ppo.critic is not None
    assert (ppo.critic.clip, ppo.critic.optim.lr, ppo.optim.lr) == (0.2, 1e-5, 1e-6)
    assert [(p.steps, p.trains) for p in ppo.budget.phases] == [(10, ("critic",))]
    cepo, rlsd = recipe("preset=cepo"), recipe("preset=rlsd")
    assert (
        (cepo.loss, cepo.kl, cepo.aggregate.mode) == (rlsd.loss, None, "token_mean") == (Clipped(), None, "token_mean")
    )
    assert (cepo.optim.lr, rlsd.optim.lr) == (5e-6, 1e-6)
    hint = cepo.stages[1].hint
    assert cepo.stages == (GRPO(), ContrastiveCredit(hint=hint, lam=0.5, decay=25, eps_w=0.5, negative="lowest"))
    told = {"negative": "none", "teacher": "copy", "sync": 10}
    assert rlsd.stages == (GRPO(), ContrastiveCredit(hint=hint, lam=0.5, decay=50, eps_w=0.2, **told))


@pytest.mark.parametrize(
    ("task", "place", "text"),
    [
        ({"kind": "chain_sum"}, "after_prompt", "?{answer}="),
        ({"train": "x.jsonl", "chat": True}, "in_user_turn", None),
        ({"train": "x.jsonl"}, "after_prompt", None),
    ],
)
def test_where_an_answer_is_told_follows_the_task(task: dict[str, Any], place: str, text: str | None) -> None:
    values = {"preset": "cepo", "model": {"path": "x"}, "task": task}
    found = RLRecipe.model_validate(values)
    assert (found.stages[1].hint.place, found.stages[1].hint.text) == (place, text)
    assert RLRecipe.model_validate(dump(found)) == found
    own = {"kind": "contrastive_credit", "hint": {"text": "! {answer}"}}
    assert RLRecipe.model_validate({**values, "stages": ["grpo", own]}).stages[1].hint.text == "! {answer}"


def test_the_combined_recipe_has_each_method_with_its_own_defaults_in_our_order() -> None:
    found = recipe("preset=pf_ppo_adora_d3s")
    assert found.stages == (GRPO(), ADORA(), UniformCredit(), PFPPO(), D3SRows(), D3STokens())
    assert (found.loss, found.kl, found.aggregate.mode) == (Clipped(), None, "token_mean")
    assert not COMBINED.keys() & PRESETS.keys()


def test_the_users_keys_win_and_a_table_of_another_kind_replaces_the_presets() -> None:
    found = recipe("preset=dapo", "loss.eps_high=0.3", "rollout.samples=4")
    assert (found.loss.eps_low, found.loss.eps_high) == (0.2, 0.3)
    assert (found.rollout.samples, found.rollout.minibatches) == (4, 16)
    other = recipe("preset=dapo", "loss.kind=gspo", "aggregate.mode=seq_mean_token_mean")
    assert other.loss == GSPO()
    assert recipe("preset=dapo", 'stages=["rloo","uniform"]').stages == (RLOO(), UniformCredit())


def test_a_stage_may_be_its_bare_name_beside_tables() -> None:
    found = recipe('stages=[{kind="grpo",scale="none"},"uniform"]')
    assert found.stages == (GRPO(scale="none"), UniformCredit())
    direct = RLRecipe.model_validate({**BASE, "stages": ["grpo", UniformCredit()]})
    assert direct.stages == (GRPO(), UniformCredit())


def test_lengths_follow_the_longest_response_unless_set() -> None:
    found = recipe("preset=dapo", "rollout.max_new_tokens=1000")
    assert [(s.limit, s.cache) for s in found.stages if isinstance(s, Overlong)] == [(1000, 200)]
    fixed = recipe('stages=[{kind="overlong",limit=50},"grpo","uniform"]', "rollout.max_new_tokens=60")
    assert fixed.stages[0] == Overlong(limit=50, cache=10)
    assert recipe("preset=dr_grpo", "rollout.max_new_tokens=70").aggregate.constant == 70
    assert recipe("preset=dr_grpo", "aggregate.mode=token_mean").aggregate.constant is None
    chain = recipe("task.kind=chain_sum", "task.k=3", task={"kind": "chain_sum"})
    assert chain.rollout.max_new_tokens == 3 * 3 + 3


def test_what_a_selection_divides_by_follows_the_aggregation_unless_set() -> None:
    stages = 'stages=["grpo","uniform",{kind="d3s_rows",denominator="full"},"d3s_tokens"]'
    given = recipe(stages, 'aggregate.mode="seq_mean_token_mean"').stages
    assert [s.aggregate for s in given[2:]] == ["seq_mean_token_mean"] * 2
    fixed = stages.replace('"full"', '"full",aggregate="token_mean"')
    assert recipe(fixed, 'aggregate.mode="seq_mean_token_mean"').stages[2].aggregate == "token_mean"
    assert recipe(stages).stages[2].aggregate == recipe(stages).aggregate.mode


def test_the_critics_rate_follows_the_policys_unless_set() -> None:
    assert recipe("preset=ppo", "optim.lr=3e-4").critic.optim.lr == 3e-3
    assert recipe("preset=ppo", "critic.optim.lr=1e-4", "optim.lr=3e-4").critic.optim.lr == 1e-4
    assert recipe("preset=ppo", "critic.optim.clip=0.5").critic.optim.lr == 1e-5


def test_tasks_choose_their_grader_unless_told() -> None:
    assert recipe().reward.kind == "verifiable"
    assert isinstance(recipe(task={"kind": "reasoning_gym", "name": "countdown"}).reward.compare, ReasoningGym)
    assert recipe(task={"kind": "chain_sum"}).reward is None
    assert recipe("reward.kind=model", "reward.path=r").reward.kind == "model"


def test_naming_one_key_of_a_table_keeps_the_recipes_other_defaults() -> None:
    assert recipe("optim.clip=0.5").optim.lr == 1e-6
    assert recipe("budget.steps=5").budget.batch == 32


def test_own_stages_and_losses_are_taken_and_a_loss_is_no_stage() -> None:
    found = RLRecipe.model_validate({**BASE, "stages": [OwnStage(), "grpo", "uniform"], "loss": OwnLoss()})
    assert (found.stages[0], found.loss) == (OwnStage(), OwnLoss())
    with pytest.raises(ValueError, match="OwnLoss is no stage"):
        RLRecipe.model_validate({**BASE, "stages": [OwnLoss()]})
    with pytest.raises(UserError, match=r"stages\.0\.kind.*imported only when you say so"):
        recipe('stages=["mine:Stage","uniform"]')


@pytest.mark.parametrize(
    ("sets", "message"),
    [
        (["preset=dappo"], r"(?s)^preset \(--set\): 'dappo' is not known.*Did you mean 'dapo'\?"),
        (["presett=dapo"], r"(?s)^presett \(--set\): unknown key.*Did you mean preset\?"),
        (['stages=["rloo","unifrm"]'], r"(?s)^stages\.1 \(--set\): 'unifrm' is not known.*Did you mean 'uniform'\?"),
        (["preset=dapo", "loss.eps_hih=1"], r"(?s)^loss\.eps_hih .*Did you mean loss\.eps_high\?"),
        (["rollout.samples=0"], r"^rollout\.samples \(--set\): got 0"),
        (["rollout=3"], r"^rollout \(--set\): got 3, a table is wanted"),
        (["task.kind=chain_sum", "task.k=99"], r"^task\.k \(--set\): got 99"),
        (["preset=3"], r"^preset \(--set\): 3 is not known"),
    ],
)
def test_mistakes_are_named_by_their_path(sets: list[str], message: str) -> None:
    tables = {"task": {"kind": "chain_sum"}} if "task.kind=chain_sum" in sets else {}
    with pytest.raises(UserError, match=message):
        recipe(*sets, **tables)


def test_a_preset_does_not_change_the_source_or_itself() -> None:
    source = Source({**BASE, "preset": "ppo"}, {}, "here")
    first, second = validate(RLRecipe, source), validate(RLRecipe, source)
    assert first == second
    assert source.values == {**BASE, "preset": "ppo"}
    assert PRESETS["ppo"]["stages"] == [{"kind": "gae", "gamma": 1.0, "lam": 0.95}]
