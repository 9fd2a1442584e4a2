"""POISE: a baseline read from the policy's own hidden states, from the *other* rollouts of the prompt.

A ridge regression, refitted after every batch, predicts what a prompt is worth from hidden states and entropies of one
rollout of it; the baseline of a rollout comes from its siblings' features, so that it is independent of that rollout
given the prompt and the policy gradient stays unbiased. With features of the prompt alone one rollout is enough.
Leaves out: the forward that gives the states (planned passes), formulas of pairing (`pairing`) and fitting (`probe`).
Source: "Your Language Model is Its Own Critic", arXiv 2605.07579. No official code is published. Ours: the penalty by
the error on prompts left out in place of 0.01 (with fewer examples than features that is almost interpolation), what
happens before the first fit, more than two rollouts, the blend, and features of invalid rows, which are never scored.
"""

from collections.abc import Mapping
from typing import Annotated, Any, Literal

import torch
from pydantic import BeforeValidator, Field, PrivateAttr, model_validator
from torch import Tensor

from steersman.core.component import START, Moment, Pass, Stage
from steersman.core.errors import UserError
from steersman.core.types import Rollouts
from steersman.objective.advantage import internal
from steersman.objective.advantage.pairing import (
    Siblings,
    cross_rollout,
    leave_one_out_target,
    other_groups,
    others,
)
from steersman.objective.advantage.probe import Examples, Fit, added, check_features, explained, fit, restored
from steersman.objective.components import Positive
from steersman.objective.components_reward import Finite, Metrics, row_scores, share

__all__ = ["InternalValue", "cross_rollout", "leave_one_out_target"]

DEPTH = 0.53
"""Share of the depth whose hidden states are read: 19 of 36 layers, as in the paper."""
Feature = Literal["prompt", "reasoning", "entropy"]
Clip = tuple[Finite, Finite] | Literal["observed", "off"]


class InternalValue(Stage):
    """Advantages against the value that a probe of the policy's hidden states gives a prompt (arXiv 2605.07579).

    A_i = S_i - b_i with b_i the mean of f(phi_j) over the other rollouts j of the prompt; f is a ridge regression of
    leave-one-out rewards on features of single rollouts, fitted to earlier batches only. A group of equal rewards has
    advantages that are not 0; do not filter such prompts before this stage, and no row by the outcome of another.

    Baselines in other cases: before `min_examples` the mean score of the batch's other prompts; where the probe
    explained nothing of the last batch (R^2 <= 0, before it learnt from it) the mean target in memory; likewise in rows
    whose siblings are not valid. The metrics ``cold``, ``fallback`` and ``alone`` say so.
    """

    gives = ("advantage_row",)
    kind: Literal["internal_value"] = "internal_value"
    layer: int | None = Field(None, ge=0, description="whose hidden states; 0 = embeddings; absent = at 53 % of depth")
    pool: int = Field(10, ge=1, description="last tokens of a segment over which hidden states are averaged")
    features: tuple[Feature, ...] = Field(
        ("prompt", "reasoning", "entropy"), min_length=1, description="prompt alone needs one rollout of a prompt"
    )
    entropy: Literal["moments", "segments"] = Field(
        "moments", description="mean, deviation and maximum of the response; or means of prompt, reasoning and answer"
    )
    reasoning_end: tuple[int, ...] = Field((), description="token ids that end the reasoning; empty = no answer part")
    alpha: Positive | Literal["auto"] = Field("auto", description="ridge penalty; auto = by prompts left out")
    pca: tuple[Annotated[int, Field(ge=1)], Annotated[int, Field(ge=1)]] | None = Field(
        None, description="most principal directions of prompt and reasoning states; absent = the states themselves"
    )
    buffer_steps: int = Field(4, ge=1, description="batches whose examples the probe is fitted to")
    min_examples: int = Field(64, ge=1, description="fewer than these and the probe is not used")
    clip: Annotated[Clip, BeforeValidator(lambda x: "off" if x is None else x)] = Field(
        (0.0, 1.0), description="range of scores and predictions; observed = of predictions that of the targets; off"
    )
    blend: bool = Field(False, description="mix with the others' mean score by inverse variance of the last batch")
    pairing: Literal["cross", "own"] = Field("cross", description="own = control: a row's own features, biased")
    refit: Literal["after", "before"] = Field("after", description="before = control: knows the batch, biased")
    _examples: Examples | None = PrivateAttr(None)
    _fit: Fit | None = PrivateAttr(None)
    _r2: float | None = PrivateAttr(None)
    _noise: float | None = PrivateAttr(None)
    _error: float | None = PrivateAttr(None)

    @model_validator(mode="after")
    def _agree(self) -> "InternalValue":
        if len({*self.features}) < len(self.features):
            raise ValueError(f"features are {list(self.features)}; name each once")
        if isinstance(self.clip, tuple) and self.clip[0] >= self.clip[1]:
            raise ValueError(f"clip is {list(self.clip)}; give the lower bound first")
        return self

    @property
    def prompt_only(self) -> bool:
        """Whether the features are those of the prompt, so that a row may use its own."""
        return self.features == ("prompt",)

    @property
    def needs(self) -> tuple[str, ...]:  # type: ignore[override]  # of the instance: some features need no entropy
        """Streams of this stage as it is configured, besides those of `passes`."""
        return ("entropy",) if "entropy" in self.features else ()

    def passes(self) -> tuple[Pass, ...]:
        """Hidden states of prompt and reasoning, and the prompt's entropy, out of the scoring forward."""
        layer = DEPTH if self.layer is None else self.layer
        prompt, reasoning = internal.PromptEnd(self.pool), internal.ReasoningEnd(self.pool, self.reasoning_end)
        found = []
        if "prompt" in self.features:
            found.append(Pass("hidden_prompt", quantity="hidden", layer=layer, pool=prompt))
        if "reasoning" in self.features:
            found.append(Pass("hidden_reasoning", quantity="hidden", layer=layer, pool=reasoning))
        if "entropy" in self.features and self.entropy == "segments":
            pool = internal.PromptEnd(self.pool, predicted=True)
            found.append(Pass("entropy_prompt", quantity="entropy", pool=pool))
        return tuple(found)

    def features_of(self, rollouts: Rollouts) -> Tensor:
        """phi ``[N, D]`` float32: states of the prompt, states of the reasoning, entropies, as far as configured."""
        streams = {k: x.detach() for k, x in rollouts.streams.items()}
        parts = [streams[f"hidden_{k}"].float() for k in ("prompt", "reasoning") if k in self.features]
        if "entropy" in self.features:
            if self.entropy == "moments":
                told = internal.moments(streams["entropy"], rollouts.action)
            else:
                reasoning, answer, _ = internal.segments(rollouts, self.reasoning_end)
                told = internal.segment_means(streams["entropy"], streams["entropy_prompt"], reasoning, answer)
            parts.append(told.to(streams["entropy"].device).float())
        return torch.cat(parts, 1)

    def predict(self, phi: Tensor) -> Tensor:
        """Value of the prompt of each row from its features ``[N, D]``, float64, clipped.

        Raises:
            UserError: the probe has not been fitted yet; features of another width than it was fitted to, NaN or
                infinity.
        """
        if self._examples is None or not len(self._examples):
            cure = "Call update(features, targets) first."
            raise UserError("the probe was asked to predict before its first fit", where="InternalValue", cure=cure)
        check_features(phi, self._examples.x.shape[1])
        if self._fit is None:
            self._fit = fit(self._examples, self.alpha, self._blocks(self._examples.x.shape[1]))
        found = self._fit(phi).to(phi.device)
        if self.clip == "off":
            return found
        seen = self._examples.y
        low, high = (float(seen.min()), float(seen.max())) if self.clip == "observed" else self.clip
        return found.clamp(low, high)

    def _learn(self, phi: Tensor, scores: Siblings, step: int) -> None:
        self.update(phi[scores.known], scores.target[scores.known], step, scores.group[scores.known])

    def update(self, phi: Tensor, target: Tensor, step: int | None = None, group: Tensor | None = None) -> None:
        """Remember examples of a step and forget those of steps that are too old; the next prediction fits anew.

        Args:
            phi: ``[N, D]``.
            target: ``[N]``, never a row's own score where its features are of the response.
            step: of the run; None = the one after the last.
            group: prompt of each row; the penalty is chosen by leaving out whole prompts. None = each its own.

        Raises:
            UserError: as `probe.added`; what was remembered before stays as it was.
        """
        last = -1 if self._examples is None or not len(self._examples) else int(self._examples.step[-1])
        step = last + 1 if step is None else step
        self._examples = added(self._examples, phi, target, step, self.buffer_steps, group)
        self._fit = None

    def _blocks(self, width: int) -> tuple[tuple[int, int, int], ...]:
        """Columns of the hidden states, with the directions that are kept of each."""
        if self.pca is None:
            return ()
        states = [k for k in ("prompt", "reasoning") if k in self.features]
        entropies = {"moments": 3, "segments": 5}[self.entropy] if "entropy" in self.features else 0
        size = (width - entropies) // max(len(states), 1)
        most = dict(zip(("prompt", "reasoning"), self.pca, strict=True))
        return tuple((i * size, (i + 1) * size, most[k]) for i, k in enumerate(states))

    def __call__(self, rollouts: Rollouts, at: Moment = START) -> tuple[Rollouts, Metrics]:
        """Write ``advantage_row`` (`cross_rollout` of the probe's predictions), then learn from the batch."""
        score, valid = row_scores(rollouts), rollouts.valid
        self._check(score, rollouts)
        row = torch.promote_types(score.dtype, torch.float32)
        if not len(rollouts):
            return rollouts.with_streams(advantage_row=score.to(row)), {}
        phi = self.features_of(rollouts)
        phi = torch.where(valid.to(phi.device)[:, None], phi, 0.0)  # others were never scored, and nothing reads them
        scores = Siblings.of(self.prompt_only, score, rollouts.group, valid)
        if self.refit == "before":
            self._learn(phi, scores, at.step)
        baseline, told = self._baseline(phi, scores)
        advantage = torch.where(valid, scores.value - baseline, 0.0)
        told |= _quality(*(x.detach()[valid] for x in (scores.value, baseline, advantage)))
        if self.reasoning_end:
            ended = internal.segments(rollouts, self.reasoning_end)[2]
            told["unfinished_share"] = share(valid & ~ended, valid)
        if self.refit == "after":
            self._learn(phi, scores, at.step)
        return rollouts.with_streams(advantage_row=advantage.to(row)), told

    def _check(self, score: Tensor, rollouts: Rollouts) -> None:
        """Refuse a rollout without a sibling, and scores that predictions could never reach."""
        _, place, size = torch.unique(rollouts.group, return_inverse=True, return_counts=True)
        alone = size[place] < 2
        if not self.prompt_only and bool(alone.any()):
            row = int(alone.nonzero()[0, 0])
            what = f"it is the only rollout of prompt {int(rollouts.group[row])}, and pairing needs two"
            cure = 'Set rollout.samples = 2 or more, or features = ["prompt"].'
            raise UserError(what, where=f"row {row}", cure=cure)
        if isinstance(self.clip, tuple):
            outside = rollouts.valid & ((score < self.clip[0]) | (score > self.clip[1]))
            if bool(outside.any()):
                row = int(outside.nonzero()[0, 0])
                allowed = f"{self.clip[0]:g} to {self.clip[1]:g}, as clip says"
                cure = 'Set clip to the range of scores, "observed" or "off".'
                raise UserError(f"its score is {float(score[row]):g}", where=f"row {row}", allowed=allowed, cure=cure)

    def _baseline(self, phi: Tensor, scores: Siblings) -> tuple[Tensor, Metrics]:
        """b ``[N]`` float64 from what earlier batches taught, and what is told of it; remembers how good that was."""
        examples = len(self._examples) if self._examples is not None else 0
        constant = float(self._examples.y.mean()) if self._examples is not None and examples else 0.0
        told = {"examples": float(examples), "cold": 0.0, "fallback": 0.0, "alone": 0.0}
        if examples < self.min_examples:
            others_mean, number = other_groups(scores.value, scores.group, scores.valid)
            return torch.where(number > 0, others_mean, constant), told | {"cold": 1.0}
        prediction = self.predict(phi)
        told["alpha"] = self._fit.ridge.alpha if self._fit is not None else 0.0
        if self.prompt_only or self.pairing == "own":
            value, number = prediction, scores.valid.double()
        else:
            value, number = others(prediction, scores.group, scores.valid)
        alone = scores.valid & (number == 0)
        told["alone"] = share(alone, scores.valid)
        if self.blend:
            value = self._blended(value, scores)
        if self._r2 is not None and self._r2 <= 0:
            told["fallback"], alone = 1.0, torch.ones_like(alone)
        self._judge(prediction, scores, told)
        return torch.where(alone, constant, value), told

    def _blended(self, value: Tensor, scores: Siblings) -> Tensor:
        """The probe's value and the others' mean score, each by the inverse of its variance in the last batch."""
        if self._noise is None or self._error is None:
            return value
        loose = self._noise / scores.others.clamp(min=1)
        weight = torch.where((scores.others > 0) & (loose + self._error > 0), loose / (loose + self._error), 1.0)
        return weight * value + (1 - weight) * scores.others_mean

    def _judge(self, prediction: Tensor, scores: Siblings, told: Metrics) -> None:
        """How good predictions of a batch were that the probe has not learnt from; the next batch reads it."""
        known = scores.known
        p, t = prediction[known], scores.target[known]
        if not len(t):
            return
        r2 = explained(p, t)
        told["mae"] = float((p - t).abs().mean())
        if r2 is not None:
            told["r2"], self._r2 = r2, r2
        noise = scores.within()
        if noise is not None:
            self._noise = noise
            self._error = max(float((p - t).square().mean() - (noise / scores.behind[known]).mean()), 0.0)

    def state_dict(self) -> dict[str, Any]:
        """Examples, and what was found of the last batch; the fit follows from the examples."""
        if self._examples is None:
            return {}
        found = {"r2": self._r2, "noise": self._noise, "error": self._error}
        return self._examples.state_dict() | found

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what `state_dict` gave."""
        self._examples, self._fit = restored(state), None
        self._r2, self._noise, self._error = (state.get(k) for k in ("r2", "noise", "error"))


def _quality(score: Tensor, baseline: Tensor, advantage: Tensor) -> Metrics:
    """Mean baseline, and how much smaller advantages spread than scores do (1 - Var A / Var S)."""
    if not len(score):
        return {}
    told = {"baseline_mean": float(baseline.mean())}
    spread = float(score.var(correction=0))
    return told | ({"variance_reduction": 1 - float(advantage.var(correction=0)) / spread} if spread > 0 else {})
