"""Published methods as data: tables that lie under what a user's file says.

A preset holds what its source prescribes (advantage, bounds, KL, averaging, updates of a batch). What a source chose
for its hardware (prompts of a batch, lengths, steps) is the recipe's own default, and every number here that is ours
says so. Keys of the user win; a table of another kind replaces the preset's.
Leaves out: validation and what follows from other keys (`recipes.rl`), explanations (docs/rl.md).
"""

import copy
from collections.abc import Iterable
from difflib import get_close_matches
from typing import Any

from steersman.core.config import Source, merge
from steersman.core.errors import UserError

PPO_CLIP = {"kind": "clipped", "eps_low": 0.2, "eps_high": 0.2}
PER_ROW = {"mode": "seq_mean_token_mean"}
PER_TOKEN = {"mode": "token_mean"}
_RLSD = {"negative": "none", "decay": 50, "eps_w": 0.2, "teacher": "copy", "sync": 10}
RATE = {"lr": 1e-6}
"""Of GRPO, Dr. GRPO, RLOO, DAPO, and ours where a source names none; models below 1e8 parameters want 1e-5 to 1e-3."""

PRESETS: dict[str, dict[str, Any]] = {
    # arXiv 2402.03300: k3 in the loss as printed, so that its gradient is the forward KL's; one update of a batch.
    # The clip is PPO's, the paper names none. The paper has 64 samples, 1,024 tokens; ours 8 and 256.
    "grpo": {
        "stages": ["grpo", "uniform"],
        "loss": PPO_CLIP,
        "aggregate": PER_ROW,
        "kl": {"beta": 0.04, "estimator": "k3", "gradient": "as_written"},
        "optim": RATE,
    },
    # arXiv 2503.20783: no deviation of the group, a constant denominator (the longest response), no KL.
    "dr_grpo": {
        "stages": [{"kind": "grpo", "scale": "none"}, "uniform"],
        "loss": PPO_CLIP,
        "aggregate": {"mode": "seq_sum_const"},
        "optim": RATE,
    },
    # arXiv 2402.14740: the response is one action, so its log-prob is a sum; KL k1 in the reward. beta is that of TRL.
    "rloo": {
        "stages": [{"kind": "kl_reward", "beta": 0.05}, "rloo", "uniform"],
        "loss": {"kind": "reinforce"},
        "aggregate": {"mode": "seq_mean_token_sum"},
        "optim": RATE,
    },
    # arXiv 2501.03262: KL k1 in the reward, returns whitened over the batch. beta, rate and the eight updates of a
    # batch are those of the authors' script in OpenRLHF.
    "reinforce_pp": {
        "stages": [{"kind": "kl_reward", "beta": 1e-4}, "reinforce_pp"],
        "loss": PPO_CLIP,
        "aggregate": PER_TOKEN,
        "rollout": {"minibatches": 8},
        "optim": {"lr": 5e-7},
    },
    # The same paper: centred in the group, whitened over the batch, KL k2 in the loss. beta, rate and the one update of
    # a batch are those of the authors' script.
    "reinforce_pp_baseline": {
        "stages": ["reinforce_pp_baseline"],
        "loss": PPO_CLIP,
        "aggregate": PER_TOKEN,
        "kl": {"beta": 1e-5, "estimator": "k2", "gradient": "reverse"},
        "optim": {"lr": 5e-7},
    },
    # arXiv 2503.14476: scores of 0 and 1 become -1 and 1 as there; the fine for length follows max_new_tokens. Ten
    # rounds of sampling are ours (verl's example has ten too); the paper warms up over 20 steps.
    "dapo": {
        "stages": [
            {"kind": "dynamic_sampling", "rounds": 10},
            {"kind": "shape_reward", "mean": 0.5, "std": 0.5},
            "overlong",
            "grpo",
            "uniform",
        ],
        "loss": {"kind": "clipped", "eps_low": 0.2, "eps_high": 0.28},
        "aggregate": PER_TOKEN,
        "rollout": {"samples": 16, "minibatches": 16},
        "optim": RATE,
    },
    # arXiv 2507.18071: the ratio of the whole response; four updates of a batch.
    "gspo": {
        "stages": ["grpo", "uniform"],
        "loss": {"kind": "gspo", "eps_low": 3e-4, "eps_high": 4e-4},
        "aggregate": PER_ROW,
        "rollout": {"minibatches": 4},
        "optim": RATE,
    },
    # arXiv 2506.13585: the weight is cut, no gradient is dropped; 16 updates of a batch. The paper does not print its
    # bound; 5 on the ratio itself is ScaleRL's (arXiv 2510.13786).
    "cispo": {
        "stages": ["grpo", "uniform"],
        "loss": {"kind": "cispo", "cap": 5.0},
        "aggregate": PER_TOKEN,
        "rollout": {"minibatches": 16},
        "optim": RATE,
    },
    # arXiv 2511.20347: a smooth gate, sharper for negative advantages; four updates of a batch.
    "sapo": {
        "stages": ["grpo", "uniform"],
        "loss": {"kind": "sapo", "tau_pos": 1.0, "tau_neg": 1.05},
        "aggregate": PER_ROW,
        "rollout": {"minibatches": 4},
        "optim": RATE,
    },
    # arXiv 1707.06347 and 1506.02438. For checkable rewards: lambda 0.95, no KL, a critic that is trained alone first.
    # Four minibatches, ten steps of warm-up and a critic's rate of ten times the policy's are ours.
    "ppo": {
        "stages": [{"kind": "gae", "gamma": 1.0, "lam": 0.95}],
        "loss": PPO_CLIP,
        "aggregate": PER_TOKEN,
        "critic": {"clip": 0.2},
        "rollout": {"minibatches": 4},
        "optim": RATE,
        "budget": {"phases": [{"steps": 10, "trains": ["critic"]}]},
    },
    # arXiv 2605.07579: two responses of many prompts, a baseline from hidden states, no filter, no KL. The loss is
    # equation 14 with the clip of table 4; updates of 16 prompts are the paper's, and so are more prompts than usual,
    # 512 there and 128 here. The probe's penalty is chosen by leave-one-out error; 0.01 there is hardly any.
    "poise": {
        "stages": ["internal_value", "uniform"],
        "loss": {"kind": "clipped", "eps_low": 0.2, "eps_high": 0.28},
        "aggregate": PER_ROW,
        "rollout": {"samples": 2, "minibatches": 8},
        "optim": RATE,
        "budget": {"batch": 128},
    },
    # arXiv 2605.19436: a token's advantage by how much the right answer, against a wrong one of its group, speaks for
    # it; half of the advantage at first and none after 25 steps. The rate is that of the authors' script, five times
    # the one of the GRPO beside it: compare at equal rates. Where the answer is told follows the task.
    "cepo": {
        "stages": ["grpo", {"kind": "contrastive_credit"}],
        "loss": {"kind": "clipped", "eps_low": 0.2, "eps_high": 0.28},
        "aggregate": PER_TOKEN,
        "optim": {"lr": 5e-6},
    },
    # arXiv 2604.03128 as CEPO's authors run it: a copy of the policy, taken every ten steps and told the right answer,
    # against the policy that is told nothing.
    "rlsd": {
        "stages": ["grpo", {"kind": "contrastive_credit", **_RLSD}],
        "loss": {"kind": "clipped", "eps_low": 0.2, "eps_high": 0.28},
        "aggregate": PER_TOKEN,
        "optim": RATE,
    },
}
"""Name -> tables of `recipes.rl.RLRecipe`."""

COMBINED: dict[str, dict[str, Any]] = {
    # arXiv 2409.06957, 2602.10019 and 2509.22115 together, each with its own defaults; the order is ours. What needs
    # whole groups comes first (advantage, ADORA's criteria), then PF-PPO drops responses by rank, then D3S chooses
    # rows and tokens among what is left. No paper names a rate for this; ours is that of most presets.
    "pf_ppo_adora_d3s": {
        "stages": ["grpo", "adora", "uniform", "pf_ppo", "d3s_rows", "d3s_tokens"],
        "loss": {"kind": "clipped", "eps_low": 0.2, "eps_high": 0.28},
        "aggregate": PER_TOKEN,
        "optim": RATE,
    },
}
"""Recipes of ours that put published methods together, in the same form."""
_OPD: dict[str, Any] = {
    "stages": [],
    "loss": {"kind": "distill", "divergence": "reverse_kl"},
    "aggregate": PER_TOKEN,
    "rollout": {"samples": 1},
    "optim": RATE | {"schedule": "cosine", "weight_decay": 0.1},
}
DISTILLED: dict[str, dict[str, Any]] = {
    # On-policy distillation as TIP's paper has it: reverse KL over the whole vocabulary, a mean over tokens, AdamW with
    # a cosine. One response of each prompt is the default of its authors' repository; the paper has 16. The teacher
    # is for the user to name.
    "opd": _OPD,
    # arXiv 2604.14084: the half of the tokens where the policy is uncertain or the teacher disagrees.
    "tip": _OPD | {"stages": [{"kind": "select_tokens", "rule": "soft_or", "keep": 0.5}]},
    # arXiv 2601.18734: the policy as it was at first, told the answer; Jensen-Shannon over the whole vocabulary,
    # temperature 1.1 in sampling and in the divergence. The authors train adapters at 2e-4; the rate is ours.
    "opsd": {
        "stages": [],
        "loss": {"kind": "distill", "divergence": "jsd", "beta": 0.5, "teacher": {"kind": "self", "tell": "answer"}},
        "aggregate": PER_TOKEN,
        "rollout": {"samples": 1, "temperature": 1.1},
        "optim": RATE,
    },
    # arXiv 2601.20802: a moving average of the policy, told another response of the group that was right;
    # Jensen-Shannon over the policy's 100 likeliest tokens and the others as one, weights of at most 2. Thinking is
    # told too unless loss.teacher.behind says where it ends. Its two further settings are for the user to choose, since
    # the first needs a grader with words: loss.teacher.feedback, and loss.teacher.version = "mixture".
    "sdpo": {
        "stages": [],
        "loss": {
            "kind": "distill",
            "divergence": "jsd",
            "beta": 0.5,
            "top_k": 100,
            "ratio_cap": 2.0,
            "teacher": {"kind": "self", "version": "average", "rate": 0.05, "tell": "sibling"},
        },
        "aggregate": PER_TOKEN,
        "optim": {"lr": 1e-5},
    },
}
"""Recipes with the loss `distill`, of `recipes.distill.DistillRecipe` as well."""
SHIPPED = PRESETS | COMBINED | DISTILLED
"""Every name that ``preset`` may have."""


def wants_teacher(name: str) -> bool:
    """Whether a preset leaves its teacher for the user to name."""
    return name in DISTILLED and "teacher" not in DISTILLED[name]["loss"]


def lay_under(source: Source, keys: Iterable[str]) -> dict[str, Any]:
    """The values of a source over those of the preset that it names; the key ``preset`` is then gone.

    Args:
        source: of a recipe; it is not changed.
        keys: that a recipe has, by which a misspelt ``preset`` is told from another key.

    Raises:
        UserError: no such preset; a key that looks like ``preset``.
    """
    values = copy.deepcopy(dict(source.values))
    for key in values.keys() - {*keys, "preset"}:
        if get_close_matches(key, ["preset", *keys], n=1)[:1] == ["preset"]:
            raise UserError("unknown key", where=f"{key} ({source.place(key)})", cure="Did you mean preset?")
    if "preset" not in values:
        return values
    name = values.pop("preset")
    if name not in SHIPPED:
        near = get_close_matches(str(name), SHIPPED, n=1)
        cure = f"Did you mean {near[0]!r}?" if near else ""
        where = f"preset ({source.place('preset')})"
        raise UserError(f"{name!r} is not known", where=where, allowed=", ".join(SHIPPED), cure=cure)
    found = copy.deepcopy(SHIPPED[name])
    merge(found, values)
    return found
