"""A private experiment killed by SIGKILL before every single line of the journal's code goes on without a second draw.

The drill (`crash_drill`) runs in a process of its own, as it forks.
"""

import json
import subprocess
import sys
from pathlib import Path

import pytest

DRILL = Path(__file__).with_name("crash_drill.py")
PHASES = 2
LEAST_DEATHS = 60
"""The journal's code has more lines than this on the way through two phases."""


@pytest.fixture(scope="module")
def deaths(tmp_path_factory):
    done = subprocess.run(
        [sys.executable, str(DRILL), str(tmp_path_factory.mktemp("drill"))], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout)


def noisy_sums(held):
    """Every noisy sum that a folder shows, whether its file is whole, unnamed or cut short: phase -> texts."""
    found = {}
    for name, text in held.items():
        if "about" not in name and '"noisy":' in text:
            phase = text.split('"phase":')[1].split("}")[0] if '"phase":' in text else name
            found.setdefault(phase, set()).add(text.split('"noisy":')[1].split("]")[0])
    return found


def test_it_dies_everywhere_and_always_comes_to_an_end(deaths):
    assert len(deaths) > LEAST_DEATHS
    assert any(any(n.endswith(".part") for n in held) for death in deaths for held in death["held"])
    for death in deaths:
        named = [n for n in death["end"] if not n.startswith(".about")]  # says what experiment it is, and no more
        assert named == [*(f"{n:04d}.json" for n in range(1, PHASES + 1)), "about.json"]


def test_what_could_be_seen_at_a_death_is_what_the_journal_ends_with(deaths):
    seen = 0
    for death in deaths:
        end = noisy_sums(death["end"])
        assert all(len(values) == 1 for values in end.values())
        for held in death["held"]:
            for phase, values in noisy_sums(held).items():
                assert values == end[phase], "two draws of one phase could be seen"
                seen += 1
    assert seen > LEAST_DEATHS


def test_noise_that_reached_the_disk_is_never_drawn_again(deaths):
    for death in deaths:
        on_disk = len(noisy_sums(death["held"][0]))
        drawn_after = len(death["all"]) - len(death["drawn"])
        # of the two processes after the death, the first may die with a draw in memory that nobody saw
        lost = on_disk + drawn_after - PHASES
        assert 0 <= lost <= 1
        assert drawn_after >= PHASES - on_disk
