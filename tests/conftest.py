"""Shared by all tests: shapes in annotations are checked with beartype, torch uses one thread, and the surroundings of
whoever started the tests (a dumb terminal, Ctrl-C ignored in the background) do not reach them."""

import os
import shutil
import signal

# A shell that starts the tests in the background makes them ignore Ctrl-C, and so would every program they start.
signal.signal(signal.SIGINT, signal.default_int_handler)
os.environ["TERM"] = "xterm-256color"

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

from jaxtyping import install_import_hook  # noqa: E402

install_import_hook(["steersman.core.types", "steersman.objective"], "beartype.beartype")

import pytest  # noqa: E402
import torch  # noqa: E402

torch.set_num_threads(1)

FLAGS = [
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync",
]  # fmt: skip
LOADED = "() => document.documentElement.classList.contains('js')"


@pytest.fixture(scope="session")
def browser():
    """A running chromium; tests that need one are skipped where there is none."""
    api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    chromium = shutil.which("chromium")
    if chromium is None:
        pytest.skip("no chromium on PATH")
    with api.sync_playwright() as driver:
        running = driver.chromium.launch(executable_path=chromium, args=FLAGS)
        yield running
        running.close()


@pytest.fixture
def open_page(browser):
    """Opens a page from disk; gives it and the list of its errors, warnings and requests for anything else."""

    def go(address, width=1280, scheme="light"):
        view = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)
        trouble = []
        view.on("console", lambda m: trouble.append(m.text) if m.type in ("error", "warning") else None)
        view.on("pageerror", lambda e: trouble.append(str(e)))
        view.on("dialog", lambda d: (trouble.append(d.message), d.dismiss()))
        own = lambda url: url == address or url.startswith("data:")  # noqa: E731
        view.on("request", lambda r: None if own(r.url) else trouble.append(r.url))
        view.goto(address)
        view.wait_for_function(LOADED)
        return view, trouble

    return go
