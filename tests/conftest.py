"""Shared by all tests: shapes in annotations are checked with beartype, and torch uses one thread."""

import os

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

from jaxtyping import install_import_hook

install_import_hook(["steersman.core.types", "steersman.objective"], "beartype.beartype")

import torch  # noqa: E402

torch.set_num_threads(1)
