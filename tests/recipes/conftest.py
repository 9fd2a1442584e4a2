"""A tiny model folder and data files in every format, shared by the tests of recipes."""

import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "train"))
sys.path.insert(0, str(Path(__file__).parent))
from tiny_files import write


@pytest.fixture(scope="session")
def shop(tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    """Paths: model, pairs, completions, rated."""
    from steersman.language.build import SmallModel, build_model, train_tokenizer
    from steersman.language.save import save_model

    root = tmp_path_factory.mktemp("shop")
    tokenizer = train_tokenizer(["good bad film " * 5], 262)
    model = build_model(SmallModel(width=16, layers=1, heads=2, context=64), len(tokenizer), 0)
    pairs = [{"prompt": f"film {i % 4}", "chosen": f"good {i}", "rejected": f"bad film {i}"} for i in range(12)]
    completions = [{"prompt": p["prompt"], "completion": p["chosen"]} for p in pairs]
    rated = [c | {"label": i % 3 > 0} for i, c in enumerate(completions)]
    return SimpleNamespace(
        root=root,
        rows=pairs,
        model=save_model(model, tokenizer, root / "model"),
        pairs=write(root / "pairs.jsonl", pairs),
        completions=write(root / "completions.jsonl", completions),
        rated=write(root / "rated.jsonl", rated),
    )
