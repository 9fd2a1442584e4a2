"""Two real processes over gloo do what one does: scores, samples, steps, checkpoints, and failing together."""

import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import distributed_cases as cases
import pytest
import torch
from torch import Tensor

from steersman.core.errors import CorruptFile, UserError
from steersman.core.types import Scores
from steersman.reward.code import CODE_STATUSES
from steersman.reward.verifiable import Graded
from steersman.store.checkpoint import load_checkpoint, save_checkpoint
from steersman.store.run import RunDir
from steersman.train.engine import wire
from steersman.train.engine.distributed import engine_for, launched, start
from steersman.train.optimise import Optimiser

SCORES = 2e-6
"""Log-probs, entropies, values, hidden states before a step, in float32: other rows share the products."""
PARAMETERS_MAX, PARAMETERS_MEAN = 1e-6, 1e-8
"""Parameters after four steps that moved them by up to 1e-2."""
MOMENTS = 1e-6
METRICS = 1e-5
"""Metrics of a step, relative to 1 or their size."""
MOVED = 1e-3
"""A run moves its parameters by more than this, so that the tolerances above say something."""
SECONDS = 280
SCRIPT = Path(cases.__file__)


def local(*models: Any, **options: Any) -> Any:
    return engine_for(None, *models, **options)


def processes(what: str, folder: Path) -> list[subprocess.CompletedProcess[str]]:
    """Two processes with torchrun's environment on a free port of the loopback interface, to their end."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    plain = {k: v for k, v in os.environ.items() if not k.startswith("TORCHELASTIC")}
    shared = plain | {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": "2", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(SCRIPT), what, str(folder)]
    started = [
        subprocess.Popen(command, env=shared | {"RANK": rank, "LOCAL_RANK": rank}, stderr=subprocess.PIPE, text=True)
        for rank in ("0", "1")
    ]
    try:
        errors = [p.communicate(timeout=SECONDS)[1] for p in started]
    finally:
        for p in started:
            p.kill()
    return [subprocess.CompletedProcess(command, p.returncode, "", e) for p, e in zip(started, errors, strict=True)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The script's results beside what one process gave it: a checkpoint of two steps and half a run."""
    folder = tmp_path_factory.mktemp("two")
    engine = cases.full(local)
    cases.course(engine, 0, 2)
    save_checkpoint(folder / "from_one", 2, engine.state_dict())
    cases.looped(cases.full(local), folder / "half", steps=2)
    for name in cases.METHODS:
        drawn: dict[str, Any] = {}
        out = cases.rl_loop(name, local, drawn)
        save_checkpoint(folder / name, 0, drawn)
        save_checkpoint(folder / f"{name} one", 0, out)
    ended = processes("compare", folder)
    assert [p.returncode for p in ended] == [0, 0], ended[0].stderr + ended[1].stderr
    return folder


@pytest.fixture(scope="module")
def two(folder: Path) -> Any:
    return load_checkpoint(folder / "out" / "step-00000000")[1]


@pytest.fixture(scope="module")
def one() -> dict[str, Any]:
    """The same work in this process."""
    out = {}
    for name, build in cases.ENGINES.items():
        engine = build(local)
        first = {k: p.detach().clone() for k, p in engine.policy.named_parameters()}
        out[name] = {"first": first, "before": cases.scored(engine, cases.rollouts()), "drawn": cases.sampled(engine)}
        out[name] |= cases.course(engine) | {"drawn after": cases.sampled(engine)}
        out[name]["whole"] = {k: p.detach() for k, p in engine.whole("policy").named_parameters()}
    return out


def leaves(state: Any, at: str = "") -> Iterator[tuple[str, Any]]:
    """Every value of a nested state with its place."""
    items = state.items() if isinstance(state, dict) else enumerate(state) if isinstance(state, list | tuple) else None
    if items is None:
        yield at, state
        return
    for k, v in items:
        yield from leaves(v, f"{at}/{k}")


def assert_close(found: Any, wanted: Any, most: float, mean: float | None = None) -> None:
    """Two nested states agree: tensors to `most` at every place and `mean` on average, everything else exactly."""
    a, b = dict(leaves(found)), dict(leaves(wanted))
    assert a.keys() == b.keys()
    gaps = []
    for place, x in a.items():
        y = b[place]
        if isinstance(x, Tensor) and x.is_floating_point():
            assert (x.shape, x.dtype) == (y.shape, y.dtype), place
            gap = (x.double() - y.double()).abs()
            assert float(gap.max()) <= most, (place, float(gap.max()))
            gaps.append(gap.flatten())
        else:
            assert torch.equal(x, y) if isinstance(x, Tensor) else x == y, (place, x, y)
    if mean is not None:
        assert float(torch.cat(gaps).mean()) <= mean


def assert_equal(found: Any, wanted: Any) -> None:
    assert_close(found, wanted, 0.0)


@pytest.fixture(params=list(cases.ENGINES))
def name(request: pytest.FixtureRequest) -> str:
    return request.param


def test_scores_are_those_of_one_process(one: Any, two: Any, name: str) -> None:
    assert_close(two[name]["before"], one[name]["before"], SCORES)


def test_a_step_on_fewer_rows_than_processes_too(one: Any, two: Any, name: str) -> None:
    assert len(one[name]["one"]["logp"]) == 1
    assert_close(two[name]["one"], one[name]["one"], 10 * SCORES)


def test_parameters_after_steps_are_those_of_one_process(one: Any, two: Any, name: str) -> None:
    found, wanted = two[name]["state"]["models"], one[name]["state"]["models"]
    assert_close(found, wanted, PARAMETERS_MAX, PARAMETERS_MEAN)
    for k, x in wanted["policy"].items():
        assert float((x - one[name]["first"][k]).abs().max()) > MOVED, k


def test_optimiser_state_is_that_of_one_process(one: Any, two: Any, name: str) -> None:
    assert_close(two[name]["state"]["optimisers"], one[name]["state"]["optimisers"], MOMENTS)


def test_metrics_are_those_of_one_process(one: Any, two: Any, name: str) -> None:
    for found, wanted in zip(two[name]["metrics"], one[name]["metrics"], strict=True):
        assert found.keys() == wanted.keys()
        for k, x in wanted.items():
            assert found[k] == pytest.approx(x, rel=METRICS, abs=METRICS), k
    assert any(m["clip_low"] + m["clip_high"] > 0 for m in one[name]["metrics"])
    # some steps are clipped and some are not
    assert {m["grad_norm"] > cases.ADAMW.clip for n in cases.ENGINES for m in one[n]["metrics"]} == {True, False}


def test_the_same_tokens_are_drawn_before_and_after_training(one: Any, two: Any, name: str) -> None:
    for when in ("drawn", "drawn after"):
        assert_close(two[name][when], one[name][when], 10 * SCORES)


def test_the_whole_model_for_saving_has_every_weight(one: Any, two: Any, name: str) -> None:
    assert_close(two[name]["whole"], one[name]["whole"], PARAMETERS_MAX, PARAMETERS_MEAN)
    trained = two[name]["state"]["models"]["policy"]
    assert_equal({k: two[name]["whole"][k] for k in trained}, trained)


def test_all_processes_hold_the_same(two: Any) -> None:
    assert two["same"] is True


def test_grades_are_joined_in_order(two: Any) -> None:
    wanted = cases.shared(cases.full(local))
    assert two["shared"]["values"] == wanted["values"]
    assert two["shared"]["none"] == wanted["none"] == []
    grades = two["shared"]["grades"]
    assert torch.equal(grades["value"].nan_to_num(-1), wanted["grades"]["value"].nan_to_num(-1))
    assert torch.equal(grades["correct"], wanted["grades"]["correct"])
    assert grades["answer"] == wanted["grades"]["answer"]
    assert grades["errors"] == wanted["grades"]["errors"]


def test_what_one_process_raises_all_raise(two: Any) -> None:
    user, stopped, bug, differ = two["errors"]
    assert user[0] == user[1] == f"UserError: {cases.ERRORS['user']()}"
    assert "Mend it." in user[0]
    assert stopped[0] == stopped[1] == "RunStopped: the grader broke"
    assert bug == ["RunStopped: process 1 failed: KeyError: 'x'", "KeyError: 'x'"]
    assert differ[0] == differ[1]
    assert differ[0].startswith("RunStopped: the processes of the run hold different numbers")


def test_a_checkpoint_of_two_goes_on_in_one(one: Any, two: Any) -> None:
    engine = cases.full(local)
    engine.load_state_dict(two["two"]["state"])
    assert_equal(cases.after(engine)["state"], two["two"]["state"])
    rest = cases.course(engine, 2)
    assert_close(rest["state"]["models"], one["full"]["state"]["models"], PARAMETERS_MAX, PARAMETERS_MEAN)


def test_a_checkpoint_of_one_goes_on_in_two(folder: Path, one: Any, two: Any) -> None:
    given = load_checkpoint(folder / "from_one" / "step-00000002")[1]
    assert_equal(two["from one"]["state"], given)
    engine = cases.full(local)
    engine.load_state_dict(given)
    assert_close(two["from one"]["scores"], cases.scored(engine, cases.rollouts()), SCORES)
    found, wanted = two["from one"]["rest"]["state"]["models"], one["full"]["state"]["models"]
    assert_close(found, wanted, PARAMETERS_MAX, PARAMETERS_MEAN)


def test_a_run_writes_once_and_resumes_with_another_number_of_processes(folder: Path, two: Any, tmp_path: Path) -> None:
    fitted = cases.looped(cases.full(local), tmp_path / "run")
    for run in (folder / "run", folder / "half"):
        found, wanted = RunDir(run).read("metrics"), RunDir(tmp_path / "run").read("metrics")
        assert [r["step"] for r in found] == [r["step"] for r in wanted]
        for a, b in zip(found, wanted, strict=True):
            assert a == pytest.approx(b, rel=METRICS, abs=METRICS)
        last = load_checkpoint(run / "ckpt" / "step-00000004")[1]["learner"]["engine"]["models"]
        mine = load_checkpoint(tmp_path / "run" / "ckpt" / "step-00000004")[1]["learner"]["engine"]["models"]
        assert_close(last, mine, PARAMETERS_MAX, PARAMETERS_MEAN)
    assert two["fitted"][:2] == [fitted.steps, fitted.best_step]
    assert not list(folder.glob("run/**/.*"))


@pytest.mark.parametrize("name", cases.METHODS)
def test_the_rl_loop_on_the_same_responses_goes_the_same_way(folder: Path, two: Any, name: str) -> None:
    one = load_checkpoint(folder / f"{name} one" / "step-00000000")[1]
    assert_close(two["loop"][name]["state"]["models"], one["state"]["models"], PARAMETERS_MAX, PARAMETERS_MEAN)
    for found, wanted in zip(two["loop"][name]["metrics"], one["metrics"], strict=True):
        assert found == pytest.approx(wanted, rel=METRICS, abs=METRICS)


def test_a_failure_while_others_compute_ends_all_with_its_message(tmp_path: Path) -> None:
    for ended in processes("fail", tmp_path):
        assert ended.returncode == 1
        assert "RunStopped: the disk of this process is full" in ended.stderr


def test_a_killed_process_ends_the_others(tmp_path: Path) -> None:
    left, killed = processes("die", tmp_path)
    assert killed.returncode == 9
    assert left.returncode == 1
    assert "another process of the run ended without saying why" in left.stderr


def test_processes_must_have_been_started_by_torchrun(monkeypatch: pytest.MonkeyPatch) -> None:
    for k in ("RANK", "WORLD_SIZE"):
        monkeypatch.delenv(k, raising=False)
    assert not launched()
    with pytest.raises(UserError, match="torchrun --standalone"), start():
        pass


def test_messages_hold_nothing_but_data() -> None:
    value = {"a": [1, float("-inf"), None, "x", torch.tensor([1.5]), {"$float": "nan"}], "$tensor": {"b": True}}
    found = wire.unpack(wire.pack(value))
    assert torch.equal(found["a"].pop(4), torch.tensor([1.5]))
    assert found == {"a": [1, float("-inf"), None, "x", {"$float": "nan"}], "$tensor": {"b": True}}
    graded = Graded(Scores(torch.tensor([0.5]), torch.tensor([True])), ("f",), {0: "late"}, CODE_STATUSES)
    again = wire.unpack(wire.pack([graded]))[0]
    assert (again.answer, again.reasons, again.statuses) == (("f",), {0: "late"}, CODE_STATUSES)
    with pytest.raises(TypeError):
        wire.pack({"a": object()})


def test_errors_come_back_as_what_they_were() -> None:
    for error in (UserError("a", where="b", allowed="c", cure="d"), CorruptFile("a", where="b")):
        found = wire.revive(wire.describe(error), 1)
        assert type(found) is type(error)
        assert str(found) == str(error)


def test_an_optimiser_that_has_made_steps_is_refused() -> None:
    from steersman.train.engine.distributed import _names

    model = cases.language_model()
    optimiser = Optimiser(model.named_parameters(), cases.ADAMW, 2)
    next(model.parameters()).grad = torch.zeros_like(next(model.parameters()))
    optimiser.apply(0)
    with pytest.raises(UserError, match="made steps already"):
        _names(model, optimiser)
