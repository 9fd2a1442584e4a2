"""The recipes of `steersman train`: what defines a result, in tables of few keys, and apart from it how it is run.

Only the recipe (with the *contents* of the files it names) enters a run's identity; `Runtime` never does.
Leaves out: carrying a recipe out (`recipes.jobs`), reading TOML (`core.config`).
"""

from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, WrapValidator, model_validator

from steersman.core.component import Component
from steersman.language.encode import Truncation
from steersman.objective.components import KTO, RDPO, BradleyTerry, PreferenceLoss
from steersman.train.loop import Budget
from steersman.train.optimise import AdamW

FORMAT = 1
"""Version of the recipes' layout; a file that names a newer one is refused."""


def or_component(value: Any, handler: Any) -> Any:
    """A user's own component was validated when it was imported; everything else is one of ours."""
    return value if isinstance(value, Component) else handler(value)


AnyPreferenceLoss = Annotated[PreferenceLoss, WrapValidator(or_component)]
"""Any preference loss of ours, or a component of the user's own (``kind = "package.module:Class"``)."""


class Lora(Component):
    """Low-rank adapters instead of full fine-tuning (Hu et al. 2021), through peft."""

    rank: int = Field(16, ge=1, le=1024, description="rank of the update of each adapted matrix")
    alpha: float = Field(32.0, gt=0, description="the update is scaled by alpha / rank")
    targets: list[str] | Literal["all-linear"] = Field("all-linear", description="names of the adapted matrices")
    merge: bool = Field(True, description="write the merged model; false = write the adapter alone")


class ModelSpec(Component):
    """Which model is trained, and how."""

    path: str = Field(description="folder of a Hugging Face causal language model (safetensors)")
    reference: str | None = Field(None, description="folder of the reference model; absent = the starting point")
    precision: Literal["float32", "bfloat16"] = Field("float32", description="arithmetic of the forward pass")
    activation_checkpointing: bool = Field(False, description="recompute activations: less memory, more time")
    lora: Lora | None = Field(None, description="adapters; absent = all parameters are trained")


class DataSpec(Component):
    """Which rows are trained on and what happens to long ones."""

    train: str = Field(description="JSONL file")
    evaluation: str | None = Field(None, description="JSONL file of held-out rows")
    truncation: Truncation = Field(Truncation(), description="what happens to rows longer than the context")


class SftSettings(Component):
    """What supervised fine-tuning learns."""

    kind: Literal["sft"] = "sft"
    reduce: Literal["token_mean", "seq_mean_token_mean"] = Field("token_mean", description="what is averaged")
    prompt: bool = Field(False, description="learn the prompt's tokens too")


class KeepsDefaults(Component):
    """Tables inside it that name some keys keep the default's others, unless they name another kind."""

    @model_validator(mode="before")
    @classmethod
    def _keep_defaults(cls, values: Any) -> Any:
        if not isinstance(values, dict):
            return values
        tables = {}
        for name, field in cls.model_fields.items():
            given = values.get(name)
            if isinstance(given, dict) and isinstance(field.default, Component):
                own = field.default.model_dump(exclude_none=True)
                if given.get("kind", own.get("kind")) == own.get("kind"):
                    tables[name] = own | given
        return values | tables


class AnyRecipe(KeepsDefaults):
    """What recipes of all verbs have in common; `paths` are the keys whose values are files or folders."""

    paths: ClassVar[tuple[str, ...]] = ("model.path", "model.reference")
    format: Literal[1] = Field(FORMAT, description="version of this layout")
    model: ModelSpec


class _Recipe(AnyRecipe):
    paths = (*AnyRecipe.paths, "data.train", "data.evaluation")
    data: DataSpec


class SftRecipe(_Recipe):
    """Supervised fine-tuning."""

    verb: Literal["sft"] = "sft"
    loss: SftSettings = SftSettings()
    optim: AdamW = AdamW(lr=2e-5, schedule="cosine", warmup=0.03)
    budget: Budget = Budget(batch=16)


class RewardRecipe(_Recipe):
    """A Bradley-Terry reward model."""

    verb: Literal["reward"] = "reward"
    loss: BradleyTerry = BradleyTerry()
    optim: AdamW = AdamW(lr=1e-5, schedule="linear", warmup=0.03)
    budget: Budget = Budget(batch=16)


class PreferenceRecipe(_Recipe):
    """Preference optimisation: DPO and its family on pairs, KTO on single judged responses."""

    verb: Literal["preference"] = "preference"
    loss: AnyPreferenceLoss = Field(RDPO(), description="the loss; its kind names the method")
    logp: Literal["sum", "mean"] = Field("sum", description="log-probability of a response: sum or mean over tokens")
    optim: AdamW = AdamW(lr=1e-6, schedule="linear", warmup=0.1)
    budget: Budget = Budget(batch=16, limits={"margin": 1e4})

    @model_validator(mode="after")
    def _kto_sums(self) -> "PreferenceRecipe":
        if isinstance(self.loss, KTO) and self.logp == "mean":
            raise ValueError("logp = 'mean' is not defined for kto; use 'sum'")
        return self


Recipe = SftRecipe | RewardRecipe | PreferenceRecipe
RECIPES: dict[str, type[SftRecipe] | type[RewardRecipe] | type[PreferenceRecipe]] = {
    "sft": SftRecipe,
    "reward": RewardRecipe,
    "preference": PreferenceRecipe,
}
"""The recipe of each verb of `steersman train`."""


class Runtime(Component):
    """How a run is carried out; nothing here changes what comes out, beyond rounding."""

    out: str | None = Field(None, description="folder to write; absent = runs/<verb>-<identity>")
    device: Literal["auto", "cpu", "cuda"] = Field("auto", description="auto = a GPU where there is one")
    threads: int | None = Field(None, ge=1, description="CPU threads; absent = one a core")
    micro_tokens: int = Field(
        4096, ge=1, description="tokens of one forward pass (gradient accumulation does the rest)"
    )
    decode_tokens: int = Field(32_768, ge=1, description="tokens of responses drawn at a time (rl)")
    log_every: int = Field(10, ge=1, description="steps between logged metrics")
    evaluate_every: int | None = Field(None, ge=1, description="steps between evaluations; absent = at the end")
    checkpoint_every: int | None = Field(None, ge=1, description="steps between checkpoints; absent = a fifth, 10+")
    keep: int = Field(2, ge=1, description="checkpoints kept")
    track: Literal["none", "tensorboard", "wandb", "trackio"] = Field("none", description="where metrics go as well")
