"""Bradley-Terry reward models: building, scoring, saving, and the report that says whether to trust one.

A reward model is a plain `transformers` sequence-classification folder with one output, so it loads anywhere. It is
read at the last real token of a row, found from row lengths, never from pad ids. Leaves out: training
(`train.reward_model`).
"""

import copy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from steersman.core.errors import CorruptFile, UserError
from steersman.core.noise import normal_
from steersman.core.types import Rollouts, Scores
from steersman.language.load import (
    check_folder,
    check_tokenizer_fits,
    load_tokenizer,
    save_model,
    train_every_row,
    zero_dropout,
)
from steersman.language.pack import micro_batches
from steersman.language.save import no_bars
from steersman.language.score import response_hidden
from steersman.stats import Interval, wilson
from steersman.store.files import read_json, write_json

FORMAT = 1
"""Version of ``reward.json``; a newer one is refused."""


def build_reward_model(folder: Path, seed: int) -> nn.Module:
    """A reward model on the trunk of a causal-LM folder, its head drawn from N(0, 1/(hidden+1)).

    Args:
        folder: a causal-LM folder, or one already saved as a reward model (its head is then kept).
        seed: seed of the head's noise.
    """
    from transformers import AutoConfig

    check_reward_folder(folder)
    config = AutoConfig.from_pretrained(folder, local_files_only=True)
    tokenizer = load_tokenizer(folder)
    check_tokenizer_fits(tokenizer, config, where=str(folder))
    trained = _is_classifier(folder)
    config.num_labels = 1
    zero_dropout(config)
    with torch.random.fork_rng(devices=[]):  # transformers draws a head, which is replaced below or read
        model, missing = _read(folder, config)
    head = head_of(model)
    new = [k for k in missing if trained or not k.startswith("score.")]
    if new:
        what = f"the weights give no value to {len(new)} parameters of the model, first {new[0]}"
        raise UserError(what, where=str(folder), cure="Give a whole causal language model, or a saved reward model.")
    if not trained:
        normal_([("head", head.weight)], (head.weight.shape[1] + 1) ** -0.5, seed, "reward-head")
    train_every_row(model)
    if config.pad_token_id is None:
        model.config.pad_token_id = tokenizer.pad_token_id
    return model.eval()


def check_reward_folder(folder: Path) -> None:
    """Refuse a folder that holds neither a causal language model nor a reward model, without loading its weights."""
    if not _is_classifier(folder):
        check_folder(folder)
    elif not list(folder.glob("*.safetensors")):
        raise UserError("has no weights (*.safetensors)", where=str(folder))


def _is_classifier(folder: Path) -> bool:
    known = read_json(folder / "config.json") if (folder / "config.json").is_file() else {}
    named = known.get("architectures") if isinstance(known, dict) else None
    return any("SequenceClassification" in str(a) for a in named or [])


def _read(folder: Path, config: Any) -> tuple[Any, list[str]]:
    """The classifier on a folder's weights, and the parameters they give no value to."""
    from safetensors import SafetensorError
    from transformers import AutoModelForSequenceClassification
    from transformers.utils import logging

    verbosity = logging.get_verbosity()
    logging.set_verbosity_error()  # the head is reported as newly initialised; that is what we want
    try:
        with no_bars():
            model, info = AutoModelForSequenceClassification.from_pretrained(
                folder,
                config=config,
                local_files_only=True,
                use_safetensors=True,
                dtype=torch.float32,
                output_loading_info=True,
            )
    except SafetensorError as error:
        raise CorruptFile(f"weights cannot be read ({error})", where=str(folder)) from None
    except (OSError, ValueError, RuntimeError) as error:
        what = f"the reward model cannot be loaded: {str(error).strip().splitlines()[0]}"
        raise UserError(what, where=str(folder)) from error
    finally:
        logging.set_verbosity(verbosity)
    return model, sorted(info["missing_keys"]) + sorted(str(k) for k in info["mismatched_keys"])


def head_of(model: nn.Module) -> nn.Linear:
    """The linear head of a sequence-classification model (`score` in transformers); the trained one under LoRA."""
    head: Any = next(m for n, m in model.named_modules() if n.split(".")[-1] == "score")
    saved = getattr(head, "modules_to_save", None)
    return head if saved is None else saved["default"]


def reward_of(model: nn.Module, rollouts: Rollouts) -> Tensor:
    """Reward of each row, float32 ``[N]``, with gradients: the float32 head at the last real token."""
    hidden = response_hidden(model, rollouts, rollouts.length - 1)
    return (hidden.float() @ head_of(model).weight.float().T)[:, 0]


def score_rows(model: nn.Module, rollouts: Rollouts, micro_tokens: int) -> Tensor:
    """Reward of each row without gradients, float32 ``[N]``, in micro-batches."""
    out = torch.zeros(len(rollouts), device=rollouts.ids.device)
    with torch.no_grad():
        for rows in micro_batches(rollouts.length, micro_tokens):
            out[rows] = reward_of(model, rollouts.index(rows).trim())
    return out


@dataclass(frozen=True, slots=True)
class RewardModel:
    """A trained reward model as a grader: rollouts in, `Scores` out.

    Args:
        model: the sequence-classification model.
        micro_tokens: tokens of one forward pass.
        mean: subtracted from raw rewards (reference responses score 0 on average).
        std: what the difference is divided by.
    """

    model: nn.Module
    micro_tokens: int = 4096
    mean: float = 0.0
    std: float = 1.0

    def __call__(self, rollouts: Rollouts) -> Scores:
        """Score rows; a reward that is not finite makes its row invalid."""
        raw = score_rows(self.model, rollouts, self.micro_tokens)
        valid = torch.isfinite(raw)
        value = torch.where(valid, (raw - self.mean) / self.std, torch.nan)
        errors = {int(i): f"the reward model gave {float(raw[i])}" for i in (~valid).nonzero()[:, 0]}
        return Scores(value, valid, {"raw": raw}, errors)


def quality_report(
    first: Tensor, second: Tensor, label: Tensor, first_length: Tensor, second_length: Tensor
) -> dict[str, Any]:
    """What a reward model is worth on held-out pairs.

    Args:
        first, second: rewards of both sides ``[N]``.
        label: probability that the first is preferred ``[N]``; ties (0.5) are counted and left out of accuracy.
        first_length, second_length: response lengths in tokens ``[N]``.

    Returns:
        JSON values: accuracy with interval, expected calibration error of sigma(r_w - r_l) over ten equal-width bins,
        accuracy by terciles of |length difference|, Spearman correlation of reward difference and length difference
        within pairs, accuracy of the rule "longer wins", mean and standard deviation of rewards, number of ties, and
        number of pairs with a reward that is not finite, which enter nothing else. Equal rewards are a wrong answer.
    """
    from scipy.stats import spearmanr

    finite = torch.isfinite(first) & torch.isfinite(second)
    keep = ((label != 0.5) & finite).numpy()
    d = (first - second).double().numpy()[keep]
    won = (label > 0.5).numpy()[keep]
    longer = (first_length - second_length).double().numpy()[keep]
    right = ((d > 0) == won) & (d != 0)
    both = torch.cat([first[finite], second[finite]]).double()
    constant = len(d) < 3 or np.ptp(d) == 0 or np.ptp(longer) == 0
    return {
        "pairs": int(keep.sum()),
        "ties": int((label == 0.5).sum()),
        "invalid": int((~finite).sum()),
        "accuracy": _interval(right),
        "calibration_error": _calibration(d, won),
        "accuracy_by_length_difference": _by_length(right, np.abs(longer)),
        "spearman_reward_length": float("nan") if constant else float(spearmanr(d, longer).statistic),
        "accuracy_longer_wins": _interval(((longer > 0) == won)[longer != 0]),
        "mean": float(both.mean()),
        "std": float(both.std(correction=0)),
    }


def _interval(right: "np.ndarray[Any, Any]") -> dict[str, float] | None:
    if not len(right):
        return None
    found: Interval = wilson(int(right.sum()), len(right))
    return {"value": found.value, "low": found.low, "high": found.high, "n": len(right)}


def _calibration(d: "np.ndarray[Any, Any]", won: "np.ndarray[Any, Any]") -> float:
    """Expected calibration error: sum over bins of (share of pairs) * |mean probability - share won|.

    Each pair counts in both orders: data files put the preferred side first, and in one order alone every bin would
    have been won throughout.
    """
    d, won = np.concatenate([d, -d]), np.concatenate([won, ~won])
    probability = 1 / (1 + np.exp(-np.clip(d, -500, 500)))
    bins = np.minimum((probability * 10).astype(int), 9)
    if not len(bins):
        return float("nan")
    gaps = [(bins == b).mean() * abs(probability[bins == b].mean() - won[bins == b].mean()) for b in np.unique(bins)]
    return float(np.sum(gaps))


def _by_length(right: "np.ndarray[Any, Any]", gap: "np.ndarray[Any, Any]") -> list[dict[str, Any]]:
    """Accuracy in the terciles of the absolute length difference."""
    edges = np.quantile(gap, [0, 1 / 3, 2 / 3, 1]) if len(gap) else np.zeros(4)
    out = []
    for low, high, last in zip(edges[:-1], edges[1:], (False, False, True), strict=True):
        inside = (gap >= low) & ((gap <= high) if last else (gap < high))
        out.append({"from": float(low), "to": float(high), "accuracy": _interval(right[inside])})
    return out


def save_reward_model(model: Any, tokenizer: Any, folder: Path, report: dict[str, Any]) -> None:
    """Write a plain sequence-classification folder with the quality report and the mean and spread of rewards in it.

    Plain `transformers` reads the reward at the last token that is not the pad token. Where the tokenizer pads with its
    end-of-sequence token, that would be the token before the end; the folder then gets a pad token of its own.
    """
    if hasattr(model, "merge_and_unload"):
        model = copy.deepcopy(model).merge_and_unload()
    save_model(*_with_own_pad(model, tokenizer), folder)
    known = {"format": FORMAT, "mean": report["mean"], "std": report["std"], "report": report}
    write_json(folder / "reward.json", known)


def _with_own_pad(model: Any, tokenizer: Any) -> tuple[Any, Any]:
    if tokenizer.pad_token_id in (None, tokenizer.eos_token_id):
        tokenizer = copy.deepcopy(tokenizer)
        tokenizer.add_special_tokens({"pad_token": "<|pad|>"})
    rows, pad = model.get_input_embeddings().weight.shape[0], tokenizer.pad_token_id
    if pad >= rows:
        model = copy.deepcopy(model)
        with torch.no_grad(), torch.random.fork_rng(devices=[]):  # the new rows are drawn before they become 0
            model.resize_token_embeddings(pad + 1, mean_resizing=False)
            model.get_input_embeddings().weight[rows:] = 0.0
    model.config.pad_token_id = pad
    return model, tokenizer


def load_reward_model(folder: Path, micro_tokens: int = 4096) -> RewardModel:
    """Read what `save_reward_model` wrote; rewards are normalised with the stored mean and spread."""
    known = read_json(folder / "reward.json")
    if known.get("format", 0) > FORMAT:
        where = str(folder / "reward.json")
        raise UserError(f"has format {known['format']}, this version reads up to {FORMAT}", where=where)
    return RewardModel(build_reward_model(folder, 0), micro_tokens, known["mean"], known["std"] or 1.0)
