"""Small worlds, models and learners for tests of the rl loop: every response earns a reward, whatever the policy."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from toy_stages import Memory

from steersman.core import noise
from steersman.core.component import Form
from steersman.core.types import Rollouts, Scores
from steersman.language.build import SmallModel, build_model
from steersman.language.sampler import Sampling
from steersman.objective.advantage.poise import InternalValue
from steersman.objective.components import Aggregation
from steersman.objective.components_advantage import GAE, GRPO, RLOO, ReinforcePP, UniformCredit
from steersman.objective.components_policy import GSPO, Clipped, ClippedValue, KLLoss
from steersman.objective.components_reward import KLReward, Overlong
from steersman.objective.components_tip import SelectTokens
from steersman.objective.select.groups import DynamicSampling
from steersman.reward.model import head_of
from steersman.reward.verifiable import Graded
from steersman.task.chain_sum import EOS, ChainSum
from steersman.task.worlds import ChainSumWorld
from steersman.train.engine.local import LocalEngine
from steersman.train.engine.work import Drawing
from steersman.train.optimise import AdamW, Optimiser
from steersman.train.rl import Phase, RLLearner, Settings
from steersman.train.terms import Against, kl_term, policy_term, value_term
from steersman.train.terms_distill import distill_term

VOCABULARY = 19
TASK = ChainSum(k=(2, 4))
NEW = 8
# eps well above the noise of float32 gradients: AdamW divides by |gradient|, so rounding would decide about signs.
ADAMW = AdamW(lr=2e-3, eps=1e-4, schedule="cosine", warmup=0.3, weight_decay=0.1)


class ToyWorld(ChainSumWorld):
    """Reward = share of response tokens below 10; correct above one half; a row may be called invalid."""

    def __init__(self, invalid: Callable[[Rollouts], Tensor] | None = None, held_out: int = 6) -> None:
        super().__init__(TASK, held_out)
        self.invalid = invalid

    def grade(self, rollouts: Rollouts, rows: Sequence[Any]) -> Graded:
        value = ((rollouts.ids < 10) & rollouts.action).sum(1) / rollouts.action.sum(1).clamp(min=1)
        valid = rollouts.valid if self.invalid is None else rollouts.valid & ~self.invalid(rollouts)
        errors = {int(i): "asked for by the test" for i in (~valid).nonzero()[:, 0]}
        value = value.where(valid, torch.nan)
        return Graded(Scores(value, valid, {"correct": value > 0.5}, errors), (None,) * len(rollouts))


def policy(seed: int = 0) -> Any:
    model = build_model(SmallModel(width=32, layers=1, heads=2, mlp=64, context=24), VOCABULARY, seed=seed)
    noise.normal_([(k, p) for k, p in model.named_parameters() if p.ndim > 1], 0.25, seed, "toy")
    return model.eval()


def critic() -> nn.Module:
    from transformers import AutoModelForSequenceClassification

    config = policy().config
    config.num_labels = 1
    with torch.random.fork_rng(devices=[]):
        model = AutoModelForSequenceClassification.from_config(config).eval()
    noise.normal_([(k, p) for k, p in model.named_parameters() if p.ndim > 1], 0.25, 0, "critic")
    noise.normal_([("head", head_of(model).weight)], 0.1, 0, "critic-head")
    return model


def drawing(temperature: float = 0.8, samples: int = 3) -> Drawing:
    return Drawing(samples, NEW, (EOS,), Sampling(temperature=temperature))


def told_the_sum(rollouts: Rollouts, rows: Sequence[Any]) -> list[list[int] | None]:
    """Each prompt with the sum of its digits behind it, between marks; nothing for every fifth row."""
    asked = [ids[: n - 1] for ids, n in zip(rollouts.ids.tolist(), rollouts.prompt_length.tolist(), strict=True)]
    return [None if sum(x) % 5 == 0 else [*x, 14, 16, sum(x) % 10, 14] for x in asked]


CREDIT = [GRPO(), UniformCredit()]
PROBED = [InternalValue(features=("prompt", "reasoning"), pool=3, min_examples=6), UniformCredit()]
"""Asks for nothing but means of hidden states, so that the sampler gives them."""
METHODS: dict[str, dict[str, Any]] = {
    "grpo": {"stages": CREDIT, "loss": Clipped()},
    "grpo twice in halves": {"stages": CREDIT, "loss": Clipped(), "minibatches": 2, "epochs": 2},
    "dapo": {
        "stages": [DynamicSampling(rounds=3), Overlong(limit=NEW, cache=4), *CREDIT],
        "loss": Clipped(),
        "epochs": 2,
    },
    "gspo": {"stages": CREDIT, "loss": GSPO(), "mode": "seq_mean_token_mean", "epochs": 2},
    "rloo with kl": {"stages": [RLOO(), UniformCredit()], "loss": Clipped(), "kl": KLLoss()},
    "reinforce_pp": {"stages": [KLReward(target=0.1, horizon=50.0), ReinforcePP()], "loss": Clipped()},
    "poise": {"stages": PROBED, "loss": Clipped(), "epochs": 2},
    "remembers": {"stages": [Memory(), UniformCredit()], "loss": Clipped(), "epochs": 2},
    "ppo": {
        "stages": [GAE()],
        "loss": Clipped(eps_high=0.2),
        "critic": True,
        "phases": (Phase(1, frozenset({"critic"})),),
        "minibatches": 2,
        "epochs": 2,
    },
    "distil": {"stages": [], "against": Against(form=Form("jsd", 0.3)), "teacher": 2, "minibatches": 2, "epochs": 2},
    "tip": {"stages": [SelectTokens(keep=0.4)], "against": Against(), "teacher": 2, "epochs": 2},
    "self-distil": {
        "stages": CREDIT,
        "loss": Clipped(),
        "against": Against(before=told_the_sum, form=Form(top_k=5), optional=True),
        "teacher_rate": 0.5,
        "minibatches": 2,
        "epochs": 2,
    },
}


def learner(method: str | dict[str, Any], **changes: Any) -> RLLearner:
    """A learner of one of `METHODS`; `changes`: micro (tokens), total, run, world, stages, drawing, ..."""
    how = {"mode": "token_mean", **(METHODS[method] if isinstance(method, str) else method)}
    total = changes.pop("total", 6)
    model, value = policy(), critic() if how.get("critic") else None
    engine = LocalEngine(
        model,
        Optimiser(model.named_parameters(), ADAMW, total),
        reference=policy(1),
        critic=value,
        critic_optimiser=Optimiser(value.named_parameters(), ADAMW, total) if value is not None else None,
        micro_tokens=changes.pop("micro", 4096),
        teacher=policy(how.get("teacher", 0)) if "against" in how else None,
        teacher_rate=how.get("teacher_rate", 0.0),
    )
    terms = [policy_term(how["loss"], Aggregation(mode=how["mode"]))] if "loss" in how else []
    terms += [distill_term(how["against"], Aggregation(mode=how["mode"]), 0.5)] if "against" in how else []
    terms += [kl_term(how["kl"], Aggregation(mode=how["mode"]))] if "kl" in how else []
    terms += [value_term(ClippedValue(), 0.5)] if value is not None else []
    known = {k: how[k] for k in ("minibatches", "epochs", "phases") if k in how}
    known |= {k: changes.pop(k) for k in ("old", "gap_limit", "auxiliary", "evaluation") if k in changes}
    settings = Settings(4, changes.pop("drawing", drawing()), **known, show_every=1)
    world, stages = changes.pop("world", None) or ToyWorld(), changes.pop("stages", None) or how["stages"]
    fresh = [s.model_copy(deep=True) for s in stages]  # stateful stages are not shared between learners
    return RLLearner(engine, world, fresh, terms, settings, 7, total, **changes)


def replay(engine: LocalEngine, recorded: dict[tuple[int, int], Rollouts], change: Callable[[Rollouts], Rollouts]):
    """Make an engine draw what another one drew, changed in a way that must not matter."""
    engine.sample = lambda prompts, drawing, at, seed: change(recorded[at.step, at.round])  # type: ignore[method-assign]


def record(engine: LocalEngine) -> dict[tuple[int, int], Rollouts]:
    """What an engine draws from now on, by step and round."""
    found: dict[tuple[int, int], Rollouts] = {}
    plain = engine.sample

    def sample(prompts: Any, drawing: Any, at: Any, seed: int) -> Rollouts:
        found[at.step, at.round] = plain(prompts, drawing, at, seed)
        return found[at.step, at.round]

    engine.sample = sample  # type: ignore[method-assign]
    return found


def widened(rollouts: Rollouts) -> Rollouts:
    """Seven empty columns more, all padding filled with another token."""
    wide = rollouts.widen(rollouts.ids.shape[1] + 7)
    padding = torch.arange(wide.ids.shape[1]) >= wide.length[:, None]
    return replace(wide, ids=torch.where(padding, 3, wide.ids))


def shuffled(rollouts: Rollouts) -> Rollouts:
    """The rows in another order."""
    return rollouts.index(noise.permutation(len(rollouts), 5, "shuffled"))


def parameters(made: RLLearner) -> Tensor:
    """Everything that moves, as one vector."""
    models = [made.engine.policy, *([made.engine.critic] if made.engine.critic is not None else [])]
    return torch.cat([p.detach().flatten() for m in models for p in m.parameters()])
