"""Carry out an inventory recipe: draw scenarios, train, test against what is known, write policy and page.

Leaves out: the command line (`cli`), the parts (`inventory_parts`), the page (`inventory_page`).
"""

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from steersman.control.inventory.reference import Reference, hindsight, reference
from steersman.control.inventory.training import fit_forecaster, train_policy
from steersman.core.errors import UserError
from steersman.policy.inventory.newsvendor import QuantileNewsvendor
from steersman.policy.inventory.observe import OrderingPolicy
from steersman.recipes.inventory import InventoryRecipe, InventoryRuntime
from steersman.recipes.inventory_page import Shown, page
from steersman.recipes.inventory_parts import Shape, Splits, build_policy, save_policy, splits
from steersman.recipes.jobs import Outcome, begin, identity, note_paths
from steersman.stats.intervals import Interval, t_interval
from steersman.store.files import digest, write_text
from steersman.store.provenance import made_by
from steersman.store.run import RunDir, writable
from steersman.task.inventory.demand import Law
from steersman.task.inventory.evaluate import Evaluation, evaluate
from steersman.task.inventory.network import InventoryNetwork
from steersman.train.loop import Budget, Fitted, Habits, Watch
from steersman.train.optimise import AdamW

Say = Callable[[str], None]


def output_folder(recipe: InventoryRecipe, runtime: InventoryRuntime) -> Path:
    """Where a job writes: the folder asked for, or one named after its identity."""
    return Path(runtime.out) if runtime.out else Path("runs") / f"inventory-{digest(identity(recipe), 10)}"  # type: ignore[arg-type]


def described(recipe: InventoryRecipe, runtime: InventoryRuntime) -> dict[str, Any]:
    """What a job would do, as JSON values; trains and writes nothing."""
    network = recipe.network.build()
    made = splits(recipe, network)
    policy = build_policy(recipe.policy, network, Shape.of(made.train), recipe.budget.seed)
    known = reference(network, recipe.demand) if isinstance(recipe.demand, Law) else None
    steps = recipe.budget.total(len(made.train))
    return {
        "locations": len(network.names), "edges": len(network.edges), "policy": recipe.policy.kind,
        "method": recipe.method.kind, "parameters": sum(p.numel() for p in policy.parameters()), "steps": steps,
        "scenarios": len(made.train), "simulated_periods": steps * recipe.budget.batch * recipe.data.periods,
        "held_out": [len(made.dev), made.dev.periods], "test": [len(made.test), made.test.periods],
        "reference": None if known is None else {"name": known.name, "kind": known.kind, "cost": known.cost},
        "folder": str(output_folder(recipe, runtime)),
    }  # fmt: skip


def carry_out_inventory(
    recipe: InventoryRecipe, runtime: InventoryRuntime, *, say: Say = print, watch: Watch | None = None,
    resume: Path | None = None,
) -> Outcome:  # fmt: skip
    """Train as the recipe says, test, and write policy, result and page; continues where it stopped.

    Args:
        recipe: what to do.
        runtime: how.
        say: told what is being done, a line each.
        watch: told about progress.
        resume: a checkpoint to continue from instead of the newest.

    Raises:
        UserError: bad input, before any training.
        RunStopped: training could not go on; the last checkpoint is good.
    """
    run = RunDir(output_folder(recipe, runtime))
    writable(run.path)
    known = {**identity(recipe), "made_by": made_by()}  # type: ignore[arg-type]
    if run.finished:
        run.start(known)
        return Outcome(run.path, None, run.result(), ("already finished; nothing to do",))
    job = _Job(recipe, runtime, run, say)
    begin(run, known)
    note_paths(run, recipe)  # type: ignore[arg-type]
    fitted = job.train(watch, resume)
    result = job.judge(fitted)
    save_policy(run.path / "policy", job.policy, recipe.policy, recipe.network, job.shape)
    write_text(run.path / "report.html", page(job.shown(result)))
    run.finish(result, {"seconds": fitted.seconds, "simulated_periods": fitted.tokens})
    return Outcome(run.path, fitted, result)


class _Job:
    """A job under way; making it draws the scenarios and builds the policy."""

    def __init__(self, recipe: InventoryRecipe, runtime: InventoryRuntime, run: RunDir, say: Say) -> None:
        if runtime.threads:
            torch.set_num_threads(runtime.threads)
        self.recipe, self.runtime, self.run, self.say = recipe, runtime, run, say
        self.device = _device(runtime)
        self.network: InventoryNetwork = recipe.network.build()
        drawn = splits(recipe, self.network)
        self.data = Splits(*(x.to(self.device) for x in (drawn.train, drawn.dev, drawn.test)))
        self.shape = Shape.of(drawn.train)
        self.policy = self._fresh()
        self.known = self._reference()
        size = f"{len(drawn.train)} training scenarios of {drawn.train.periods} periods"
        say(f"{len(self.network.names)} locations, {size}")

    def _fresh(self) -> OrderingPolicy:
        return build_policy(self.recipe.policy, self.network, self.shape, self.recipe.budget.seed).to(self.device)

    def _reference(self) -> Reference | None:
        """An optimum or bound, found before training so that nothing depends on its outcome."""
        law, test = self.recipe.demand, self.data.test
        if self.network.objective == "profit" and bool((test.demand >= 0).all()):
            found = hindsight(self.network, test, self._ignored(test.periods))
            return Reference("just in time, in hindsight", "bound", found.mean)
        known = reference(self.network, law) if isinstance(law, Law) else None
        return known if known is None or known.policy is None else replace(known, policy=known.policy.to(self.device))

    def _ignored(self, periods: int) -> int:
        return min(int(self.recipe.data.ignore * periods), periods - 1)

    def train(self, watch: Watch | None, resume: Path | None) -> Fitted:
        """The policy of the whole job, then those of fewer scenarios."""
        fitted = self._train(self.policy, len(self.data.train), self.run.path, watch, resume)
        self.fewer: dict[int, Evaluation] = {}
        for n in sorted(set(self.recipe.data.curve) - {len(self.data.train)}):
            self.say(f"training on {n} scenarios")
            policy = self._fresh()
            self._train(policy, min(n, len(self.data.train)), self.run.path / "curve" / str(n), None, None)
            self.fewer[n] = self._test(policy)
        return fitted

    def _train(
        self, policy: OrderingPolicy, rows: int, folder: Path, watch: Watch | None, resume: Path | None
    ) -> Fitted:
        recipe, data = self.recipe, self.data.train.index(torch.arange(rows, device=self.device))
        if isinstance(policy, QuantileNewsvendor):
            spec: Any = recipe.policy
            self.say("fitting the forecaster")
            policy.forecaster.requires_grad_(True)
            budget = Budget(steps=spec.forecast_steps, batch=1024, seed=recipe.budget.seed)
            fit_forecaster(
                policy.forecaster, data, optim=AdamW(lr=spec.forecast_lr), budget=budget, folder=folder / "forecast"
            )
            policy.forecaster.requires_grad_(False)
            if not any(p.requires_grad for p in policy.parameters()):
                return Fitted(0, "nothing to train: the rule is fixed", {})
        run = self.runtime
        habits = Habits(run.log_every, run.evaluate_every, run.checkpoint_every, run.keep)
        sizes = recipe.data
        return train_policy(
            self.network, policy, data, self.data.dev, method=recipe.method, optim=recipe.optim, budget=recipe.budget,
            habits=habits, folder=folder, watch=watch, resume=resume, warmup=sizes.warmup,
            ignore=self._ignored(self.data.dev.periods), integer=sizes.integer,
        )  # fmt: skip

    def _test(self, policy: OrderingPolicy) -> Evaluation:
        test = self.data.test
        return evaluate(self.network, policy, test, self._ignored(test.periods), integer=self.recipe.data.integer)

    def judge(self, fitted: Fitted) -> dict[str, Any]:
        """Costs on test scenarios, with intervals, beside what is known."""
        self.say("testing")
        self.found = self._test(self.policy)
        result = {
            "verb": "inventory", "steps": fitted.steps, "reason": fitted.reason, "evaluation": dict(fitted.evaluation),
            "best_step": fitted.best_step, "test": _told(t_interval(self.found.by_scenario.numpy())),
            "by_location": self.found.by_location, "reference": None, "gap": None,
            "curve": {str(n): _told(t_interval(f.by_scenario.numpy())) for n, f in self.fewer.items()},
        }  # fmt: skip
        if self.known is not None:
            result["reference"] = {"name": self.known.name, "kind": self.known.kind, "cost": self.known.cost}
            result["gap"] = _told(self._gap(self.known))
        return result

    def _gap(self, known: Reference) -> Interval:
        """(cost - reference) / |reference|: paired on the same scenarios where a policy reaches the reference."""
        own = self.found.by_scenario
        if known.policy is None:
            gap, unit = own - known.cost, abs(known.cost)
        else:
            test = self.data.test
            # The tabulated optimum orders whole units anyway; base stocks may order fractions where the learnt may.
            best = evaluate(
                self.network, known.policy, test, self._ignored(test.periods), integer=self.recipe.data.integer
            )
            gap, unit = own - best.by_scenario, abs(best.mean)
        return t_interval((gap / max(unit, 1e-12)).numpy())

    def shown(self, result: Mapping[str, Any]) -> Shown:
        """What the page shows."""
        return Shown(
            self.recipe, self.network, self.policy, self.known, self.data.test, result, self.found,
            self.run.read("metrics"), len(self.data.train), self.run.path,
        )  # fmt: skip


def _told(found: Interval) -> dict[str, float]:
    return {"value": found.value, "low": found.low, "high": found.high, "level": found.level}


def _device(runtime: InventoryRuntime) -> torch.device:
    if runtime.device == "cuda" and not torch.cuda.is_available():
        raise UserError("'cuda' is not available here", where="runtime.device", allowed="auto, cpu")
    return torch.device("cuda" if runtime.device != "cpu" and torch.cuda.is_available() else "cpu")
