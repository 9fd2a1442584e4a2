"""Checkpoints come back bit by bit, and a damaged one is refused by name."""

import errno
import json
import math
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from steersman.core.errors import CorruptFile, RunStopped
from steersman.store import checkpoint, files
from steersman.store.checkpoint import (
    drop_after,
    flatten,
    latest_checkpoint,
    list_checkpoints,
    load_checkpoint,
    load_optimizer_state,
    newest_intact,
    optimizer_state,
    restore,
    save_checkpoint,
    step_of,
)


def same(a: Any, b: Any) -> bool:
    """Equal bit by bit, types and shapes included; tuples may have become lists."""
    if isinstance(a, torch.Tensor):
        if not isinstance(b, torch.Tensor) or (a.dtype, a.shape) != (b.dtype, b.shape):
            return False
        x, y = a.detach().contiguous(), b.contiguous()
        return bytes(x.flatten().view(torch.uint8)) == bytes(y.flatten().view(torch.uint8)) if a.numel() else True
    if isinstance(a, dict):
        return isinstance(b, dict) and a.keys() == b.keys() and all(same(v, b[k]) for k, v in a.items())
    if isinstance(a, list | tuple):
        return isinstance(b, list) and len(a) == len(b) and all(map(same, a, b))
    if isinstance(a, float) and math.isnan(a):
        return isinstance(b, float) and math.isnan(b)
    return type(a) is type(b) and a == b


def hard_state() -> dict[str, Any]:
    base = torch.arange(24.0)
    weight = torch.nn.Parameter(torch.randn(3, 4, generator=torch.Generator().manual_seed(0)))
    return {
        "bf16": torch.tensor([1.0, -0.0, math.nan, math.inf, 1e-40]).bfloat16(),
        "half": torch.tensor([1.0, 65504.0]).half(),
        "double": torch.tensor([0.1, -0.0, math.nan], dtype=torch.float64),
        "int64": torch.tensor([2**62, -1]),
        "int32": torch.tensor([7], dtype=torch.int32),
        "uint8": torch.arange(256).to(torch.uint8),
        "bool": torch.tensor([[True], [False]]),
        "empty": torch.zeros(0, 3),
        "empty too": torch.zeros(0, dtype=torch.int64),
        "scalar": torch.tensor(3.25),
        "parameter": weight,
        "view of it": weight[1],
        "same again": weight,
        "part": base[3:7],
        "overlapping part": base[5:9],
        "transposed": base.reshape(4, 6).T,
        "strided": base[::5],
        "expanded": torch.tensor([1.0]).expand(4),
        "nested": {"list": [torch.ones(2), {"x": torch.zeros(1)}, (1, 2.5, None, "é", True, math.nan)], "none": None},
        "empties": [{}, [], ""],
        "numbers": {"big": 2**80, "inf": math.inf, "tiny": 5e-324},
    }


def test_a_hard_state_comes_back_bit_by_bit(tmp_path: Path) -> None:
    state = hard_state()
    folder = save_checkpoint(tmp_path, 12, state)
    assert folder.name == "step-00000012"
    step, back = load_checkpoint(folder)
    assert step == 12
    assert same(state, back)
    assert same(hard_state(), back), "saving must not touch the state"
    back["same again"].zero_()
    assert back["parameter"].abs().sum() > 0, "restored tensors must not share memory"


COLLIDING = {
    "a/b": torch.tensor([1.0]),
    "a": {"b": torch.tensor([2.0]), "": torch.tensor([3.0])},
    "a~1b": torch.tensor([4.0]),
    "a~b": torch.tensor([5.0]),
    "": {"": torch.tensor([6.0]), "x": torch.tensor([7.0])},
    "/x": torch.tensor([8.0]),
    "x": torch.tensor([9.0]),
    "list": [torch.tensor([10.0])],
    "list/0": torch.tensor([11.0]),
    "$tensor": torch.tensor([12.0]),
    "$$tensor": "text",
    "reference": {"$tensor": "/x"},
    "escaped": {"$$tensor": torch.tensor([13.0])},
    "float": {"$float": "nan"},
    "__metadata__": torch.tensor([14.0]),
    "$": 1,
}


def test_keys_that_look_like_paths_or_tags(tmp_path: Path) -> None:
    assert same(COLLIDING, load_checkpoint(save_checkpoint(tmp_path, 0, COLLIDING))[1])


def test_the_order_of_keys_comes_back(tmp_path: Path) -> None:
    state = {"z": 1, "a": {"y": torch.ones(1), "b": 2}, "$k": 3}
    _, back = load_checkpoint(save_checkpoint(tmp_path, 0, state))
    assert (list(back), list(back["a"])) == (["z", "a", "$k"], ["y", "b"])


KEYS = st.sampled_from(["a", "b", "/", "~", "a/b", "~1", "", "0", "1", "$tensor", "$$tensor", "$float", "$x"])
LEAVES = st.integers(0, 9).map(lambda i: torch.tensor([i])) | st.sampled_from([None, 1, 0.5, "text", "/a"])
STATES = st.dictionaries(
    KEYS,
    st.recursive(LEAVES, lambda s: st.lists(s, max_size=3) | st.dictionaries(KEYS, s, max_size=3), max_leaves=10),
    max_size=4,
)


@given(STATES)
def test_flatten_and_restore_are_inverse(state: dict[str, Any]) -> None:
    tensors, tree = flatten(state)
    assert same(state, restore(tensors, files.untag(json.loads(json.dumps(files.tag(tree))))))


def test_two_keys_with_one_text_are_a_bug() -> None:
    with pytest.raises(TypeError, match="two keys of a state are both 1"):
        flatten({"x": {1: 2, "1": 3}})


def trained(steps: int, model: torch.nn.Linear, optimizer: torch.optim.Optimizer) -> None:
    for step in range(steps):
        x = torch.randn(5, 3, generator=torch.Generator().manual_seed(step))
        model(x).square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()


def learner() -> tuple[torch.nn.Linear, torch.optim.AdamW]:
    model = torch.nn.Linear(3, 2)
    with torch.no_grad():
        for p in model.parameters():
            p.copy_(torch.linspace(-1, 1, p.numel()).reshape(p.shape))
    groups = [{"params": [model.weight], "weight_decay": 0.1}, {"params": [model.bias], "weight_decay": 0.0}]
    return model, torch.optim.AdamW(groups, lr=0.1, betas=(0.8, 0.95), fused=True)


def test_an_optimiser_goes_on_bit_by_bit(tmp_path: Path) -> None:
    model, optimizer = learner()
    trained(3, model, optimizer)
    state = {"model": dict(model.named_parameters()), "optimiser": optimizer_state(optimizer)}
    _, back = load_checkpoint(save_checkpoint(tmp_path, 3, state))
    other, fresh = learner()
    with torch.no_grad():
        for name, p in other.named_parameters():
            p.copy_(back["model"][name])
    load_optimizer_state(fresh, back["optimiser"])
    trained(4, model, optimizer)
    trained(4, other, fresh)
    assert same(model.state_dict(), dict(other.state_dict()))
    assert same(optimizer_state(optimizer)["state"], optimizer_state(fresh)["state"])
    assert fresh.param_groups[0]["betas"] == (0.8, 0.95)
    assert [g["weight_decay"] for g in fresh.param_groups] == [0.1, 0.0]


def three(root: Path) -> list[Path]:
    return [save_checkpoint(root, s, {"x": torch.full((50,), float(s))}, keep=3) for s in (1, 2, 3)]


def truncate(folder: Path) -> None:
    data = (folder / "tensors.safetensors").read_bytes()
    (folder / "tensors.safetensors").write_bytes(data[:-7])


def alter(folder: Path) -> None:
    data = bytearray((folder / "tensors.safetensors").read_bytes())
    data[-1] ^= 1
    (folder / "tensors.safetensors").write_bytes(bytes(data))


def rewrite(**changes: Any) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        manifest = json.loads((folder / "manifest.json").read_text()) | changes
        (folder / "manifest.json").write_text(json.dumps({k: v for k, v in manifest.items() if v is not None}))

    return change


def text(content: str) -> Callable[[Path], None]:
    return lambda folder: (folder / "manifest.json").write_text(content) and None


DAMAGE = {
    "truncated": (truncate, "tensors.safetensors", "bytes, its manifest says"),
    "altered": (alter, "tensors.safetensors", "was altered"),
    "file missing": (lambda f: (f / "state.json").unlink(), "state.json", "is missing"),
    "manifest missing": (lambda f: (f / "manifest.json").unlink(), "manifest.json", "does not exist"),
    "manifest garbled": (text('{"format": 1, "st'), "manifest.json", "is not valid JSON"),
    "manifest of another kind": (text("[1, 2]"), "manifest.json", "is not a manifest"),
    "manifest without files": (rewrite(files=None), "manifest.json", "is not a manifest"),
    "manifest without a step": (rewrite(step=None), "manifest.json", "is not a manifest"),
    "manifest that forgets a file": (rewrite(files={}), "manifest.json", "is not a manifest"),
    "format of another kind": (rewrite(format="soup"), "manifest.json", "is not a manifest"),
    "newer": (rewrite(format=checkpoint.FORMAT + 1), "", "has format 2, this version reads up to 1"),
}


@pytest.mark.parametrize("name", DAMAGE)
def test_damage_is_named_and_the_previous_one_offered(tmp_path: Path, name: str) -> None:
    damage, file, what = DAMAGE[name]
    folders = three(tmp_path)
    damage(folders[2])
    with pytest.raises(CorruptFile) as caught:
        load_checkpoint(folders[2])
    assert what in caught.value.what
    assert caught.value.where == str(folders[2] / file)
    assert f"--resume {folders[1]}" in caught.value.cure
    assert ("Upgrade steersman." in caught.value.cure) == (name == "newer")
    assert newest_intact(tmp_path) == folders[1]
    damage(folders[1])
    with pytest.raises(CorruptFile, match=f"--resume {folders[0]}"):
        load_checkpoint(folders[2])
    damage(folders[0])
    with pytest.raises(CorruptFile, match="No older checkpoint is valid"):
        load_checkpoint(folders[2])
    assert newest_intact(tmp_path) is None


def test_only_older_ones_are_offered(tmp_path: Path) -> None:
    folders = three(tmp_path)
    alter(folders[0])
    with pytest.raises(CorruptFile, match="No older checkpoint is valid"):
        load_checkpoint(folders[0])


def test_a_tree_that_does_not_fit_its_tensors(tmp_path: Path) -> None:
    folder = save_checkpoint(tmp_path, 1, {"x": torch.ones(1)})
    files.write_json(folder / "state.json", {"x": {"$tensor": "/y"}})
    entry = {"bytes": os.path.getsize(folder / "state.json"), "sha256": files.sha256(folder / "state.json")}
    manifest = json.loads((folder / "manifest.json").read_text())
    rewrite(files=manifest["files"] | {"state.json": entry})(folder)
    with pytest.raises(CorruptFile, match="cannot be read"):
        load_checkpoint(folder)


@pytest.mark.parametrize("keep", [1, 2, 5])
def test_only_the_newest_are_kept(tmp_path: Path, keep: int) -> None:
    for step in (3, 10, 7, 12):
        save_checkpoint(tmp_path, step, {"x": step}, keep=keep)
    found = list_checkpoints(tmp_path)
    assert [step_of(p) for p in found] == sorted((3, 10, 7, 12))[-keep:]
    assert latest_checkpoint(tmp_path) == found[-1]


def test_there_may_be_none(tmp_path: Path) -> None:
    assert list_checkpoints(tmp_path / "x") == []
    assert latest_checkpoint(tmp_path) is newest_intact(tmp_path) is None


def test_a_folder_without_a_manifest_does_not_exist(tmp_path: Path) -> None:
    folders = three(tmp_path)
    (folders[2] / "manifest.json").unlink()
    assert list_checkpoints(tmp_path) == folders[:2]


def test_forgetting_what_lies_ahead(tmp_path: Path) -> None:
    folders = three(tmp_path)
    (folders[2] / "manifest.json").unlink()
    drop_after(tmp_path, 1)
    assert sorted(tmp_path.iterdir()) == folders[:1]
    drop_after(tmp_path, -1)
    assert sorted(tmp_path.iterdir()) == []
    drop_after(tmp_path / "none", 3)


@pytest.mark.parametrize("writes", [0, 1, 2])
def test_a_full_disk_leaves_the_older_ones(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, writes: int) -> None:
    folders = three(tmp_path)
    real, left = os.replace, [writes]

    def replace(a: Any, b: Any) -> None:
        if not left[0]:
            raise OSError(errno.ENOSPC, "full")
        left[0] -= 1
        real(a, b)

    monkeypatch.setattr(files.os, "replace", replace)
    with pytest.raises(RunStopped, match="the disk is full"):
        save_checkpoint(tmp_path, 4, {"x": torch.ones(3)}, keep=1)
    assert list_checkpoints(tmp_path) == folders
    assert load_checkpoint(folders[2])[0] == 3
    monkeypatch.undo()
    assert load_checkpoint(save_checkpoint(tmp_path, 4, {"x": 1}, keep=1)) == (4, {"x": 1})


def test_saving_a_step_again_replaces_it(tmp_path: Path) -> None:
    save_checkpoint(tmp_path, 1, {"x": 1})
    folder = save_checkpoint(tmp_path, 1, {"x": 2})
    assert load_checkpoint(folder) == (1, {"x": 2})
