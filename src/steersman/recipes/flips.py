"""``flip_rate = "auto"``: estimate how often labels are wrong before training with a loss that needs the rate.

A pilot policy is trained with plain DPO on four fifths of the pairs; its margins on the last fifth, which it never
saw, give the rate by maximum likelihood (`objective.flip_rate`). Then the policy is put back to its starting point.
Leaves out: the estimator.
"""

from collections.abc import Callable
from dataclasses import asdict
from typing import Any

import torch

from steersman.core.noise import permutation
from steersman.objective.components import DPO
from steersman.objective.flip_rate import profile_flip_rate
from steersman.store.files import read_json, write_json
from steersman.store.run import RunDir
from steersman.train.fit import batch_rows
from steersman.train.loop import Budget
from steersman.train.parameters import load_trainable_state, trainable_state
from steersman.train.preference import PreferenceLearner


def settle_flip_rate(
    model: Any,
    loss: Any,
    build: Callable[[Any], PreferenceLearner],
    budget: Budget,
    run: RunDir,
    say: Callable[[str], None],
) -> tuple[Any, dict[str, Any]]:
    """Replace the "auto" flip rate of `loss` by an estimate; returns the settled loss and the estimate.

    Args:
        model: the policy at its starting point, where it is again afterwards.
        loss: a loss component with ``flip_rate = "auto"``.
        build: makes a learner on all training pairs for a loss.
        budget: steps, batch size and seed of the run; the pilot has four fifths of the steps.
        run: the estimate is kept in ``flip_rate.json`` and not made again on resume.
        say: told what is done and found.
    """
    file = run.path / "flip_rate.json"
    if not file.is_file():
        write_json(file, _estimate(model, loss, build, budget, say))
    found: dict[str, Any] = read_json(file)
    interval = f"[{found['low']:.3f}, {found['high']:.3f}]"
    say(f"flip rate: estimate {found['value']:.3f} {interval} (95 %), training with {found['recommended']:.3f}")
    if found["warning"]:
        say(f"warning: {found['warning']}")
    return loss.with_flip_rate(found["recommended"]), found


def _estimate(
    model: Any, loss: Any, build: Callable[[Any], PreferenceLearner], budget: Budget, say: Callable[[str], None]
) -> dict[str, Any]:
    start = {n: p.clone() for n, p in trainable_state(model).items()}
    pilot = build(DPO(beta=getattr(loss, "beta", 0.1)))
    order = permutation(pilot.rows, budget.seed, "pilot").to(pilot.reference[0].device)
    known, unseen = order[: -(-pilot.rows * 4 // 5)], order[-(-pilot.rows * 4 // 5) :]
    steps = max(budget.total(pilot.rows) * 4 // 5, 1)
    say(f"flip rate: a pilot of {steps} steps on {len(known)} pairs, judged on the other {len(unseen)}")
    for step in range(steps):
        rows = batch_rows(step, budget.batch, len(known), budget.seed)
        pilot.step(known[rows.to(known.device)], step)
    first, second = pilot.margins(pilot.pairs.index(unseen), (pilot.reference[0][unseen], pilot.reference[1][unseen]))
    estimate = profile_flip_rate((first - second).cpu().double(), pilot.pairs.label[unseen].cpu().double())
    load_trainable_state(model, start)
    model.zero_grad(set_to_none=True)
    return asdict(estimate) | {"judged_on": len(unseen), "margin_std": float(torch.std(first - second))}
