"""What test_distributed.py compares: the same work with an engine of one process and, run as a script, of several.

As a script: ``distributed_cases.py <what> <folder>``, started by torchrun or with its environment.
"""

import os
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import rl_toys
import torch
from tiny_language import END, FIRST, VOCABULARY, language_model, responses

from steersman.core import noise
from steersman.core.component import Form, Moment, Tail
from steersman.core.errors import RunStopped, UserError
from steersman.core.types import STOP_EOS, STOP_LENGTH, Rollouts, Scores
from steersman.language.capture import TailState
from steersman.language.sampler import Sampling
from steersman.objective.advantage.internal import PromptEnd, ReasoningEnd
from steersman.objective.components import Aggregation
from steersman.objective.components_policy import Clipped, ClippedValue, KLLoss
from steersman.reward.model import head_of
from steersman.reward.verifiable import Graded
from steersman.store.checkpoint import load_checkpoint, save_checkpoint
from steersman.store.rollouts import from_state, to_state
from steersman.store.run import RunDir
from steersman.task.world import Prompts
from steersman.train.engine.distributed import Processes, engine_for, start
from steersman.train.engine.work import Averaged, Drawing, Job
from steersman.train.loop import Budget, Habits, run_steps
from steersman.train.lora import add_lora
from steersman.train.optimise import AdamW, Optimiser
from steersman.train.passes import under
from steersman.train.terms import Against, kl_term, policy_term, value_term
from steersman.train.terms_distill import distill_term

# eps well above the noise of float32 gradients: AdamW divides by |gradient|, so rounding would decide about signs.
ADAMW = AdamW(lr=3e-3, eps=1e-4, weight_decay=0.1, clip=1.5)
STEPS = 4
ROWS = [[0, 1, 2, 3, 4, 5, 6, 7], [6, 3, 1, 0, 7], [4], [7, 2, 5]]
"""Rows of each step: even and uneven for two processes, and fewer than processes."""
BOTH = frozenset({"policy", "critic"})
PROMPTS = Prompts(((5, 9, 3), (8,), (1, 2, 3, 4, 5), (7, 7, 2)), torch.tensor([3, 1, 4, 2]), ({},) * 4)

Make = Callable[..., Any]
"""`engine_for` of some processes."""


def rollouts() -> Rollouts:
    """Eight rows of unequal length in three groups; one is invalid, some were cut."""
    made = responses(FIRST, 1)
    noises = {k: torch.from_numpy(noise.generator(5, k).normal(size=made.ids.shape)).float() for k in "ar"}
    streams = {"advantage": noises["a"] * made.action, "returns": noises["r"] * made.action}
    stop = torch.tensor([STOP_EOS, STOP_LENGTH] * 4)
    valid = torch.arange(8) != 5
    return replace(made, group=torch.tensor([4, 4, 4, 9, 9, 9, 2, 2]), streams=streams, stop=stop, valid=valid)


def critic() -> Any:
    from transformers import AutoModelForSequenceClassification

    config = language_model().config
    config.num_labels = 1
    with torch.random.fork_rng(devices=[]):
        model = AutoModelForSequenceClassification.from_config(config).eval()
    noise.normal_([(k, p) for k, p in model.named_parameters() if p.ndim > 1], 0.2, 0, "critic")
    noise.normal_([("head", head_of(model).weight)], 0.3, 0, "critic-head")
    return model


def bloom() -> Any:
    """Attention with biases, which runs padded: several calls of the trunk for rows of unequal length."""
    from transformers import BloomConfig, BloomForCausalLM

    with torch.random.fork_rng(devices=[]):
        model = BloomForCausalLM(BloomConfig(vocab_size=VOCABULARY, hidden_size=16, n_layer=2, n_head=2)).eval()
    noise.normal_([(k, p) for k, p in model.named_parameters() if p.ndim > 1], 0.15, 0, "bloom")
    return model


def full(make: Make) -> Any:
    """Policy with tied embeddings, reference and critic; micro-batches of a few rows."""
    policy, value = language_model(0), critic()
    return make(
        policy,
        Optimiser(policy.named_parameters(), ADAMW, STEPS),
        reference=language_model(1),
        critic=value,
        critic_optimiser=Optimiser(value.named_parameters(), ADAMW, STEPS),
        micro_tokens=24,
    )


def lora(make: Make) -> Any:
    """Adapters; the reference is the policy without them; layers are recomputed in the backward."""
    policy = add_lora(language_model(0), 2, 4.0, "all-linear", 0)
    noise.normal_([(k, p) for k, p in policy.named_parameters() if "lora_B" in k], 0.2, 0, "lora-b")
    inner = policy.get_base_model()
    (getattr(inner, "activation_checkpointing_enable", None) or inner.gradient_checkpointing_enable)()
    return make(policy, Optimiser(policy.named_parameters(), ADAMW, STEPS), micro_tokens=40)


def padded(make: Make) -> Any:
    """A model whose trunk runs padded."""
    policy = bloom()
    return make(policy, Optimiser(policy.named_parameters(), ADAMW, STEPS), reference=bloom(), micro_tokens=60)


ENGINES: dict[str, Callable[[Make], Any]] = {"full": full, "lora": lora, "padded": padded}


def told_more(rows: Rollouts) -> Rollouts:
    """The same responses behind longer prompts, each by another number of tokens."""
    before = [
        [*ids[:n], *range(1, 1 + n % 3)] for ids, n in zip(rows.ids.tolist(), rows.prompt_length.tolist(), strict=True)
    ]
    return under(rows, before)


AVERAGES = {
    "embedded": Averaged("hidden", 0, PromptEnd(3)),
    "middle": Averaged("hidden", 0.5, ReasoningEnd(3)),
    "spread": Averaged("entropy", None, PromptEnd(3, predicted=True)),
}
"""Averages over tokens, from hooks on layers that are sharded."""


def scored(engine: Any, rows: Rollouts) -> dict[str, Any]:
    """All that the models say of rows."""
    told = engine.score(rows, "policy", ["logp", "entropy", "hidden"], 0.7)
    averages = {name: engine.score(rows, "policy", [asked], 0.7)[asked] for name, asked in AVERAGES.items()}
    told |= averages
    told["logp_ref"] = engine.score(rows, "reference", ["logp"], 0.7)["logp"]
    told["far"] = engine.compare(rows, told_more(rows), "reference", [Form("jsd")], 0.7)[Form("jsd")]
    if engine.critic is not None:
        told |= engine.score(rows, "critic", ["value", "value_end"])
    return told


def step(engine: Any, number: int) -> dict[str, float]:
    """One optimiser step on fixed rollouts."""
    batch = rollouts()
    told = scored(engine, batch)
    known = {"logp_ref": told["logp_ref"], "logp_old": told["logp"] - 0.2 * batch.streams["advantage"]}
    terms = [policy_term(Clipped(), Aggregation()), kl_term(KLLoss(), Aggregation(mode="seq_mean_token_mean"))]
    terms.append(distill_term(Against("reference", len, Form("forward_kl")), Aggregation(), 0.05))
    if engine.critic is not None:
        known["value"] = told["value"]
        terms.append(value_term(ClippedValue(), 0.5))
    batch = replace(batch.with_streams(**known), logp_behaviour=told["logp"] + 0.01)
    rows = torch.tensor(ROWS[number])
    part = batch.index(rows)
    metrics = engine.accumulate([Job(part, tuple(terms), told_more(part))], BOTH, 0.7)
    metrics |= engine.apply(number, BOTH)
    return {k: float(v) for k, v in metrics.items()}


def course(engine: Any, first: int = 0, last: int = STEPS) -> dict[str, Any]:
    """Steps `first` to `last` and everything that can be seen of them."""
    metrics = [step(engine, i) for i in range(first, last)]
    few = rollouts().index(torch.tensor([2]))
    return {"metrics": metrics, "scores": scored(engine, rollouts()), "one": scored(engine, few)} | after(engine)


def after(engine: Any) -> dict[str, Any]:
    """What a checkpoint holds, copied."""
    state = engine.state_dict()
    return {"state": copied(state)} if engine.main else {}


def copied(state: Any) -> Any:
    if isinstance(state, dict):
        return {k: copied(v) for k, v in state.items()}
    return state.clone() if isinstance(state, torch.Tensor) else state


def sampled(engine: Any) -> list[Any]:
    """Responses to ragged prompts, to a single one, and greedily."""
    states = {
        "hidden_prompt": TailState(0, Tail("prompt", 2)),
        "hidden_reasoning": TailState(0.5, Tail("response", 3)),
    }
    some = Drawing(3, 6, (END,), Sampling(temperature=0.9), batch_tokens=40, states=states)
    one = Prompts(PROMPTS.ids[:1], PROMPTS.group[:1], PROMPTS.rows[:1])
    greedy = Drawing(1, 6, (END,), Sampling(temperature=0.0))
    drawn = [engine.sample(PROMPTS, some, Moment(5, 2), 5), engine.sample(one, some, Moment(5, 2), 5)]
    return [to_state(r) for r in [*drawn, engine.sample(PROMPTS, greedy, Moment(5, 2), 5)]]


def graded(part: range) -> list[Graded]:
    """One `Graded` for a share of the rows, with a failure and a number that is not finite."""
    value = torch.tensor([float("nan") if i == 1 else i / 4 for i in part])
    valid = torch.tensor([i != 1 for i in part])
    errors = {k: f"row {i}" for k, i in enumerate(part) if i == 1}
    scores = Scores(value, valid, {"correct": value > 0.5}, errors)
    return [Graded(scores, tuple(None if i == 2 else str(i) for i in part), dict.fromkeys(range(1), "why"))]


def shared(engine: Any) -> dict[str, Any]:
    """What processes tell each other of grading, as text."""
    values = engine.share(5, lambda part: [{"row": i, "score": float("inf"), "answer": None} for i in part])
    grades = engine.share(5, graded)
    joined = {
        "value": torch.cat([g.scores.value for g in grades]),
        "correct": torch.cat([g.scores.parts["correct"] for g in grades]),
        "answer": [a for g in grades for a in g.answer],
        "errors": [e for g in grades for e in g.scores.errors.values()],
    }
    return {"values": values, "grades": joined, "none": engine.share(0, lambda part: list(part))}


class Looped:
    """A learner of the loop of steps."""

    def __init__(self, engine: Any) -> None:
        self.engine = engine

    def evaluate(self) -> dict[str, float]:
        return {"logp": float(self.engine.score(rollouts(), "policy", ["logp"])["logp"].sum())}

    def state_dict(self) -> dict[str, Any]:
        return {"engine": self.engine.state_dict()}

    def load_state_dict(self, state: Any) -> None:
        self.engine.load_state_dict(state["engine"])


def looped(engine: Any, folder: Path, steps: int = STEPS) -> Any:
    """A run with metrics, evaluations, a best one and checkpoints; goes on where an earlier one stopped."""
    budget = Budget(steps=steps, best="logp")
    habits = Habits(log_every=1, evaluate_every=1, checkpoint_every=1)
    run = RunDir(folder, writes=engine.main)
    return run_steps(Looped(engine), lambda i: step(engine, i), steps, budget, run, habits)


METHODS = ("ppo", "dapo", "tip", "self-distil")


def rl_loop(name: str, make: Make, drawn: dict[str, Any]) -> dict[str, Any]:
    """Steps of the rl loop on responses that were drawn before; with none given it draws and keeps them in `drawn`."""
    learner = rl_toys.learner(name, micro=64)
    first = learner.engine
    options = {
        "reference": first.models.get("reference"),
        "critic": first.critic,
        "critic_optimiser": first.optimisers.get("critic"),
        "teacher": first.models.get("teacher"),
        "teacher_rate": first.teacher_rate,
    }
    learner.engine = make(first.policy, first.optimisers["policy"], micro_tokens=64, **options)
    known = {tuple(map(int, k.split())): from_state(x) for k, x in drawn.items()}
    if drawn:
        rl_toys.replay(learner.engine, known, lambda rows: rows)
    else:
        known = rl_toys.record(learner.engine)
    metrics = [{k: float(v) for k, v in learner.step(i).items()} for i in range(learner.total)]
    drawn |= {f"{step} {round_}": to_state(rows) for (step, round_), rows in known.items()}
    state = learner.state_dict()["engine"]
    return {"metrics": metrics} | ({"state": copied(state)} if learner.engine.main else {})


# What the script does.


def compare(processes: Processes, folder: Path) -> None:
    """Every comparison in one start; process 0 writes what it got, and that the others got the same."""

    def make(*models: Any, **options: Any) -> Any:
        return engine_for(processes, *models, **options)

    out: dict[str, Any] = {}
    for name, build in ENGINES.items():
        engine = build(make)
        out[name] = {"before": scored(engine, rollouts()), "drawn": sampled(engine)}
        out[name] |= course(engine)
        out[name]["drawn after"] = sampled(engine)
        model = engine.whole("policy")
        out[name]["whole"] = {k: p.detach() for k, p in model.named_parameters()} if engine.main else {}
    out["shared"] = shared(engine)
    out["errors"] = [caught(processes, lambda e=e: engine.share(4, failing(e))) for e in ERRORS]
    out["errors"].append(caught(processes, lambda: processes.agree("numbers", torch.tensor(processes.rank))))
    halfway, rest = full(make), full(make)
    course(halfway, 0, 2)
    out["two"] = after(halfway)
    step(rest, 0)
    scored(rest, rollouts())
    rest.load_state_dict(load_checkpoint(folder / "from_one" / "step-00000002")[1])
    out["from one"] = after(rest) | {"scores": scored(rest, rollouts()), "rest": course(rest, 2)}
    out["loop"] = {name: rl_loop(name, make, load_checkpoint(folder / name / "step-00000000")[1]) for name in METHODS}
    fitted = looped(full(make), folder / "run")
    looped(full(make), folder / "half")
    out["fitted"] = [fitted.steps, fitted.best_step, fitted.best_value]
    same = processes.gather(dict(stripped(out).items()))
    out["same"] = len({str(x) for x in same}) == 1
    if processes.rank == 0:
        save_checkpoint(folder / "out", 0, out)


def stripped(out: Any) -> Any:
    """What every process must have alike: not the state, which only process 0 has whole."""
    if isinstance(out, dict):
        return {k: stripped(v) for k, v in out.items() if k not in ("state", "whole")}
    if isinstance(out, torch.Tensor):
        return out.tolist()
    return [stripped(x) for x in out] if isinstance(out, list) else out


ERRORS = {
    "user": lambda: UserError("is wrong", where="row 3", allowed="right", cure="Mend it."),
    "stopped": lambda: RunStopped("the grader broke"),
    "bug": lambda: KeyError("x"),
}


def failing(kind: str) -> Callable[[range], list[Any]]:
    """Work that fails where item 3 is, in the last process."""

    def work(part: range) -> list[Any]:
        if 3 in part:
            raise ERRORS[kind]()
        return list(part)

    return work


def caught(processes: Processes, work: Callable[[], Any]) -> list[str]:
    """Class and message of what `work` raises in each process."""
    try:
        work()
    except Exception as error:
        return processes.gather(f"{type(error).__name__}: {error}")
    return processes.gather("nothing")


def fail(processes: Processes, folder: Path) -> None:
    """The last process fails while the others are in a forward."""
    engine = full(lambda *models, **options: engine_for(processes, *models, **options))
    step(engine, 0)
    if processes.rank == processes.size - 1:
        raise RunStopped("the disk of this process is full")
    step(engine, 1)


def die(processes: Processes, folder: Path) -> None:
    """The last process is killed while the others are in a forward."""
    engine = full(lambda *models, **options: engine_for(processes, *models, **options))
    if processes.rank == processes.size - 1:
        os._exit(9)
    step(engine, 0)


if __name__ == "__main__":
    torch.set_num_threads(1)
    try:
        with start("cpu", patience=300.0) as all_of_them:
            {"compare": compare, "fail": fail, "die": die}[sys.argv[1]](all_of_them, Path(sys.argv[2]))
    except (UserError, RunStopped) as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
