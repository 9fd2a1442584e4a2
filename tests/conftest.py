"""Shared by all tests: shapes in annotations are checked with beartype, torch uses one thread, and the surroundings of
whoever started the tests (a dumb terminal, Ctrl-C ignored in the background) do not reach them."""

import os
import signal

# A shell that starts the tests in the background makes them ignore Ctrl-C, and so would every program they start.
signal.signal(signal.SIGINT, signal.default_int_handler)
os.environ["TERM"] = "xterm-256color"

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

from jaxtyping import install_import_hook  # noqa: E402

install_import_hook(["steersman.core.types", "steersman.objective"], "beartype.beartype")

import torch  # noqa: E402

torch.set_num_threads(1)
