"""What it costs to play DP-BAI many times on one core, by the noise: in floating point, and as it protects people.

    python bench/dp_bai.py                 # 100,000 replications, 20 arms in 5 dimensions, T = 1,000
    python bench/dp_bai.py --replications 10000

The rows:

    laplace      `simulate(..., law="laplace")`: continuous noise in floating point; protects nobody
    discrete     `law="discrete"`: discrete noise by floating point; protects nobody
    exact        `law="exact"`: the sampler that protects people, fed with seeded bits
    draws        microseconds a draw of each backend as `DPBAI.start` uses it: bits of the operating system; opendp only
                 where the package is installed

Seconds are CPU seconds of one process with one thread. Exits with 1 where `laplace` takes more than LIMIT seconds.
"""

import argparse
import json
import os
import platform
import sys
import time
from importlib.util import find_spec
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import numpy as np

from steersman.decide.dp_bai import DPBAI, LinearArms, schedule, simulate
from steersman.decide.privacy import DiscreteLaplace, FloatLaplace, OpenDPLaplace

ARMS, DIMENSION, BUDGET, EPSILON = 20, 5, 1000, 0.5
LIMIT = 10.0
"""Seconds for 100,000 replications with noise in floating point."""
DRAWS = 20_000


def instance() -> LinearArms:
    """Twenty arms on the unit sphere of five dimensions, means from .1 to .9."""
    points = np.random.default_rng(0).standard_normal((ARMS, DIMENSION))
    points /= np.linalg.norm(points, axis=1, keepdims=True)
    theta = np.random.default_rng(1).standard_normal(DIMENSION)
    raw = points @ theta
    features = np.hstack([points[:, :-1], np.ones((ARMS, 1))])  # a level of their own, in the place of one axis
    fitted = features @ np.linalg.lstsq(features, raw, rcond=None)[0]
    return LinearArms(features, 0.1 + 0.8 * (fitted - fitted.min()) / np.ptp(fitted))


def played(arms: LinearArms, law: Any, replications: int) -> dict[str, Any]:
    """Seconds and error of one law."""
    began = time.process_time()
    found = simulate(DPBAI(EPSILON, BUDGET), arms, replications, law=law)
    seconds = time.process_time() - began
    return {"law": law, "seconds": seconds, "certified": found.certified,
            "error": [found.error.value, found.error.low, found.error.high]}  # fmt: skip


def drawn(backend: Any) -> dict[str, Any]:
    """Microseconds a draw, all in one call."""
    scale = backend.scale(EPSILON)
    began = time.process_time()
    backend.laplace_on_integer([0] * DRAWS, scale.numerator, scale.denominator)
    each = (time.process_time() - began) / DRAWS * 1e6
    return {"backend": backend.name, "microseconds": each, "certified": backend.certified}


def main() -> int:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--replications", type=int, default=100_000)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "dp_bai.json")
    options = parser.parse_args()
    arms = instance()
    rank = int(np.linalg.matrix_rank(arms.features))
    simulate(DPBAI(EPSILON, BUDGET), arms, 100)  # imports
    rows = [played(arms, law, options.replications) for law in ("laplace", "discrete", "exact")]
    backends = [FloatLaplace(), DiscreteLaplace(), *([OpenDPLaplace()] if find_spec("opendp") else [])]
    draws = [drawn(backend) for backend in backends]
    limit = LIMIT * options.replications / 100_000
    found = {
        "machine": platform.machine(), "python": platform.python_version(), "numpy": np.__version__,
        "arms": ARMS, "rank": rank, "budget": BUDGET, "epsilon": EPSILON, "sizes": list(schedule(ARMS, rank)),
        "replications": options.replications, "simulated": rows, "draws": draws, "limit_seconds": limit,
        "holds": rows[0]["seconds"] <= limit,
    }  # fmt: skip
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(found, indent=1) + "\n")
    for row in rows:
        print(f"{row['law']:10} {row['seconds']:8.2f} s   error {row['error'][0]:.4f}   certified {row['certified']}")
    for row in draws:
        print(f"{row['backend']:40} {row['microseconds']:8.2f} us a draw   certified {row['certified']}")
    print(f"limit for laplace: {limit:g} s, {'holds' if found['holds'] else 'does NOT hold'}. {options.out}")
    return 0 if found["holds"] else 1


if __name__ == "__main__":
    sys.exit(main())
