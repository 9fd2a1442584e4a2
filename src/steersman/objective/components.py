"""The losses as components: frozen records of published hyperparameters, callable on tensors.

A preference loss is called as ``loss(h, label)`` and gives ``[N]``; `KTO` and `BradleyTerry` have arguments of their
own. Losses that correct for wrong labels also accept ``flip_rate="auto"``, which the learner must replace by an
estimate (`objective.flip_rate`) before training, and a per-example ``flip_rate`` at the call.
Leaves out: the formulas (`loss`), and who estimates and when (`train`).
"""

from typing import Annotated, Literal, TypeVar

from pydantic import Field, model_validator
from torch import Tensor

from steersman.core.component import Component
from steersman.core.errors import UserError
from steersman.objective.loss import preference as loss
from steersman.objective.loss.sft import sft
from steersman.objective.reduce import Denominator, Mode, aggregate, denominators

Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
NotNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Robust = TypeVar("Robust", bound="_Robust")
FlipRate = Annotated[float, Field(ge=0, lt=0.5, allow_inf_nan=False)] | Literal["auto"]


class _Robust(Component):
    """A loss with a flip rate: a number in [0, 0.5), or "auto" until `with_flip_rate` settles it."""

    flip_rate: FlipRate = 0.1

    def with_flip_rate(self: Robust, flip_rate: float) -> Robust:
        """The same loss with the flip rate settled, validated like any other."""
        return self.model_validate(self.model_dump() | {"flip_rate": flip_rate})

    def _rate(self, override: float | Tensor | None) -> float | Tensor:
        return _settled(type(self).__name__, self.flip_rate if override is None else override)


def _settled(name: str, rate: float | int | Tensor | str | None) -> float | Tensor:
    if rate is None or isinstance(rate, str):
        raise UserError(
            f'{name} was called while its flip_rate is still "{rate}"',
            where="flip_rate",
            cure="The learner estimates it before training; outside a learner call `with_flip_rate(number)` first.",
        )
    return rate


class DPO(Component):
    """Direct preference optimisation (arXiv 2305.18290)."""

    kind: Literal["dpo"] = "dpo"
    beta: Positive = 0.1

    def __call__(self, h: Tensor, label: Tensor | None = None) -> Tensor:
        """`loss.preference.dpo`."""
        return loss.dpo(h, self.beta, label)


class CDPO(_Robust):
    """Conservative DPO, label smoothing (Mitchell 2023)."""

    kind: Literal["cdpo"] = "cdpo"
    beta: Positive = 0.1

    def __call__(self, h: Tensor, label: Tensor | None = None, flip_rate: float | int | Tensor | None = None) -> Tensor:
        """`loss.preference.cdpo`; `flip_rate` overrides the component's, by example if ``[N]``."""
        return loss.cdpo(h, self.beta, self._rate(flip_rate), label)


class RDPO(_Robust):
    """Robust DPO, unbiased under label flips (arXiv 2403.00409); the two safeguards are off unless set."""

    kind: Literal["rdpo"] = "rdpo"
    beta: Positive = 0.1
    max_margin: Positive | None = None
    clip_weight: Positive | None = None

    def __call__(self, h: Tensor, label: Tensor | None = None, flip_rate: float | int | Tensor | None = None) -> Tensor:
        """`loss.preference.rdpo`; `flip_rate` overrides the component's, by example if ``[N]``."""
        rate = self._rate(flip_rate)
        return loss.rdpo(h, self.beta, rate, label, max_margin=self.max_margin, clip_weight=self.clip_weight)

    def active(self, h: Tensor, label: Tensor | None = None, flip_rate: float | int | Tensor | None = None) -> Tensor:
        """Which examples had their gradient changed by a safeguard, bool ``[N]``; its mean is the share to log."""
        rate = self._rate(flip_rate)
        limits = {"max_margin": self.max_margin, "clip_weight": self.clip_weight}
        return loss.safeguards_active(h, self.beta, rate, label, **limits)


class IPO(Component):
    """Identity preference optimisation (arXiv 2310.12036)."""

    kind: Literal["ipo"] = "ipo"
    tau: Positive = 0.1

    def __call__(self, h: Tensor, label: Tensor | None = None) -> Tensor:
        """`loss.preference.ipo`, mixed over both sides for soft labels."""
        return loss.soften(lambda x: loss.ipo(x, self.tau), h, label)


class RIPO(_Robust):
    """IPO made unbiased under label flips."""

    kind: Literal["ripo"] = "ripo"
    tau: Positive = 0.1

    def __call__(self, h: Tensor, label: Tensor | None = None, flip_rate: float | int | Tensor | None = None) -> Tensor:
        """`loss.preference.ripo`, mixed over both sides for soft labels."""
        rate = self._rate(flip_rate)
        return loss.soften(lambda x: loss.ripo(x, self.tau, rate), h, label)


class SLiC(Component):
    """Hinge loss on the margin (arXiv 2305.10425)."""

    kind: Literal["slic"] = "slic"
    beta: Positive = 0.1

    def __call__(self, h: Tensor, label: Tensor | None = None) -> Tensor:
        """`loss.preference.slic`, mixed over both sides for soft labels."""
        return loss.soften(lambda x: loss.slic(x, self.beta), h, label)


class RSLiC(_Robust):
    """Hinge loss made unbiased under label flips."""

    kind: Literal["rslic"] = "rslic"
    beta: Positive = 0.1

    def __call__(self, h: Tensor, label: Tensor | None = None, flip_rate: float | int | Tensor | None = None) -> Tensor:
        """`loss.preference.rslic`, mixed over both sides for soft labels."""
        rate = self._rate(flip_rate)
        return loss.soften(lambda x: loss.rslic(x, self.beta, rate), h, label)


class Probit(_Robust):
    """Preference loss of the probit model; plain unless a flip rate is set."""

    kind: Literal["probit"] = "probit"
    beta: Positive = 0.1
    flip_rate: FlipRate = 0.0

    def __call__(self, h: Tensor, label: Tensor | None = None, flip_rate: float | int | Tensor | None = None) -> Tensor:
        """`loss.preference.probit`, mixed over both sides for soft labels."""
        rate = self._rate(flip_rate)
        return loss.soften(lambda x: loss.probit(x, self.beta, rate), h, label)


class ForwardCorrectedDPO(_Robust):
    """Likelihood of the observed, possibly flipped preference: the bounded alternative to `RDPO`."""

    kind: Literal["forward_corrected_dpo"] = "forward_corrected_dpo"
    beta: Positive = 0.1

    def __call__(self, h: Tensor, label: Tensor | None = None, flip_rate: float | int | Tensor | None = None) -> Tensor:
        """`loss.preference.forward_corrected_dpo`, mixed over both sides for soft labels."""
        rate = self._rate(flip_rate)
        return loss.soften(lambda x: loss.forward_corrected_dpo(x, self.beta, rate), h, label)


class KTO(Component):
    """Kahneman-Tversky optimisation of single responses (arXiv 2402.01306)."""

    kind: Literal["kto"] = "kto"
    beta: Positive = 0.1
    weight_desirable: NotNegative = 1.0
    weight_undesirable: NotNegative = 1.0

    def __call__(self, log_ratio: Tensor, desirable: Tensor, reference_kl: float | int | Tensor) -> Tensor:
        """`loss.preference.kto`."""
        weights = self.weight_desirable, self.weight_undesirable
        return loss.kto(log_ratio, desirable, self.beta, reference_kl, *weights)


PairLoss = DPO | CDPO | RDPO | IPO | RIPO | SLiC | RSLiC | Probit | ForwardCorrectedDPO
"""The losses called on (h, label)."""

PreferenceLoss = Annotated[
    DPO | CDPO | RDPO | IPO | RIPO | SLiC | RSLiC | Probit | ForwardCorrectedDPO | KTO, Field(discriminator="kind")
]
"""Every preference loss a configuration can name by ``kind``."""


class BradleyTerry(Component):
    """Loss of a reward model (Bradley and Terry 1952) with margin, centring and correction for wrong labels.

    `correction` says how `flip_rate` is used: "unbiased" (as in rDPO) or "forward" (likelihood of the observed label);
    with "none" a flip rate would do nothing and is refused. `centering` of 0.01 pins the mean reward near 0.
    """

    kind: Literal["bradley_terry"] = "bradley_terry"
    margin: NotNegative = 0.0
    centering: NotNegative = 0.0
    correction: Literal["none", "unbiased", "forward"] = "none"
    flip_rate: FlipRate | None = None

    @model_validator(mode="after")
    def _agree(self) -> "BradleyTerry":
        if (self.correction == "none") != (self.flip_rate is None):
            raise ValueError(
                f'flip_rate is {self.flip_rate} with correction "{self.correction}"; '
                'set flip_rate together with correction "unbiased" or "forward", and neither otherwise'
            )
        return self

    def with_flip_rate(self, flip_rate: float) -> "BradleyTerry":
        """The same loss with the flip rate settled, validated like any other."""
        return self.model_validate(self.model_dump() | {"flip_rate": flip_rate})

    def __call__(
        self,
        reward_first: Tensor,
        reward_second: Tensor,
        label: Tensor | None = None,
        flip_rate: float | int | Tensor | None = None,
        margin: float | int | Tensor = 0.0,
    ) -> Tensor:
        """Loss ``[N]`` of the rewards of both sides, the centring term included; `margin` goes on top of its own."""
        difference, lead = reward_first - reward_second, self.margin + margin
        if self.correction == "none":
            if flip_rate is not None:
                raise UserError('flip_rate was given with correction "none"', where="BradleyTerry")
            value = loss.bradley_terry(difference, lead, label)
        else:
            corrected = {"unbiased": loss.bradley_terry_unbiased, "forward": loss.bradley_terry_forward}
            rate = _settled("BradleyTerry", self.flip_rate if flip_rate is None else flip_rate)
            value = corrected[self.correction](difference, rate, lead, label)
        if self.centering:
            value = value + self.centering * loss.reward_centering(reward_first, reward_second)
        return value


class SFT(Component):
    """Supervised fine-tuning: negative log-likelihood of each token."""

    kind: Literal["sft"] = "sft"

    def __call__(self, logp: Tensor) -> Tensor:
        """`loss.sft.sft`."""
        return sft(logp)


class Aggregation(Component):
    """How losses become one number (`reduce.aggregate`); only seq_sum_const takes (and needs) `constant`."""

    kind: Literal["aggregation"] = "aggregation"
    mode: Mode = "token_mean"
    constant: Positive | None = None

    @model_validator(mode="after")
    def _agree(self) -> "Aggregation":
        if (self.mode == "seq_sum_const") != (self.constant is not None):
            raise ValueError(f"constant is {self.constant} with mode {self.mode}; only seq_sum_const takes one")
        return self

    def denominators(self, mask: Tensor, group: Tensor | None = None) -> Denominator:
        """`reduce.denominators` of a step's mask, or of a part of it."""
        return denominators(mask, self.mode, group, self.constant)

    def __call__(
        self, loss: Tensor, mask: Tensor, denominator: Denominator | None = None, group: Tensor | None = None
    ) -> Tensor:
        """`reduce.aggregate`."""
        return aggregate(loss, mask, self.mode, denominator, group, self.constant)
