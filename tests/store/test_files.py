"""Atomic writes under failure, JSON with NaN, and hashes of contents."""

import errno
import json
import math
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from steersman.core.errors import CorruptFile, RunStopped, UserError
from steersman.store import files
from steersman.store.files import (
    canonical,
    content_hash,
    digest,
    read_json,
    sha256,
    tag,
    untag,
    write_bytes,
    write_json,
)

FILE_LIMIT = 4096
"""Bytes a child process may write to one file; stands in for a full disk."""


def names(folder: Path) -> list[str]:
    return sorted(p.name for p in folder.iterdir())


def test_a_write_makes_its_folder_and_leaves_only_the_file(tmp_path: Path) -> None:
    write_bytes(tmp_path / "a" / "b" / "x.bin", b"new")
    write_bytes(tmp_path / "a" / "b" / "x.bin", b"newer")
    assert (tmp_path / "a" / "b" / "x.bin").read_bytes() == b"newer"
    assert names(tmp_path / "a" / "b") == ["x.bin"]


def failing(number: int) -> Callable[..., None]:
    def fail(*_: Any, **__: Any) -> None:
        raise OSError(number, os.strerror(number))

    return fail


@pytest.mark.parametrize("call", ["fsync", "replace", "chmod", "fdopen"])
@pytest.mark.parametrize(
    "number, why",
    [(errno.ENOSPC, "the disk is full"), (errno.EDQUOT, "the disk is full"), (errno.EACCES, "Permission")],
)
def test_a_failing_write_keeps_the_old_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str, number: int, why: str
) -> None:
    write_bytes(tmp_path / "x", b"old")
    monkeypatch.setattr(files.os, call, failing(number))
    with pytest.raises(RunStopped, match=rf"cannot write {tmp_path / 'x'}: {why}") as caught:
        write_bytes(tmp_path / "x", b"new")
    assert "run the same command again" in str(caught.value)
    assert (tmp_path / "x").read_bytes() == b"old"
    assert names(tmp_path) == ["x"]


def test_a_folder_that_refuses(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files.tempfile, "mkstemp", failing(errno.EACCES))
    with pytest.raises(RunStopped, match="Permission denied"):
        write_bytes(tmp_path / "x", b"new")
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(RunStopped, match="cannot write"):
        write_bytes(tmp_path / "file" / "x", b"new")


def test_an_interrupt_leaves_no_litter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(_: int) -> None:
        raise KeyboardInterrupt

    write_bytes(tmp_path / "x", b"old")
    monkeypatch.setattr(files.os, "fsync", interrupt)
    with pytest.raises(KeyboardInterrupt):
        write_bytes(tmp_path / "x", b"new")
    assert (tmp_path / "x").read_bytes() == b"old"
    assert names(tmp_path) == ["x"]


def test_a_write_cut_short_by_the_system(tmp_path: Path) -> None:
    write_bytes(tmp_path / "x", b"old")
    code = (
        "import resource, signal, sys; from pathlib import Path\n"
        "from steersman.store.files import write_bytes\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        f"resource.setrlimit(resource.RLIMIT_FSIZE, ({FILE_LIMIT}, {FILE_LIMIT}))\n"
        f"try: write_bytes(Path(sys.argv[1]), b'n' * {FILE_LIMIT * 10})\n"
        "except RuntimeError as error: print(error)\n"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "x")]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert f"cannot write {tmp_path / 'x'}: File too large" in done.stdout
    assert (tmp_path / "x").read_bytes() == b"old"
    assert names(tmp_path) == ["x"]


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters(exclude_categories=["Cs"])),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["a", "", "$float", "$$float", "$$$float", "$tensor", "é"]), inner, max_size=3
        )
    ),
    max_leaves=8,
)


def same(a: Any, b: Any) -> bool:
    """Equal in value and type; NaN equals NaN, and -0.0 is not 0.0."""
    if isinstance(a, float) and isinstance(b, float):
        return (math.isnan(a) and math.isnan(b)) or (a == b and math.copysign(1, a) == math.copysign(1, b))
    if isinstance(a, dict) and isinstance(b, dict):
        return a.keys() == b.keys() and all(same(v, b[k]) for k, v in a.items())
    if isinstance(a, list) and isinstance(b, list):
        return len(a) == len(b) and all(map(same, a, b))
    return type(a) is type(b) and a == b


@given(JSON)
def test_any_value_comes_back_through_json(value: Any) -> None:
    assert same(untag(json.loads(json.dumps(tag(value), allow_nan=False))), value)


def test_json_on_disk_is_strict_and_readable(tmp_path: Path) -> None:
    value = {"b": math.nan, "a": [math.inf, -math.inf, (1, 2)], 3: None}
    write_json(tmp_path / "v.json", value)
    text = (tmp_path / "v.json").read_text()
    assert json.loads(text, parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))
    assert same(read_json(tmp_path / "v.json"), {"b": math.nan, "a": [math.inf, -math.inf, [1, 2]], "3": None})
    write_json(tmp_path / "w.json", dict(sorted(value.items(), key=str)))
    assert (tmp_path / "w.json").read_text() == text


@pytest.mark.parametrize("data", [b"", b'{"a": 1', b"\xff", b'{"$float": "soup"}', b"[" * 100_000])
def test_unreadable_json_is_named(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "v.json").write_bytes(data)
    with pytest.raises(CorruptFile) as caught:
        read_json(tmp_path / "v.json")
    assert caught.value.where == str(tmp_path / "v.json")


def test_missing_huge_and_forbidden_json(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match="does not exist") as caught:
        read_json(tmp_path / "v.json")
    assert not isinstance(caught.value, CorruptFile)
    with pytest.raises(UserError, match="cannot be read"):
        read_json(tmp_path)
    write_json(tmp_path / "v.json", [1, 2, 3])
    monkeypatch.setattr(files, "MAX_JSON_BYTES", 3)
    with pytest.raises(CorruptFile, match="is larger than 3 bytes"):
        read_json(tmp_path / "v.json")


def test_canonical_text_is_pinned() -> None:
    """An identity on disk must mean the same tomorrow; a change here orphans every run folder."""
    value = {"b": [1, 1.0, True, None, "é"], "a": math.nan}
    assert canonical(value) == '{"a":{"$float":"nan"},"b":[1,1.0,true,null,"é"]}'
    assert canonical(dict(reversed(value.items()))) == canonical(value)
    assert digest(value) == "aee6712fbe578d90"
    assert digest(value, 8) == digest(value)[:8]
    assert len({digest(v) for v in (1, 1.0, True, "1", [1], None, {"1": 1}, math.inf, -math.inf)}) == 9


def folder(root: Path) -> Path:
    for name, text in (("a.txt", "one"), ("sub/b.txt", "two"), ("sub/deep/c.txt", "")):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return root


def test_a_contents_hash_forgets_the_place(tmp_path: Path) -> None:
    first, second = folder(tmp_path / "x"), folder(tmp_path / "somewhere" / "else")
    assert content_hash(first) == content_hash(second)
    os.utime(second / "a.txt", (0, 0))
    (second / "empty").mkdir()
    for hidden in (".hidden", ".git/config", "sub/.cache/x"):
        (second / hidden).parent.mkdir(exist_ok=True)
        (second / hidden).write_text("noise")
    assert content_hash(first) == content_hash(second)
    shutil.copy(first / "a.txt", tmp_path / "other.txt")
    assert content_hash(first / "a.txt") == content_hash(tmp_path / "other.txt") == sha256(first / "a.txt")[:16]


def test_a_hidden_folder_may_be_hashed_itself(tmp_path: Path) -> None:
    assert content_hash(folder(tmp_path / ".x")) == content_hash(folder(tmp_path / "x"))


@pytest.mark.parametrize(
    "change",
    [
        lambda d: (d / "a.txt").write_text("One"),
        lambda d: (d / "a.txt").rename(d / "z.txt"),
        lambda d: (d / "a.txt").rename(d / "sub" / "a.txt"),
        lambda d: (d / "sub/deep/c.txt").unlink(),
        lambda d: (d / "new").write_text(""),
        lambda d: [(d / n).write_text(t) for n, t in (("a.txt", "two"), ("sub/b.txt", "one"))],
    ],
)
def test_a_contents_hash_sees_every_change(tmp_path: Path, change: Callable[[Path], Any]) -> None:
    before = content_hash(folder(tmp_path / "x"))
    change(tmp_path / "x")
    assert content_hash(tmp_path / "x") != before


def test_nothing_has_no_hash(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="does not exist"):
        content_hash(tmp_path / "x")
