"""DPO update: Steersman against TRL's `DPOTrainer` on the same weights, tokens and optimiser, on one CPU thread.

Run by `make bench-dpo`. A 4-layer Llama of width 128; 16 pairs; prompts of 32 tokens and 64 tokens a side, or 8-64
where ragged; vocabularies of 1,024 and 32,768. The policy is the reference plus noise on its weights, and both sides
use cached reference log-probs.

The comparison is void (exit code 1) unless both sides agree on every pair's h to 1e-5 and on the loss after three
updates to 1e-4. Both h are sums, in float64, of the log-ratios of single tokens as each side's own forward gives them:
a float32 sum of 64 log-probs, about -450, is not known to better than 3e-5. The difference is taken relative to the
largest |h| of the batch, for the same reason; the difference in nats and the distance of each side from a float64
forward are printed beside it.

What is timed: forward, backward, gradient clipping and AdamW step of one batch that is already collated, by CPU time,
in rounds that alternate between the sides. TRL's data loader, logging and callbacks are left out, which favours TRL.
Peak memory is that of a process of its own for each side. The arithmetic limit is the matrix products an update cannot
do without, each real token once, at the rate of a large matrix product on the same machine.
"""

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

os.environ.update(OMP_NUM_THREADS="1", MKL_NUM_THREADS="1", HF_HUB_OFFLINE="1", TQDM_DISABLE="1", WANDB_DISABLED="true")

import torch
from torch import Tensor

from steersman.core import noise
from steersman.core.types import Pairs, Rollouts

torch.set_num_threads(1)
warnings.filterwarnings("ignore")

HERE = Path(__file__).parent
PAIRS, PROMPT, RESPONSE, SHORTEST = 16, 32, 64, 8
WIDTH, LAYERS, HEADS, INNER = 128, 4, 4, 344
BETA, LEARNING_RATE, CLIP, UPDATES = 0.1, 1e-4, 1.0, 3
PERTURBATION = 0.02
"""Standard deviation of the noise between reference and policy, beside initial weights of 0.05."""
H_TOLERANCE, LOSS_TOLERANCE = 1e-5, 1e-4
LIMITS = {1024: 0.75, 32768: 0.3}
MEMORY_LIMIT_GIB = 1.3


@dataclass(frozen=True)
class Case:
    vocabulary: int
    ragged: bool

    @property
    def name(self) -> str:
        return f"{self.vocabulary:,} {'ragged' if self.ragged else 'full'}"


CASES = [Case(v, r) for v in LIMITS for r in (False, True)]


def build_model(case: Case, seed: int) -> Any:
    """The Llama of the comparison; `seed` 0 is the reference, 1 the policy, the reference plus noise."""
    from transformers import LlamaConfig, LlamaForCausalLM

    size = {"hidden_size": WIDTH, "num_hidden_layers": LAYERS, "num_attention_heads": HEADS, "intermediate_size": INNER}
    model = LlamaForCausalLM(LlamaConfig(vocab_size=case.vocabulary, pad_token_id=0, eos_token_id=1, **size))
    noise.normal_([(k, p) for k, p in model.named_parameters() if p.ndim > 1], 0.05, 0, "weights")
    for name, p in model.named_parameters() if seed else ():
        change = torch.empty_like(p)
        noise.normal_([(name, change)], PERTURBATION, seed, "perturbation")
        p.data.add_(change)
    return model


def build_pairs(case: Case) -> Pairs:
    """16 pairs of random tokens; every response ends in the end-of-sequence token."""
    rng = noise.generator(0, "tokens")
    prompt = rng.integers(2, case.vocabulary, (PAIRS, PROMPT))
    sides = []
    for _ in range(2):
        lengths = rng.integers(SHORTEST, RESPONSE + 1, PAIRS) if case.ragged else [RESPONSE] * PAIRS
        ids = torch.zeros(PAIRS, PROMPT + RESPONSE, dtype=torch.int64)
        ids[:, :PROMPT] = torch.from_numpy(prompt)
        for row, length in enumerate(lengths):
            ids[row, PROMPT : PROMPT + length] = torch.from_numpy(rng.integers(2, case.vocabulary, length))
            ids[row, PROMPT + length - 1] = 1
        total = PROMPT + torch.as_tensor(lengths)
        sides.append(Rollouts.of(ids[:, : int(total.max())], total, torch.full((PAIRS,), PROMPT)))
    return Pairs(sides[0], sides[1], torch.ones(PAIRS)).check()


@dataclass
class Side:
    """One contestant.

    Args:
        update: makes one optimiser step and returns its loss.
        h: each pair's h, summed in float64.
    """

    update: Callable[[], float]
    h: Callable[[], Tensor]


def steersman_side(case: Case) -> Side:
    from steersman.language.score import pair_logp
    from steersman.objective.components import DPO
    from steersman.train.optimise import AdamW, Optimiser
    from steersman.train.preference import PreferenceLearner, summed_logp

    policy, reference, pairs = build_model(case, 1), build_model(case, 0), build_pairs(case)

    def token_logp(model: Any) -> Tensor:
        with torch.no_grad():
            (first, _), (second, _) = pair_logp(model, pairs)
        return first.double().sum(1) - second.double().sum(1)

    reference_h = token_logp(reference)
    tokens = int(pairs.first.length.sum() + pairs.second.length.sum())
    cached = summed_logp(reference, pairs.first, tokens), summed_logp(reference, pairs.second, tokens)
    del reference
    optimiser = Optimiser(policy.named_parameters(), AdamW(lr=LEARNING_RATE, clip=CLIP), total_steps=1)
    learner = PreferenceLearner(policy, pairs, cached, DPO(beta=BETA), optimiser, tokens)
    rows = torch.arange(PAIRS)
    return Side(lambda: float(learner.step(rows, 0)["loss"]), lambda: token_logp(policy) - reference_h)


def trl_side(case: Case) -> Side:
    from datasets import Dataset, disable_progress_bars
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast
    from trl import DPOConfig, DPOTrainer

    class Tokenised(DPOTrainer):
        def _prepare_dataset(self, dataset: Any, *args: Any) -> Any:
            return dataset  # the ids are given

    disable_progress_bars()
    pairs = build_pairs(case)
    columns: dict[str, list[list[int]]] = {"prompt_ids": [], "chosen_ids": [], "rejected_ids": []}
    for n in range(PAIRS):
        columns["prompt_ids"].append(pairs.first.ids[n, :PROMPT].tolist())
        columns["chosen_ids"].append(pairs.first.ids[n, PROMPT : pairs.first.length[n]].tolist())
        columns["rejected_ids"].append(pairs.second.ids[n, PROMPT : pairs.second.length[n]].tolist())
    words = Tokenizer(models.WordLevel({"<pad>": 0, "</s>": 1}, unk_token="<pad>"))
    scratch = tempfile.TemporaryDirectory()
    config = DPOConfig(
        output_dir=scratch.name, use_cpu=True, per_device_train_batch_size=PAIRS, beta=BETA, bf16=False,
        learning_rate=LEARNING_RATE, weight_decay=0.0, max_grad_norm=CLIP, precompute_ref_log_probs=True,
        gradient_checkpointing=False, report_to=[], max_length=None, lr_scheduler_type="constant",
    )  # fmt: skip
    trainer = Tokenised(
        build_model(case, 1),
        build_model(case, 0),
        config,
        train_dataset=Dataset.from_dict(columns),
        processing_class=PreTrainedTokenizerFast(tokenizer_object=words, pad_token="<pad>", eos_token="</s>"),
    )
    batch = trainer._prepare_inputs(trainer.data_collator([trainer.train_dataset[n] for n in range(PAIRS)]))
    labels = batch["input_ids"].masked_fill(batch["completion_mask"] == 0, -100)
    inputs = {k: batch[k] for k in ("input_ids", "attention_mask")}

    def token_logp(model: Any) -> Tensor:
        with torch.no_grad():
            logp = model(**inputs, labels=labels, use_cache=False, fused_lm_head=True).log_probs.double().sum(1)
        return logp[:PAIRS] - logp[PAIRS:]

    reference_h = token_logp(trainer.ref_model)
    trainer.ref_model = None  # its log-probs are cached; nothing uses it any more
    optimizer = trainer.create_optimizer()
    trainer.model.train()
    trainer.current_gradient_accumulation_steps = 1  # what `train()` would have set

    def update() -> float:
        loss = trainer.training_step(trainer.model, dict(batch))
        torch.nn.utils.clip_grad_norm_(trainer.model.parameters(), CLIP)
        optimizer.step()
        optimizer.zero_grad()
        trainer._metrics["train"].clear()
        return float(loss)

    update.scratch = scratch  # type: ignore[attr-defined]  # removed with the side
    return Side(update, lambda: token_logp(trainer.model) - reference_h)


SIDES = {"steersman": steersman_side, "trl": trl_side}


def exact_h(case: Case) -> Tensor:
    """Each pair's h from float64 forwards of the plain model, a row at a time."""
    pairs, total = build_pairs(case), torch.zeros(PAIRS, dtype=torch.float64)
    for seed, model_sign in ((1, 1.0), (0, -1.0)):
        model = build_model(case, seed).double()
        for side, side_sign in ((pairs.first, 1.0), (pairs.second, -1.0)):
            for n, length in enumerate(side.length.tolist()):
                with torch.no_grad():
                    log_p = model(side.ids[n : n + 1, :length]).logits[0, PROMPT - 1 : -1].log_softmax(-1)
                chosen = log_p.gather(1, side.ids[n, PROMPT:length, None])
                total[n] += model_sign * side_sign * chosen.sum()
    return total


def agreement(case: Case, sides: dict[str, Side]) -> dict[str, float | bool]:
    """The conditions under which the comparison means something; makes three updates on each side."""
    exact, h = exact_h(case), {k: side.h() for k, side in sides.items()}
    losses = {k: [side.update() for _ in range(UPDATES + 1)] for k, side in sides.items()}
    apart = float((h["steersman"] - h["trl"]).abs().max())
    largest = float(exact.abs().max())
    loss_apart = abs(losses["steersman"][UPDATES] - losses["trl"][UPDATES])
    return {
        "h_difference_nats": apart,
        "h_difference_relative": apart / largest,
        "h_largest": largest,
        "h_error_steersman_nats": float((h["steersman"] - exact).abs().max()),
        "h_error_trl_nats": float((h["trl"] - exact).abs().max()),
        "loss_before": losses["trl"][0],
        "loss_after_updates": losses["trl"][UPDATES],
        "loss_difference": loss_apart,
        "holds": apart / largest <= H_TOLERANCE and loss_apart <= LOSS_TOLERANCE,
    }


def cpu_seconds(run: Callable[[], Any]) -> float:
    start = time.process_time()
    run()
    return time.process_time() - start


def time_rounds(sides: dict[str, Side], rounds: int) -> dict[str, list[float]]:
    """CPU seconds of one update, alternately on each side and each round beginning with the other one."""
    seconds: dict[str, list[float]] = {k: [] for k in sides}
    for r in range(rounds):
        for name in list(sides)[:: 1 if r % 2 else -1]:
            seconds[name].append(cpu_seconds(sides[name].update))
    return seconds


def product_rate() -> float:
    """Floating-point operations a second of a product of two 1024 x 1024 float32 matrices, the best of ten."""
    a, b, out = (torch.ones(1024, 1024) for _ in range(3))
    return 2 * 1024**3 / min(cpu_seconds(lambda: torch.mm(a, b, out=out)) for _ in range(10))


def least_operations(case: Case) -> float:
    """Products of forward and both gradients: linear layers and causal attention for each prompt and each response
    token once, the head for each response token once and without recomputing anything."""
    pairs = build_pairs(case)
    responses = [side.length - PROMPT for side in (pairs.first, pairs.second)]
    response_tokens = int(sum(x.sum() for x in responses))
    tokens = PAIRS * PROMPT + response_tokens
    linear = LAYERS * (4 * WIDTH * WIDTH + 3 * WIDTH * INNER)
    scores = PAIRS * PROMPT**2 / 2 + sum(float((x * (PROMPT + x / 2)).sum()) for x in responses)
    return 6.0 * (tokens * linear + LAYERS * 2 * WIDTH * scores + response_tokens * case.vocabulary * WIDTH)


def measure_memory(case: Case, side: str) -> dict[str, float]:
    """Peak resident memory of a process of its own that makes three updates, in GiB: in all, and above its start."""
    command = [sys.executable, __file__, "--memory", side, "--case", case.name]
    answer = subprocess.run(command, check=True, capture_output=True, text=True)
    return json.loads(answer.stdout.splitlines()[-1])


def memory_child(case: Case, side: str) -> None:
    """Print what `measure_memory` reads. The start is after imports, models and the cached reference log-probs."""
    contestant = SIDES[side](case)
    start = resident("VmRSS")
    for _ in range(UPDATES):
        contestant.update()
    peak = resident("VmHWM")
    print(json.dumps({"peak_gib": peak, "above_start_gib": peak - start}))


def resident(which: str) -> float:
    """Resident memory of this process in GiB, now (VmRSS) or at its peak (VmHWM); `getrusage` gives a parent's too."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(x.split()[1]) for x in lines if x.startswith(which)) / 2**20


def compare(case: Case, rounds: int) -> dict[str, Any]:
    """Everything about one case."""
    sides = {name: build(case) for name, build in SIDES.items()}
    agreed = agreement(case, sides)
    seconds = time_rounds(sides, rounds)
    ratios = [a / b for a, b in zip(seconds["steersman"], seconds["trl"], strict=True)]
    pairs = build_pairs(case)
    return {
        "case": case.name,
        "vocabulary": case.vocabulary,
        "ragged": case.ragged,
        "real_tokens": int(pairs.first.length.sum() + pairs.second.length.sum()),
        "response_tokens": int(pairs.first.action.sum() + pairs.second.action.sum()),
        "agreement": agreed,
        "seconds": seconds,
        "ratio": statistics.median(ratios),
        "ratio_low": min(ratios),
        "ratio_high": max(ratios),
        "limit_operations": least_operations(case),
        "memory": {name: measure_memory(case, name) for name in SIDES},
    }


def verdict(row: dict[str, Any]) -> str:
    """Whether the full-length case keeps its limits; ragged ones have none of their own."""
    if not row["agreement"]["holds"]:
        return "void"
    if row["ragged"]:
        return ""
    fast = row["ratio"] <= LIMITS[row["vocabulary"]]
    small = row["memory"]["steersman"]["peak_gib"] <= MEMORY_LIMIT_GIB
    return "holds" if fast and small else "missed"


def show(rows: list[dict[str, Any]], rate: float) -> None:
    """The table, and what it says of real tokens."""
    from rich.console import Console
    from rich.table import Table

    console = Console(width=max(150, Console().width))
    table = Table(title=f"One DPO update on one thread; arithmetic limit at {rate / 1e9:.0f} GFLOP/s")
    columns = ("case", "ours ms", "TRL ms", "ratio (range)", "limit ms", "ours/limit", "GiB ours", "GiB TRL")
    for name in (*columns, "h apart", "loss apart", "verdict"):
        table.add_column(name, justify="left" if name in ("case", "verdict") else "right")
    for row in rows:
        ours, trl = (1e3 * statistics.median(row["seconds"][k]) for k in SIDES)
        limit = 1e3 * row["limit_operations"] / rate
        spread = f"{row['ratio']:.2f} ({row['ratio_low']:.2f}-{row['ratio_high']:.2f})"
        memory = (f"{row['memory'][k]['peak_gib']:.2f}" for k in SIDES)
        h, loss = row["agreement"]["h_difference_relative"], row["agreement"]["loss_difference"]
        cells = (row["case"], f"{ours:.0f}", f"{trl:.0f}", spread, f"{limit:.0f}", f"{ours / limit:.2f}", *memory)
        table.add_row(*cells, f"{h:.0e}", f"{loss:.0e}", verdict(row))
    console.print(table)
    for vocabulary in LIMITS:
        both = {r["ragged"]: r for r in rows if r["vocabulary"] == vocabulary}
        if len(both) == 2:
            share = {k: both[True][k] / both[False][k] for k in ("real_tokens", "response_tokens")}
            middle = {k: [statistics.median(both[r]["seconds"][k]) for r in (True, False)] for k in SIDES}
            took = {k: ragged / full for k, (ragged, full) in middle.items()}
            console.print(
                f"Vocabulary {vocabulary:,}: the ragged batch has {share['real_tokens']:.2f} of the tokens and "
                f"{share['response_tokens']:.2f} of the response tokens of the full one. It takes "
                f"{took['steersman']:.2f} of our time and {took['trl']:.2f} of TRL's."
            )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=7, help="timed updates of each side and case")
    parser.add_argument("--case", choices=[c.name for c in CASES], help="only this case")
    parser.add_argument("--memory", choices=SIDES, help=argparse.SUPPRESS)
    options = parser.parse_args()
    cases = [c for c in CASES if options.case in (None, c.name)]
    if options.memory:
        memory_child(cases[0], options.memory)
        return 0
    rows = []
    for case in cases:
        print(f"{case.name} ...", file=sys.stderr)
        rows.append(compare(case, options.rounds))
    rate = product_rate()
    show(rows, rate)
    machine = {
        "machine": platform.processor() or platform.machine(),
        "load": os.getloadavg(),
        "torch": torch.__version__,
    }
    versions = {name: version(name) for name in ("steersman", "trl", "transformers")}
    result = {"format": 1, **machine, **versions, "operations_a_second": rate, "cases": rows}
    (HERE / "results").mkdir(exist_ok=True)
    (HERE / "results" / "dpo.json").write_text(json.dumps(result, indent=1) + "\n")
    print(f"written to {HERE / 'results' / 'dpo.json'}; load average {machine['load'][0]:.1f}")
    if any(verdict(row) == "void" for row in rows):
        print("void: the two sides do not compute the same thing")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
