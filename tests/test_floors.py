"""The order of the rooms: a room imports only rooms that stand before it."""

import ast
from pathlib import Path

import pytest

import steersman

FLOORS = [
    "core",
    "store",
    "stats",
    "page",
    "objective",
    "policy",
    "language",
    "reward",
    "task",
    "train",
    "offline",
    "control",
    "decide",
    "assure",
    "recipes",
    "study",
    "studies",
    "cli",
]
ROOT = Path(steersman.__file__).parent


def imported_rooms(path: Path) -> set[str]:
    """Rooms that a file imports, wherever in the file the import stands."""
    rooms = set()
    for node in ast.walk(ast.parse(path.read_text())):
        names = []
        if isinstance(node, ast.Import):
            names = [a.name for a in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: relative import"
            names = [f"{node.module}.{a.name}" for a in node.names]
        rooms |= {n.split(".")[1] for n in names if n.startswith("steersman.")}
    return rooms & set(FLOORS)


def test_every_folder_is_a_named_room() -> None:
    rooms = {p.name for p in ROOT.iterdir() if p.is_dir() and p.name != "__pycache__"}
    assert rooms <= set(FLOORS)


@pytest.mark.parametrize("path", sorted(ROOT.rglob("*.py")), ids=lambda p: p.relative_to(ROOT).as_posix())
def test_imports_point_down(path: Path) -> None:
    place = path.relative_to(ROOT).parts
    if len(place) == 1:
        return
    allowed = set(FLOORS[: FLOORS.index(place[0]) + 1])
    assert imported_rooms(path) <= allowed


def test_an_upward_import_would_be_seen(tmp_path: Path) -> None:
    bad = tmp_path / "bad.py"
    bad.write_text("def f():\n    from steersman.study.plan import plan\n")
    assert imported_rooms(bad) == {"study"}


@pytest.mark.parametrize("path", sorted(ROOT.rglob("*.py")), ids=lambda p: p.relative_to(ROOT).as_posix())
def test_nothing_unsafe_and_no_global_seeding(path: Path) -> None:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            assert not {a.name for a in node.names} & {"pickle", "joblib", "dill"}
        if isinstance(node, ast.ImportFrom):
            assert node.module not in {"pickle", "joblib", "dill"}
        if isinstance(node, ast.Call):
            called = ast.unparse(node.func)
            assert called not in {"eval", "exec", "torch.manual_seed", "np.random.seed", "random.seed"}, called
            if called == "torch.load":
                assert any(k.arg == "weights_only" and ast.unparse(k.value) == "True" for k in node.keywords)
