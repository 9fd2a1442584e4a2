"""`steersman diagnose probe` from a folder to figures: every layer, graded by the task, what is refused beforehand."""

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from steersman.cli.main import app
from steersman.core.errors import UserError
from steersman.recipes.diagnose_probe import ProbeQuestion, diagnose_probe
from steersman.studies import chain_sum_policy
from steersman.task.chain_sum import HASH, ChainSum


@pytest.fixture(scope="module")
def policy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Taught for long enough to be right now and then."""
    small: dict[str, Any] = {"width": 32, "mlp": 32, "layers": 2, "heads": 2}
    one = chain_sum_policy.artefact(ChainSum(), model=small, steps=60, batch=32, judged=12)
    folder = tmp_path_factory.mktemp("policy")
    one.build(one.settings, folder, {})
    return chain_sum_policy.model_folder(folder)


def test_every_layer_is_read_and_the_same_seed_says_the_same(policy: Path) -> None:
    said: list[str] = []
    asked = ProbeQuestion(policy, "chain_sum", limit=60, samples=4)
    found = diagnose_probe(asked, said.append).summary
    assert [(r["layer"], r["features"]) for r in found["probes"]] == [
        (None, "entropies"), *((n, f) for n in range(3) for f in ("prompt", "reasoning", "all")),
    ]  # fmt: skip
    assert (found["prompts"], found["responses"], found["reasoning_end"]) == (60, 240, [HASH])
    assert 0 < found["reward"] < 1
    assert found == diagnose_probe(asked).summary
    assert said[-1] == "reading 2 layers at 240 responses"


def test_the_command_prints_a_table_or_json(policy: Path) -> None:
    words = ["diagnose", "probe", "--model", str(policy), "--task", "chain_sum", "--limit", "60"]
    shown = CliRunner().invoke(app, words)
    assert shown.exit_code == 0, shown.output
    assert "three entropies alone" in shown.stdout
    assert "a constant, the mean reward: " in shown.stdout
    told = json.loads(CliRunner().invoke(app, [*words, "--json"]).stdout)
    assert told["layers"] == 2
    assert ('kind = "internal_value", layer = ' in shown.stdout) == (told["best"] is not None)
    assert ("no layer beats a constant" in shown.stdout) == (told["best"] is None)


def test_what_cannot_be_used_is_refused_before_sampling(policy: Path, tmp_path: Path) -> None:
    (tmp_path / "bare.jsonl").write_text('{"prompt": "1+1="}\n')
    for change, message in (
        ({"samples": 1}, "--samples: is 1"),
        ({"temperature": 0.0}, "--temperature: is 0.0"),
        ({"task": str(tmp_path / "bare.jsonl")}, "its rows have no answers"),
        ({"task": "nowhere.jsonl"}, "does not exist"),
    ):
        asked: dict[str, Any] = {"model": policy, "task": "chain_sum", **change}
        with pytest.raises(UserError, match=message):
            diagnose_probe(ProbeQuestion(**asked))
