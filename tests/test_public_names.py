"""Names that other code imports: they exist, and their arguments are called what users were told."""

import inspect

import pytest

from steersman import stats
from steersman.language.head import token_logp
from steersman.objective.loss import preference
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
