"""The command line's tests use the toy studies of the harness's tests."""

import sys
from pathlib import Path

STUDY_TESTS = Path(__file__).parents[1] / "study"
sys.path[:0] = [str(STUDY_TESTS), str(STUDY_TESTS / "toys")]
