"""Names that other code imports: they exist, and their arguments are called what users were told."""

import inspect
from importlib import import_module

import pytest
import torch

from steersman import stats
from steersman.core.errors import UserError
from steersman.language.head import token_logp
from steersman.objective import divergence
from steersman.objective.advantage import gae, group
from steersman.objective.loss import policy, preference
from steersman.objective.reduce import aggregate

PREFERENCE = {
    "dpo": "h beta label",
    "cdpo": "h beta flip_rate label",
    "rdpo": "h beta flip_rate label",
    "ipo": "h tau",
    "ripo": "h tau flip_rate",
    "slic": "h beta",
    "rslic": "h beta flip_rate",
    "probit": "h beta flip_rate",
    "forward_corrected_dpo": "h beta flip_rate",
    "kto": "log_ratio desirable beta reference_kl weight_desirable weight_undesirable",
    "bradley_terry": "difference margin label",
    "reward_centering": "reward_first reward_second",
}
STATS = {
    "paired_bootstrap": "a b",
    "wilson": "successes n level",
    "holm": "p_values",
    "permutation_test": "a b",
    "iqm": "x",
    "fit_power_law": "x y",
    "smallest_p": "n_pairs n_claims",
    "pass_at_k": "n c k",
}
POLICY = {
    "reinforce": "logp advantage",
    "clipped": "logp logp_old advantage eps_low=0.2 eps_high=0.28 dual=None",
    "gspo": "logp logp_old advantage mask eps_low eps_high",
    "cispo": "logp logp_old advantage cap",
    "sapo": "logp logp_old advantage tau_pos=1.0 tau_neg=1.05",
}
ADVANTAGE = {
    group.grpo: "score group scale='group' eps=1e-06 valid=None",
    group.rloo: "score group valid=None",
    gae.gae: "reward value mask gamma lam",
    divergence.kl_penalty: "logp logp_ref logp_old=None estimator='k3' gradient='reverse'",
    divergence.divergence: "student_logits teacher_logits kind='reverse_kl' beta=0.5",
    divergence.entropy: "logits normalize=False",
}


def leading(function: object, count: int) -> list[str]:
    return list(inspect.signature(function).parameters)[:count]  # type: ignore[arg-type]


@pytest.mark.parametrize("name", PREFERENCE)
def test_preference_losses(name: str) -> None:
    names = PREFERENCE[name].split()
    assert leading(getattr(preference, name), len(names)) == names


@pytest.mark.parametrize("name", STATS)
def test_statistics(name: str) -> None:
    names = STATS[name].split()
    assert leading(getattr(stats, name), len(names)) == names


def test_aggregate_and_head() -> None:
    assert leading(aggregate, 6) == ["loss", "mask", "mode", "denominator", "group", "constant"]
    wanted = ["hidden", "weight", "targets", "temperature", "bias", "scale", "softcap", "chunk_bytes"]
    assert leading(token_logp, 8) == wanted
    assert inspect.signature(aggregate).parameters["mode"].default == "token_mean"


def with_defaults(function: object, wanted: str) -> str:
    """The leading parameters, with the defaults that `wanted` names."""
    given = inspect.signature(function).parameters.values()  # type: ignore[arg-type]
    asked = [w.partition("=") for w in wanted.split()]
    shown = [f"{p.name}={p.default!r}" if sign else p.name for p, (_, sign, _) in zip(given, asked, strict=False)]
    return " ".join(shown)


@pytest.mark.parametrize("name", POLICY)
def test_policy_losses(name: str) -> None:
    assert with_defaults(getattr(policy, name), POLICY[name]) == POLICY[name]


@pytest.mark.parametrize("function", ADVANTAGE, ids=lambda f: f.__name__)
def test_advantages_and_divergence(function: object) -> None:
    assert with_defaults(function, ADVANTAGE[function]) == ADVANTAGE[function]


@pytest.mark.parametrize("name", POLICY)
def test_an_advantage_a_row_is_refused(name: str) -> None:
    tokens = torch.zeros(2, 3)
    given = {"mask": torch.ones(2, 3, dtype=torch.bool), "eps_low": 0.2, "eps_high": 0.2, "cap": 5.0}
    wanted = inspect.signature(getattr(policy, name)).parameters
    rest = {k: v for k, v in given.items() if k in wanted}
    old = {"logp_old": tokens} if "logp_old" in wanted else {}
    with pytest.raises(UserError):
        getattr(policy, name)(logp=tokens, advantage=torch.zeros(2), **old, **rest)


METHODS = {
    "objective.credit.cepo.evidence": "advantage logp_pos logp_other mask lam eps_w",
    "objective.advantage.poise.cross_rollout": "score prediction group",
    "objective.advantage.poise.leave_one_out_target": "score group",
    "objective.advantage.adora.adora_weights": "correct length group truncated criterion mode tau weight preset "
    "no_valid_failure normalize",
    "objective.select.d3s.max_variance": "advantage n group scope balance noise",
    "objective.select.d3s.top_tokens": "score mask fraction noise",
    "objective.select.filtration.rank_weights": "reward group strategy threshold noise zero_variance",
    "objective.select.tokens.scores": "entropy divergence divergence_forward rule entropy_clip_quantile",
    "objective.select.tokens.select": "score mask keep mode scope noise",
    "objective.select.tokens.quadrants": "entropy divergence",
    "objective.select.tokens.sampling_weights": "entropy jsd alpha gamma vocabulary",
    "reward.reliability.r_squared": "reward score bins",
    "reward.reliability.null_r_squared": "rho2 strategy n reward group",
}
DEFAULTS = {
    "evidence": {"lam": 0.5, "eps_w": 0.5},
    "adora_weights": {"criterion": "both", "mode": "amplify", "tau": 0.5, "no_valid_failure": "advantage"},
    "max_variance": {"scope": "batch", "balance": False, "noise": None},
    "scores": {"divergence_forward": None, "rule": "soft_or", "entropy_clip_quantile": 0.98},
    "select": {"mode": "top", "scope": "batch", "noise": None},
    "sampling_weights": {"jsd": None, "alpha": 1.0, "gamma": 0.0, "vocabulary": None},
    "rank_weights": {"threshold": None, "noise": None, "zero_variance": "drop"},
}


@pytest.mark.parametrize("name", METHODS)
def test_methods_that_select_and_reweigh(name: str) -> None:
    module, _, attribute = name.rpartition(".")
    function = getattr(import_module(f"steersman.{module}"), attribute)
    names = METHODS[name].split()
    assert leading(function, len(names)) == names
    known = inspect.signature(function).parameters
    assert {k: known[k].default for k in DEFAULTS.get(attribute, {})} == DEFAULTS.get(attribute, {})


def test_the_probe_of_internal_values() -> None:
    from steersman.objective.advantage.poise import InternalValue

    probe = InternalValue(
        layer=None, pool=10, features=("prompt", "reasoning", "entropy"), alpha="auto", buffer_steps=4, clip=(0, 1)
    )
    assert probe == InternalValue()
    with pytest.raises(UserError, match="before its first fit"):
        probe.predict(torch.zeros(2, 5))
    probe.update(torch.eye(5), torch.tensor([0.0, 1.0, 1.0, 0.0, 1.0]))
    assert probe.predict(torch.zeros(2, 5)).shape == (2,)


def test_the_best_arm_under_a_promise_of_privacy() -> None:
    from steersman.decide import dp_bai, privacy

    assert leading(dp_bai.schedule, 2) == ["n_arms", "dim"]
    assert leading(dp_bai.max_det, 1) == ["features"]
    assert leading(dp_bai.exact_two_arm, 6) == ["p1", "p2", "pulls", "epsilon", "noise", "tie"]
    assert inspect.signature(dp_bai.exact_two_arm).parameters["noise"].default == "laplace"
    assert inspect.signature(dp_bai.exact_two_arm).parameters["tie"].default == "first"
    assert leading(dp_bai.DPBAI, 2) == ["epsilon", "budget"]
    run = dp_bai.DPBAI(epsilon=0.5, budget=20).start([[1.0, 0.0], [0.0, 1.0]])
    while batch := run.ask():
        run.tell([1.0] * len(batch.arms))
    assert run.result().arm in (0, 1)
    assert isinstance(run.result().certificate, privacy.PrivacyCertificate)
    assert callable(dp_bai.simulate)
    assert callable(privacy.audit)
    assert privacy.DiscreteLaplace(grid=1).grid == 1


CONJOINT = {
    "optimize_policy": "model design penalty lam opponent",
    "solve_game": "models shares institution design penalty lam",
    "average_case": "models shares design penalty lam",
    "general_models": "data parties interactions",
    "pooled_models": "data parties interactions strength pooling",
    "gibbs": "model design lam opponent",
    "check_forbidden": "data forbidden",
    "Primary": "strength models",
    "RatingLinear": "interactions vcov",
    "PairLogit": "interactions vcov",
    "ConjointData.from_frame": "frame outcome factors pair cluster",
    "FactoredPolicy": "factors x",
}


@pytest.mark.parametrize("name", CONJOINT)
def test_conjoint(name: str) -> None:
    found = import_module("steersman.decide.conjoint")
    for part in name.split("."):
        found = getattr(found, part)
    assert list(inspect.signature(found).parameters)[: len(CONJOINT[name].split())] == CONJOINT[name].split()


def test_conjoint_result_fields() -> None:
    found = import_module("steersman.decide.conjoint").PolicyResult
    assert {"policy", "value", "se", "status"} <= set(inspect.signature(found).parameters)


MEASURE = {
    "trajectory_quality": "dataset low high discount=1.0",
    "coverage": "dataset ref encoder=None counter='exact'",
    "Discretizer.fit": "ref_obs bins=100",
    "unique_pairs": "obs action encoder=None",
}


@pytest.mark.parametrize("name", MEASURE)
def test_measures_of_a_log(name: str) -> None:
    found = import_module("steersman.offline.measure")
    for part in name.split("."):
        found = getattr(found, part)
    assert with_defaults(found, MEASURE[name]) == MEASURE[name]


@pytest.mark.parametrize("name", ["ExactCounter", "HyperLogLogCounter"])
def test_counters_update_merge_and_count(name: str) -> None:
    kind = getattr(import_module("steersman.offline.measure"), name)
    counter, other = kind(), kind()
    counter.update(torch.tensor([[0, 1], [0, 1], [1, 0]]))
    other.update(torch.tensor([[2, 2], [1, 0]]))
    counter.merge(other)
    assert counter.count() == 3


def test_which_invariance_to_transfer() -> None:
    from steersman.decide import invariance

    assert leading(invariance.MutableSCM, 3) == ["edges", "target", "mutable"]
    graph = invariance.MutableSCM(edges=[("Y", "M"), ("M", "X1"), ("Y", "X1")], target="Y", mutable=["M"])
    assert not graph.whole_set_optimal()
    assert leading(invariance.stable_classes, 1) == ["graph"]
    assert invariance.stable_classes(graph) == [
        invariance.Interval(core=frozenset(), free=frozenset()),
        invariance.Interval(core=frozenset({"X1"}), free=frozenset()),
    ]
    assert callable(invariance.WorstCaseRisk)
    options = {"regressor": "mlp", "adversary": "direct", "mutable_range": "observed", "folds": 5}
    rows = {v: [float(i * k % 7 % 2) for i in range(80)] for k, v in ((3, "Y"), (5, "M"), (2, "X1"))}
    fitted = invariance.CausalMinimax(graph, **{**options, "regressor": "linear", "folds": 2})
    assert leading(invariance.CausalMinimax.fit, 3) == ["self", "frame", "env"]
    assert {k: inspect.signature(invariance.CausalMinimax).parameters[k].default for k in options} == {
        **options, "adversary": "auto",
    }  # fmt: skip
    fitted.fit(rows | {"E": ["a", "b"] * 40}, env="E")
    assert fitted.best_ in fitted.ranking_
    assert fitted.best_.core <= {"X1"}
    assert len(fitted.predict(rows)) == 80
    assert set(fitted.worst_case_.policy) == {"M"}


INVENTORY = {
    "replay": "network inventory orders demand",
    "evaluate": "network act scenarios ignore=0",
    "InventoryNetwork.single_store": "lead_time holding shortage lost_sales objective='cost'",
    "oracle.backlog_base_stock": "mean std lead_time holding shortage",
    "oracle.lost_sales_dp": "mean lead_time holding shortage",
    "oracle.serial_clark_scarf": "mean std lead_times holding shortage",
    "oracle.transshipment_bound": "mean std corr store_lead warehouse_lead holding shortage",
    "oracle.just_in_time": "network demand",
}


@pytest.mark.parametrize("name", INVENTORY)
def test_inventory(name: str) -> None:
    found = import_module("steersman.control.inventory")
    for part in name.split("."):
        found = getattr(found, part)
    assert with_defaults(found, INVENTORY[name]) == INVENTORY[name]


def test_inventory_results_and_policies() -> None:
    found = import_module("steersman.control.inventory")
    network = found.InventoryNetwork.single_store(1, 1.0, 9.0, lost_sales=False)
    cost, final = found.replay(network, [3.0], [2.0], [5.0])
    assert (cost.tolist(), final.tolist()) == ([18.0], [0.0])
    level, cost = found.oracle.backlog_base_stock(5.0, 1.6, 4, 1.0, 9.0)
    assert (round(level, 3), round(cost, 4)) == (29.585, 6.2788)
    for name in ("BaseStock", "CappedBaseStock", "EchelonStock", "VanillaMLP", "GraphPolicy", "SymmetryAware",
                 "QuantileNewsvendor", "HDPO", "Scenarios"):  # fmt: skip
        assert inspect.isclass(getattr(found, name))
