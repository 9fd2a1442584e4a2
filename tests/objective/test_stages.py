"""One union names every stage by kind, in any order; each stage survives a step that leaves no row."""

import math
from typing import get_args

import pytest
import torch
from pydantic import TypeAdapter, ValidationError

from steersman.core.component import Stage, check_pipeline
from steersman.core.types import Rollouts
from steersman.objective.stages import AnyStage

DAPO = [
    {"kind": "dynamic_sampling"},
    {"kind": "overlong"},
    {"kind": "overlong_filter"},
    {"kind": "grpo"},
    {"kind": "uniform"},
    {"kind": "importance", "mode": "token_truncate", "high": 2.0},
    {"kind": "off_policy_mask", "delta": 0.1},
    {"kind": "top_entropy", "keep": 0.5},
]


def leaves(union):
    """Classes of a union of unions."""
    return [union] if isinstance(union, type) else [c for a in get_args(union) for c in leaves(a)]


STAGES = leaves(AnyStage)


def concrete(cls):
    below = {x for sub in cls.__subclasses__() for x in concrete(sub)}
    return below | ({cls} if "kind" in cls.model_fields else set())


def rollouts(n=8):
    """Two groups of four with right and wrong answers of two to five tokens, and every stream that stages read."""
    position = torch.arange(n * 6.0).view(n, 6)
    names = (
        "logp_old",
        "logp_ref",
        "entropy",
        "value",
        "advantage",
        "divergence",
        "logp_teacher",
        "logp_teacher_wrong",
    )
    streams = {name: (position + i).cos() - 2 for i, name in enumerate(names)}
    streams |= {"value_end": position[:, 0], "advantage_row": position[:, 0], "entropy_prompt": position[:, 0]}
    streams |= {"hidden_prompt": position[:, :3], "hidden_reasoning": position[:, 1:4]}
    streams["entropy"] = -streams["entropy"]  # no entropy is negative
    correct = torch.arange(n) % 2 == 0
    return Rollouts.of(
        torch.zeros(n, 6, dtype=torch.int64),
        3 + torch.arange(n) % 4,
        torch.ones(n, dtype=torch.int64),
        group=torch.arange(n) // 4,
        stop=torch.arange(n) % 2,
        reward=correct.float(),
        correct=correct,
        answer=tuple("AB"[int(c)] for c in correct),
        logp_behaviour=streams["logp_old"] - 0.1,
        streams=streams,
    )


def test_no_stage_is_left_out():
    ours = {c for c in concrete(Stage) if c.__module__.startswith("steersman.objective")}
    assert set(STAGES) == ours
    assert len({c.model_fields["kind"].default for c in STAGES}) == len(STAGES)


@pytest.mark.parametrize("cls", STAGES, ids=lambda c: c.__name__)
def test_kinds_go_round(cls):
    adapter, stage = TypeAdapter(AnyStage), cls()
    assert adapter.validate_python({"kind": stage.kind}) == stage
    assert type(adapter.validate_json(adapter.dump_json(stage))) is cls


def test_a_wrong_kind_lists_the_others():
    with pytest.raises(ValidationError, match=r"'grpoo'.*'dynamic_sampling'.*'importance'"):
        TypeAdapter(AnyStage).validate_python({"kind": "grpoo"})


@pytest.mark.parametrize("cls", STAGES, ids=lambda c: c.__name__)
def test_a_step_without_rows(cls):
    out, metrics = cls()(rollouts().index(torch.zeros(8, dtype=torch.bool)))
    assert len(out) == 0
    assert out.ids.shape == (0, 6)
    assert all(out.streams[name].shape[0] == 0 for name in cls().gives)
    assert all(math.isfinite(x) for x in metrics.values())


@pytest.mark.parametrize("cls", STAGES, ids=lambda c: c.__name__)
def test_stages_give_what_they_say_and_no_more(cls):
    """Every stage writes the streams it gives, reads only those it needs, and leaves its input as it was."""
    stage, batch = cls(), rollouts()
    few = {k: batch.streams[k] for k in (*stage.needs, *(p.stream for p in stage.passes()))}
    given = Rollouts.of(
        batch.ids,
        batch.length,
        batch.prompt_length,
        **{k: getattr(batch, k) for k in ("group", "stop", "reward", *stage.fields)},
        streams=few,
    )
    out, _ = stage(given)
    assert set(out.streams) == set(few) | set(stage.gives)
    assert given.streams == few


def test_a_whole_list_runs_in_the_order_written():
    stages = TypeAdapter(list[AnyStage]).validate_python(DAPO)
    assert {"advantage", "token_weight"} <= check_pipeline(stages, ["logp_old", "entropy"])
    batch = rollouts()
    for stage in stages:
        batch, metrics = stage(batch)
    assert len(batch) == 8
    assert metrics["tokens_out"] == math.ceil(metrics["tokens_in"] / 2)
    assert metrics["rows_in"] == 4  # the cut rows have weight 0
