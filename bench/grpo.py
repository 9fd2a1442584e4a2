"""GRPO step: Steersman against TRL's `GRPOTrainer` on the same weights, tokens and optimiser.

Run by `make bench-grpo`, on one CPU thread. A 4-layer Llama; 8 prompts of 32 tokens with 8 completions of 64 tokens
each: width 128 in float32 at vocabularies of 1,024 and 32,768, and width 512 in bfloat16. No completion can end before
its 64 tokens, so both sides always do the same work. `--gpu` is the same at the shape of a 0.5B model in bfloat16 on
one CUDA device, by the clock, with the memory that growing batches take.

Timed apart, alternately on each side: *decode* (completions from prompts), *log-prob* (those of the drawn tokens before
the update, as several updates of a batch need them) and *update* (forward, clipped loss, backward, gradient clipping,
AdamW). A step is all three; where a batch serves one update neither side needs the log-prob part, and the limits hold
for both sums. Rewards, data loader, logging and callbacks are left out on both sides, which favours TRL. Its memory is
that of a process of its own that makes two steps.

The comparison is void (exit code 1) unless both sides agree on each completion's log-prob to 1e-5, on every advantage
to 1e-5 and on the loss after three updates on fixed completions to 1e-4; and unless the log-probs that our decoder
recorded are TRL's to 1e-4 on every token. A completion's log-prob is a sum in float64 of single tokens, and differences
are relative to the largest of the batch (see dpo.py). In bfloat16 both forwards round to 8 bits; there 2^-8 takes the
place of each bound but that of the advantages, and what the decoder recorded is held to it in the mean, relative to a
token's share of the largest.

The arithmetic limit is the matrix products that each part cannot do without, at the rate of a large product of the same
type on the same machine: every prompt once, every completion token once, the head for completion tokens only.
"""

import argparse
import gc
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
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

os.environ.update(OMP_NUM_THREADS="1", MKL_NUM_THREADS="1", HF_HUB_OFFLINE="1", TQDM_DISABLE="1", WANDB_DISABLED="true")

import torch
from torch import Tensor

from steersman.core import noise
from steersman.core.types import Rollouts

torch.set_num_threads(1)
warnings.filterwarnings("ignore")

HERE = Path(__file__).parent
PROMPTS, COMPLETIONS, PROMPT, NEW = 8, 8, 32, 64
EPS, ADVANTAGE_EPS, LEARNING_RATE, CLIP, UPDATES = 0.2, 1e-4, 1e-4, 1.0, 3
TOLERANCE, LOSS_TOLERANCE, GAP_TOLERANCE, HALF = 1e-5, 1e-4, 1e-4, 2.0**-8
STEP_LIMITS, DECODE_LIMITS = {1024: 0.65, 32768: 0.25}, {1024: 2.0, 32768: 4.0}
MEMORY_LIMIT_GIB = 1.3
PARTS = ("decode", "log-prob", "update")
CURVE = (8, 16, 32, 64, 128, 256)
"""Prompts of the batches of the memory curve."""


@dataclass(frozen=True)
class Case:
    name: str
    vocabulary: int
    width: int = 128
    layers: int = 4
    heads: int = 4
    kv_heads: int = 4
    inner: int = 344
    half: bool = False
    gpu: bool = False
    prompts: int = PROMPTS

    @property
    def dtype(self) -> torch.dtype:
        return torch.bfloat16 if self.half else torch.float32

    @property
    def device(self) -> str:
        return "cuda" if self.gpu else "cpu"

    @property
    def rows(self) -> int:
        return self.prompts * COMPLETIONS


CASES = [
    Case("1,024", 1024),
    Case("32,768", 32768),
    Case("1,024 width 512 bf16", 1024, width=512, heads=8, kv_heads=8, inner=1376, half=True),
]
LARGE = Case(
    "0.5B bf16", 151_936, width=896, layers=24, heads=14, kv_heads=2, inner=4864, half=True, gpu=True
)  # the shape of Qwen2.5-0.5B, with weights from noise


def build_model(case: Case) -> Any:
    """The Llama of the comparison; the end-of-sequence id lies one past the vocabulary, so it is never drawn."""
    from transformers import LlamaConfig, LlamaForCausalLM, logging

    logging.set_verbosity_error()  # it would warn of just that id
    size = {"hidden_size": case.width, "num_hidden_layers": case.layers, "intermediate_size": case.inner}
    heads = {"num_attention_heads": case.heads, "num_key_value_heads": case.kv_heads, "tie_word_embeddings": case.gpu}
    config = LlamaConfig(vocab_size=case.vocabulary, pad_token_id=0, eos_token_id=case.vocabulary, **size, **heads)
    model = LlamaForCausalLM(config)
    deviation = 0.05 if case.width == 128 else 0.02
    noise.normal_([(k, p) for k, p in model.named_parameters() if p.ndim > 1], deviation, 0, "weights")
    return model.to(case.device, case.dtype)


def build_prompts(case: Case) -> list[list[int]]:
    return noise.generator(0, "tokens").integers(2, case.vocabulary, (case.prompts, PROMPT)).tolist()


def reward(completion: list[int]) -> float:
    """Share of even tokens: any function of the tokens would do."""
    return sum(t % 2 == 0 for t in completion) / len(completion)


@dataclass
class Side:
    """One contestant; `prepare` comes before `log_probs` and `update`.

    Args:
        decode: draws completions for the prompts and returns how many tokens.
        prepare: takes the completions that both sides learn from; returns their advantages ``[N]``.
        log_probs: of their tokens ``[N, NEW]``, without gradients.
        update: makes one optimiser step and returns its loss.
    """

    decode: Callable[[], int]
    prepare: Callable[[Rollouts], Tensor]
    log_probs: Callable[[], Tensor]
    update: Callable[[], float]


def draw(model: Any, case: Case) -> Rollouts:
    """The completions that both sides learn from."""
    from steersman.language.decode import generate

    return generate(
        model,
        build_prompts(case),
        max_new_tokens=NEW,
        stop_ids=case.vocabulary,
        seed=0,
        samples_per_prompt=COMPLETIONS,
        pad_id=0,
    )


def steersman_side(case: Case) -> Side:
    from steersman.core.component import Moment
    from steersman.objective.advantage.group import grpo
    from steersman.objective.components import Aggregation
    from steersman.objective.components_policy import Clipped
    from steersman.task.world import Prompts
    from steersman.train.engine.local import LocalEngine
    from steersman.train.engine.work import Drawing, Job
    from steersman.train.optimise import AdamW, Optimiser
    from steersman.train.terms import policy_term

    policy = build_model(case)
    optimiser = Optimiser(policy.named_parameters(), AdamW(lr=LEARNING_RATE, clip=CLIP), total_steps=1)
    engine = LocalEngine(policy, optimiser)
    ids = tuple(tuple(p) for p in build_prompts(case))
    prompts = Prompts(ids, torch.arange(case.prompts), tuple({"id": i} for i in range(case.prompts)))
    drawing = Drawing(COMPLETIONS, NEW, (case.vocabulary,))
    term = policy_term(Clipped(eps_low=EPS, eps_high=EPS), Aggregation(mode="seq_mean_token_mean"))
    policy_only = frozenset({"policy"})
    held: dict[str, Rollouts] = {}

    def decode() -> int:
        return int(engine.sample(prompts, drawing, Moment(0, 0, 1), 1).action.sum())

    def log_probs() -> Tensor:
        return engine.score(held["rows"], "policy", ("logp",))["logp"][:, PROMPT:]

    def prepare(rows: Rollouts) -> Tensor:
        score = torch.tensor([reward(x) for x in rows.ids[:, PROMPT:].tolist()])
        advantage = grpo(score, rows.group, eps=ADVANTAGE_EPS)
        held["rows"] = rows
        old = torch.nn.functional.pad(log_probs(), (PROMPT, 0))
        each = torch.where(rows.action, advantage[:, None], 0.0)
        held["rows"] = rows.with_streams(logp_old=old, advantage=each)
        return advantage

    def update() -> float:
        loss = engine.accumulate([Job(held["rows"], (term,))], policy_only)["loss/policy"]
        engine.apply(0, policy_only)
        return float(loss)

    return Side(decode, prepare, log_probs, update)


def trl_side(case: Case) -> Side:
    from datasets import Dataset, disable_progress_bars
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast
    from trl import GRPOConfig, GRPOTrainer

    class Given(GRPOTrainer):
        """The trainer with prompts as ids, and with completions that are given where there are some."""

        completions: list[list[int]] | None = None

        def _tokenize_prompts(self, prompts: list[Any]) -> tuple[Any, ...]:
            return [[int(t) for t in p.split()] for p in prompts], None, {}

        def _generate_single_turn(self, prompt_ids: Any, *args: Any, **options: Any) -> tuple[Any, ...]:
            if self.completions is None:
                return super()._generate_single_turn(prompt_ids, *args, **options)
            return self.completions, None

        def _prepare_inputs(self, inputs: Any) -> Any:
            return inputs  # they are ready

    disable_progress_bars()
    texts = [" ".join(map(str, p)) for p in build_prompts(case)]
    words = Tokenizer(models.WordLevel({"<pad>": 0, "</s>": case.vocabulary}, unk_token="<pad>"))
    scratch = tempfile.TemporaryDirectory()
    config = GRPOConfig(
        output_dir=scratch.name, use_cpu=not case.gpu, per_device_train_batch_size=case.rows, bf16=False,
        num_generations=COMPLETIONS, max_completion_length=NEW, num_iterations=2, beta=0.0, epsilon=EPS,
        loss_type="grpo", learning_rate=LEARNING_RATE, weight_decay=0.0, max_grad_norm=CLIP,
        gradient_checkpointing=False, report_to=[], lr_scheduler_type="constant",
    )  # fmt: skip
    trainer = Given(
        build_model(case),
        lambda completion_ids, **_: [reward(x) for x in completion_ids],
        config,
        train_dataset=Dataset.from_dict({"prompt": texts}),
        processing_class=PreTrainedTokenizerFast(tokenizer_object=words, pad_token="<pad>", eos_token="</s>"),
    )
    optimizer = trainer.create_optimizer()
    trainer.model.train()
    trainer.current_gradient_accumulation_steps = 1  # what `train()` would have set
    batch = [{"prompt": text} for text in texts for _ in range(COMPLETIONS)]
    prompt_ids = [p for p in build_prompts(case) for _ in range(COMPLETIONS)]
    held: dict[str, Any] = {}

    def decode() -> int:
        trainer.completions = None
        return sum(map(len, trainer._generate_single_turn(prompt_ids, None, {}, COMPLETIONS)[0]))

    def prepare(rows: Rollouts) -> Tensor:
        trainer.completions = rows.ids[:, PROMPT:].tolist()
        held["inputs"] = trainer._generate_and_score_completions(batch)
        return held["inputs"]["advantages"].cpu()

    def log_probs() -> Tensor:
        x = held["inputs"]
        ids, mask = (torch.cat([x[f"prompt_{k}"], x[f"completion_{k}"]], 1) for k in ("ids", "mask"))
        with torch.no_grad():
            return trainer._get_per_token_logps_and_entropies(trainer.model, ids, mask, NEW, batch_size=case.rows)[0]

    def update() -> float:
        loss = trainer.training_step(trainer.model, dict(held["inputs"]), None)
        torch.nn.utils.clip_grad_norm_(trainer.model.parameters(), CLIP)
        optimizer.step()
        optimizer.zero_grad()
        trainer._metrics["train"].clear()
        return float(loss)

    update.scratch = scratch  # type: ignore[attr-defined]  # removed with the side
    return Side(decode, prepare, log_probs, update)


SIDES = {"steersman": steersman_side, "trl": trl_side}


def agreement(case: Case, sides: dict[str, Side], rows: Rollouts) -> dict[str, float | bool]:
    """The conditions under which the comparison means something; makes four updates on each side."""
    drawn = {k: side.decode() for k, side in sides.items()}
    advantage = {k: side.prepare(rows).double() for k, side in sides.items()}
    logp = {k: side.log_probs().double().cpu() for k, side in sides.items()}
    losses = {k: [side.update() for _ in range(UPDATES + 1)] for k, side in sides.items()}
    whole = {k: x.sum(1) for k, x in logp.items()}
    largest = float(whole["trl"].abs().max())
    apart = float((whole["steersman"] - whole["trl"]).abs().max())
    assert rows.logp_behaviour is not None
    decoder = (rows.logp_behaviour[:, PROMPT:] - logp["trl"]).abs()
    found = {
        "tokens_drawn_steersman": drawn["steersman"],
        "tokens_drawn_trl": drawn["trl"],
        "logp_difference_nats": apart,
        "logp_difference_relative": apart / largest,
        "logp_largest": largest,
        "decoder_difference_nats": float(decoder.max()),
        "decoder_difference_mean": float(decoder.mean()),
        "advantage_difference": float((advantage["steersman"] - advantage["trl"]).abs().max()),
        "advantage_largest": float(advantage["trl"].abs().max()),
        "loss_before": losses["trl"][0],
        "loss_after_updates": losses["trl"][UPDATES],
        "loss_difference": abs(losses["steersman"][UPDATES] - losses["trl"][UPDATES]),
    }
    bounds = {
        "logp_difference_relative": HALF if case.half else TOLERANCE,
        **(
            {"decoder_difference_mean": HALF * largest / NEW}
            if case.half
            else {"decoder_difference_nats": GAP_TOLERANCE}
        ),
        "advantage_difference": TOLERANCE,
        "loss_difference": HALF if case.half else LOSS_TOLERANCE,
    }
    same_work = set(drawn.values()) == {case.rows * NEW}
    return found | {"holds": same_work and all(found[k] <= bound for k, bound in bounds.items())}


def seconds_of(run: Callable[[], Any], gpu: bool) -> float:
    """CPU seconds of this process; on a GPU those of the clock, until the device has finished."""
    if gpu:
        torch.cuda.synchronize()
    clock = time.perf_counter if gpu else time.process_time
    start = clock()
    run()
    if gpu:
        torch.cuda.synchronize()
    return clock() - start


def time_rounds(sides: dict[str, Side], rounds: int, gpu: bool) -> dict[str, dict[str, list[float]]]:
    """Seconds of each part on each side, in rounds that begin with the one and the other side by turns."""
    seconds: dict[str, dict[str, list[float]]] = {k: {p: [] for p in PARTS} for k in sides}
    for r in range(rounds):
        for part in PARTS:
            for name in list(sides)[:: 1 if r % 2 else -1]:
                side = sides[name]
                run = {"decode": side.decode, "log-prob": side.log_probs, "update": side.update}[part]
                seconds[name][part].append(seconds_of(run, gpu))
    return seconds


def product_rate(case: Case) -> float:
    """Floating-point operations a second of a large square product, the best of ten."""
    n = 8192 if case.gpu else 1024
    a, b, out = (torch.ones(n, n, dtype=case.dtype, device=case.device) for _ in range(3))
    return 2 * n**3 / min(seconds_of(lambda: torch.mm(a, b, out=out), case.gpu) for _ in range(10))


def least_operations(case: Case) -> dict[str, float]:
    """Products of each part: linear layers and causal attention for each prompt and each completion token once, the
    head for each completion token once; an update has those of the forward three times."""
    prompt, new = case.prompts * PROMPT, case.rows * NEW
    kv = case.width * case.kv_heads // case.heads
    linear = case.layers * (2 * case.width**2 + 2 * case.width * kv + 3 * case.width * case.inner)
    scores = case.prompts * PROMPT**2 / 2 + case.rows * NEW * (PROMPT + NEW / 2)
    attention, head = case.layers * 2 * case.width * scores, new * case.vocabulary * case.width
    forward = 2.0 * ((prompt + new) * linear + attention + head)
    # the last token drawn is never run
    return {"decode": forward - 2.0 * case.rows * linear, "log-prob": forward, "update": 3 * forward}


def measure_memory(case: Case, side: str) -> float | None:
    """Peak memory in GiB of a process of its own that makes two steps; None = there was not enough."""
    which = ["--gpu"] if case.gpu else ["--case", case.name]
    command = [sys.executable, __file__, "--memory", side, *which, "--prompts", str(case.prompts)]
    answer = subprocess.run(command, capture_output=True, text=True)
    if answer.returncode:
        if "OutOfMemoryError" in answer.stderr:
            return None
        raise RuntimeError(answer.stderr)
    return json.loads(answer.stdout.splitlines()[-1])["peak_gib"]


def memory_child(case: Case, side: str) -> None:
    """Print what `measure_memory` reads: resident memory on a CPU, that of the allocator on a GPU."""
    contestant = SIDES[side](case)
    rng = noise.generator(0, "completions")
    ids = torch.from_numpy(rng.integers(2, case.vocabulary, (case.rows, PROMPT + NEW)))
    ids[:, :PROMPT] = torch.tensor(build_prompts(case)).repeat_interleave(COMPLETIONS, 0)
    length = torch.full((case.rows,), PROMPT)
    group = torch.arange(case.prompts).repeat_interleave(COMPLETIONS)
    contestant.prepare(Rollouts.of(ids, length + NEW, length, group=group))
    for _ in range(2):
        contestant.decode()
        contestant.log_probs()
        contestant.update()
    print(json.dumps({"peak_gib": torch.cuda.max_memory_allocated() / 2**30 if case.gpu else resident()}))


def resident() -> float:
    """Peak resident memory of this process in GiB; `getrusage` gives a parent's too."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(x.split()[1]) for x in lines if x.startswith("VmHWM")) / 2**20


def compare(case: Case, rounds: int) -> dict[str, Any]:
    """Everything about one case."""
    rows = draw(build_model(case), case)
    sides = {name: build(case) for name, build in SIDES.items()}
    agreed = agreement(case, sides, rows)
    seconds = time_rounds(sides, rounds, case.gpu)
    rate = product_rate(case)
    del sides
    curve = [replace(case, prompts=n) for n in CURVE] if case.gpu else []
    gc.collect()  # a trainer refers to itself
    if case.gpu:
        torch.cuda.empty_cache()
    return {
        "case": case.name,
        "vocabulary": case.vocabulary,
        "width": case.width,
        "type": str(case.dtype).removeprefix("torch."),
        "limits_apply": case in CASES[:2],
        "agreement": agreed,
        "seconds": seconds,
        "middle": {k: {p: middle(s, (p,)) for p in PARTS} for k, s in seconds.items()},
        "ratio": {p: ratio(seconds, (p,)) for p in PARTS}
        | {"step": ratio(seconds, PARTS), "step of one update": ratio(seconds, ("decode", "update"))},
        "operations_a_second": rate,
        "limit_seconds": {k: n / rate for k, n in least_operations(case).items()},
        "memory_gib": {name: measure_memory(case, name) for name in SIDES},
        "memory_curve_gib": {str(c.rows): {name: measure_memory(c, name) for name in SIDES} for c in curve},
    }


def middle(seconds: dict[str, list[float]], parts: tuple[str, ...]) -> float:
    """Median over rounds of the sum of some parts."""
    return statistics.median(map(sum, zip(*(seconds[p] for p in parts), strict=True)))


def ratio(seconds: dict[str, dict[str, list[float]]], parts: tuple[str, ...]) -> list[float]:
    """Our time over TRL's: median, least and largest of the rounds."""
    rounds = zip(*(map(sum, zip(*(seconds[k][p] for p in parts), strict=True)) for k in SIDES), strict=True)
    each = [ours / trl for ours, trl in rounds]
    return [statistics.median(each), min(each), max(each)]


def verdict(row: dict[str, Any]) -> str:
    """Whether a case keeps its limits; those without limits only have to agree."""
    if not row["agreement"]["holds"]:
        return "void"
    if not row["limits_apply"]:
        return ""
    vocabulary = row["vocabulary"]
    step = max(row["ratio"]["step"][0], row["ratio"]["step of one update"][0]) <= STEP_LIMITS[vocabulary]
    decode = row["ratio"]["decode"][0] <= 1 / DECODE_LIMITS[vocabulary]
    small = row["memory_gib"]["steersman"] <= MEMORY_LIMIT_GIB
    missed = [n for n, kept in (("step", step), ("decode", decode), ("memory", small)) if not kept]
    return f"missed: {', '.join(missed)}" if missed else "holds"


def show(rows: list[dict[str, Any]]) -> None:
    """A table of parts for every case, and what the two sides agree on."""
    from rich.console import Console
    from rich.table import Table

    console = Console(width=max(120, Console().width))
    for row in rows:
        rate = row["operations_a_second"] / 1e9
        table = Table(
            title=f"Vocabulary {row['case']}: one GRPO step; limits at {rate:,.0f} GFLOP/s", title_justify="left"
        )
        for name in ("part", "ours ms", "TRL ms", "ours/TRL (range)", "TRL/ours", "limit ms", "ours/limit"):
            table.add_column(name, justify="left" if name == "part" else "right")
        for part, of in {**{p: (p,) for p in PARTS}, "step": PARTS, "step of one update": PARTS[::2]}.items():
            ours, trl = (1e3 * middle(row["seconds"][k], of) for k in SIDES)
            limit = 1e3 * sum(row["limit_seconds"][p] for p in of)
            m, low, high = row["ratio"][part]
            cells = (f"{ours:.1f}", f"{trl:.1f}", f"{m:.2f} ({low:.2f}-{high:.2f})", f"{1 / m:.2f}")
            table.add_row(part, *cells, f"{limit:.1f}", f"{ours / limit:.2f}")
        console.print(table)
        a, memory = row["agreement"], row["memory_gib"]
        console.print(
            f"Apart: log-prob {a['logp_difference_relative']:.0e} of the largest, "
            f"decoder's {a['decoder_difference_nats']:.0e} nats (mean {a['decoder_difference_mean']:.0e}), "
            f"advantage {a['advantage_difference']:.0e}, loss {a['loss_difference']:.0e} of "
            f"{a['loss_after_updates']:.3f}. Peak GiB: {gib(memory)}. {verdict(row)}"
        )
        for size, both in row["memory_curve_gib"].items():
            console.print(f"  {size} rows: {gib(both)}")
        console.print()


def gib(memory: dict[str, float | None]) -> str:
    words = {k: "not enough memory" if x is None else f"{x:.2f}" for k, x in memory.items()}
    return f"ours {words['steersman']}, TRL {words['trl']}"


def machine(gpu: bool) -> dict[str, Any]:
    """The conditions of the figures."""
    versions = {name: version(name) for name in ("steersman", "trl", "transformers")}
    name = torch.cuda.get_device_name() if gpu else platform.processor() or platform.machine()
    clock = "wall clock" if gpu else "CPU time of one thread"
    return {"machine": name, "clock": clock, "load": os.getloadavg(), "torch": torch.__version__, **versions}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=7, help="timed steps of each side and case")
    parser.add_argument("--case", choices=[c.name for c in CASES], help="only this case")
    parser.add_argument("--gpu", action="store_true", help="the shape of a 0.5B model on one CUDA device")
    parser.add_argument("--memory", choices=SIDES, help=argparse.SUPPRESS)
    parser.add_argument("--prompts", type=int, default=PROMPTS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.gpu and not torch.cuda.is_available():
        print("--gpu needs a CUDA device; torch finds none here", file=sys.stderr)
        return 2
    cases = [LARGE] if options.gpu else [c for c in CASES if options.case in (None, c.name)]
    if options.memory:
        memory_child(replace(cases[0], prompts=options.prompts), options.memory)
        return 0
    rows = []
    for case in cases:
        print(f"{case.name} ...", file=sys.stderr)
        rows.append(compare(case, options.rounds))
    show(rows)
    result = {"format": 1, **machine(options.gpu), "cases": rows}
    (HERE / "results").mkdir(exist_ok=True)
    path = HERE / "results" / ("grpo-gpu.json" if options.gpu else "grpo.json")
    path.write_text(json.dumps(result, indent=1) + "\n")
    print(f"written to {path}; load average {result['load'][0]:.1f}")
    if any(verdict(row) == "void" for row in rows):
        print("void: the two sides do not compute the same thing")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
