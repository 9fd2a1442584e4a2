"""The engine of several processes: LocalEngine's interface and results, with models sharded over all of them (FSDP2).

Every process runs the same loop on the same prompts, so nothing outside knows of processes. Sampling and grading are
split and gathered; rows of a forward are split by tokens, a group's together, and every process runs equally many
micro-batches, the missing ones with a loss of 0. Sums of gradients differ from one process's by rounding alone.
Leaves out: sharding (`shards`), messages and failures (`processes`).
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import nullcontext
from functools import partial
from typing import Any, Literal, TypeVar

import torch
from torch import Tensor, nn

from steersman.core.component import Moment
from steersman.core.errors import UserError
from steersman.core.types import STOP_LENGTH, Rollouts
from steersman.language.pack import length_blocks, micro_batches
from steersman.language.trunk import capability
from steersman.store.rollouts import from_state, to_state
from steersman.task.world import Prompts
from steersman.train.engine.local import LocalEngine, without_adapters
from steersman.train.engine.processes import Processes, launched, start
from steersman.train.engine.shards import blank_copy, filled, gathered, shard, shard_like, whole_state
from steersman.train.engine.work import Drawing, Job, Model, Quantity, Work, gather, longest
from steersman.train.optimise import Optimiser
from steersman.train.terms import Term, against_of

__all__ = ["DistributedEngine", "Processes", "engine_for", "launched", "start"]

T = TypeVar("T")


class DistributedEngine(LocalEngine):
    """Policy, reference and critic in shards over the processes of a run.

    Args:
        processes: what `start` gave.
        policy, optimiser, reference, critic, critic_optimiser, options: as for `LocalEngine`. Every process gives the
            same whole models; they are sharded in place, and the optimisers are made anew for the shards.

    Raises:
        UserError: a model that cannot be sharded, or an optimiser that has made steps already.
    """

    def __init__(
        self,
        processes: Processes,
        policy: nn.Module,
        optimiser: Optimiser,
        *,
        reference: nn.Module | None = None,
        critic: nn.Module | None = None,
        critic_optimiser: Optimiser | None = None,
        **options: Any,
    ) -> None:
        known = {"reference": reference, "critic": critic, "critic_optimiser": critic_optimiser}
        super().__init__(policy, optimiser, **known, **options)  # type: ignore[arg-type]
        self.processes, self.main = processes, processes.rank == 0
        self.blanks = {name: blank_copy(model) for name, model in self._models().items()}
        names = {k: _names(self.models[k], o) for k, o in self.optimisers.items()}
        self.roots = {name: shard(model, processes.mesh) for name, model in self.models.items()}
        for name, before in self.optimisers.items():
            now = dict(self.models[name].named_parameters())
            moving = [(n, now[n]) for n in names[name]]
            self.optimisers[name] = Optimiser(moving, before.settings, before.total_steps)

    @property
    def device(self) -> torch.device:
        """Where this process computes."""
        return self.processes.device

    def through(self, by: Model, work: Callable[..., T], *given: Any, **options: Any) -> T:
        """See `LocalEngine.through`; every process must call it."""
        root = self.roots.get(by, self.roots["policy"])
        with nullcontext() if by in self.roots else without_adapters(self.policy):
            out: T = root(lambda model: work(model, *given, **options))
        return out

    def sample(self, prompts: Prompts, drawing: Drawing, at: Moment, seed: int) -> Rollouts:
        """See `LocalEngine.sample`; each process draws for its share of the prompts, all get all rows."""
        mine = self.processes.part(len(prompts))
        few = slice(mine.start, mine.stop)
        own = Prompts(prompts.ids[few], prompts.group[few], prompts.rows[few])
        draw = super().sample
        with torch.no_grad(), gathered(self.roots["policy"]):
            drawn = self.processes.together(lambda: to_state(draw(own, drawing, at, seed)) if len(own) else None)
        parts = [from_state(state) for state in self.processes.gather(drawn) if state is not None]
        whole = Rollouts.concat(parts)
        pad = torch.arange(whole.ids.shape[1]) >= whole.length[:, None]
        whole.ids[pad] = drawing.stop_ids[0]
        return whole

    def share(self, n: int, work: Callable[[range], list[Any]]) -> list[Any]:
        """See `LocalEngine.share`; tuples arrive as lists."""
        done = self.processes.together(lambda: work(self.processes.part(n)))
        return [item for part in self.processes.gather(done) for item in part]

    def score(
        self, rollouts: Rollouts, by: Model, quantities: Sequence[Quantity], temperature: float = 1.0
    ) -> dict[Any, Tensor]:
        """See `LocalEngine.score`."""
        self.processes.agree("rows to be scored", rollouts.ids, rollouts.length, rollouts.action)
        n, others = len(rollouts), [q for q in quantities if q != "value_end"]
        told = self._scored(rollouts, by, others, temperature) if others else {}
        if n and "value_end" in quantities:
            cut = rollouts.stop == STOP_LENGTH
            found = self._scored(rollouts.index(cut), by, ["value_end"], temperature)
            told["value_end"] = torch.zeros(n, device=rollouts.ids.device)
            told["value_end"][cut] = found.get("value_end", told["value_end"][:0])
        return {q: told[q] for q in quantities if q in told}

    def _scored(
        self, rollouts: Rollouts, by: Model, quantities: Sequence[Quantity], temperature: float
    ) -> dict[Any, Tensor]:
        """A forward of every row, one call of the trunk for each quantity."""
        score = partial(self._score, by=by, quantities=quantities, temperature=temperature)
        plan = self._plan(rollouts, [by])
        return self._together(rollouts, plan, lambda rows: score(rollouts.index(rows).trim()))

    def compare(
        self, rollouts: Rollouts, shown: Rollouts, by: Model, asked: Sequence[Any], temperature: float = 1.0
    ) -> dict[Any, Tensor]:
        """See `LocalEngine.compare`."""
        here = [x for r in (rollouts, shown) for x in (r.ids, r.length, r.action)]
        self.processes.agree("rows to be compared", *here)
        plan = self._plan(rollouts, ["policy", by], shown)
        return self._together(rollouts, plan, partial(self._compared, rollouts, shown, by, asked, temperature))

    def _together(
        self, rollouts: Rollouts, plan: tuple[list[Tensor], list[Tensor]], score: Callable[[Tensor], dict[Any, Tensor]]
    ) -> dict[Any, Tensor]:
        """What every process found of its own rows."""
        own, idle = plan
        with torch.no_grad():
            found = gather(rollouts, [*own, *idle], score)
        mine = torch.zeros(len(rollouts), dtype=torch.bool, device=rollouts.ids.device)
        for rows in own:
            mine[rows] = True
        for x in found.values():
            x[~mine] = 0.0
            self.processes.sum_(x)
        self._reshard()
        return found

    def _accumulated(self, jobs: Sequence[Job], trains: frozenset[str], temperature: float) -> dict[str, Any]:
        told: dict[str, Tensor | float] = {"tokens_trained": 0.0}
        for job in jobs:
            self.processes.agree("rows to learn from", *_learnt_from(job))
            work = Work.of(job, trains)
            own, idle = self._plan(work.rollouts, _needed(work.terms), work.shown)
            for rows in own:
                work.backward(self, rows, temperature)
            for rows in idle:
                work.idle(self, rows, temperature)
            work.join(self.processes.gather(work.sums()))
            told |= work.metrics() | {"tokens_trained": told["tokens_trained"] + work.tokens}
        self._reshard()  # of the other side, which has no backward
        return told

    def _plan(
        self, rollouts: Rollouts, models: Iterable[str], shown: Rollouts | None = None
    ) -> tuple[list[Tensor], list[Tensor]]:
        """This process's micro-batches, and those that it runs without effect because others have more.

        A micro-batch is one call of the trunk: where the trunk runs padded, it holds rows of similar length; and where
        they are `shown` behind other prompts too, which makes them another length, a single row.
        """
        lengths = longest(rollouts, shown).cpu()
        most = int(lengths.max()) if len(lengths) else 0
        padded = any(self._runs_padded(name, most) for name in models)
        plans: list[list[Tensor]] = []
        for rows in _deal(rollouts, self.processes.size):
            batches = [rows[b] for b in micro_batches(lengths[rows], self.micro_tokens)]
            if padded:
                batches = [part for b in batches for part in (_blocks(b, lengths) if shown is None else b.split(1))]
            plans.append(batches)
        own = plans[self.processes.rank]
        missing = max(len(p) for p in plans) - len(own)
        return own, [lengths.argmin()[None]] * missing if missing else []

    def _runs_padded(self, name: str, longest: int) -> bool:
        model = self.models.get(name, self.policy)
        how = capability(model)
        return not how.flat or longest > (how.window or longest) or (name != "critic" and not how.tiled_head)

    def _reshard(self) -> None:
        """Drop what a root keeps after a forward without a backward: after a step it would be stale."""
        for root in self.roots.values():
            root.reshard()  # type: ignore[operator]

    def whole(self, name: Literal["policy", "critic"] = "policy") -> nn.Module:
        """See `LocalEngine.whole`: a copy in the processor's memory; other processes get one without weights."""
        return filled(self.blanks[name], self.models[name], keep=self.main)

    def state_dict(self) -> dict[str, Any]:
        """The same tensors as `LocalEngine.state_dict` in process 0; in the others, which write nothing, None each."""
        state: dict[str, Any] = whole_state(super().state_dict(), keep=self.main)
        return state

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what `state_dict` gave here or in a `LocalEngine`; every process gives the whole state."""
        models = {}
        for name, model in self._models().items():
            own = dict(model.named_parameters())
            models[name] = {k: shard_like(x, own[k]) if k in own else x for k, x in state["models"][name].items()}
        optimisers = {}
        for name, optimiser in self.optimisers.items():
            moving = [p for group in optimiser.inner.param_groups for p in group["params"]]
            moments = {
                i: {k: shard_like(x, moving[int(i)]) for k, x in of.items()}
                for i, of in state["optimisers"][name]["state"].items()
            }
            optimisers[name] = {**state["optimisers"][name], "state": moments}
        own = self._followed()
        teacher = {k: shard_like(x, own[k]) if k in own else x for k, x in state.get("teacher", {}).items()}
        super().load_state_dict({"models": models, "optimisers": optimisers, "teacher": teacher})


def engine_for(processes: Processes | None, policy: nn.Module, optimiser: Optimiser, **options: Any) -> LocalEngine:
    """`LocalEngine` for one process (None), `DistributedEngine` for several."""
    if processes is None:
        return LocalEngine(policy, optimiser, **options)
    return DistributedEngine(processes, policy, optimiser, **options)


def _names(model: nn.Module, optimiser: Optimiser) -> list[str]:
    """Names of the parameters that an optimiser moves, which sharding will replace."""
    if optimiser.inner.state:
        raise UserError("has made steps already", where="optimiser", cure="Give it to the engine before the first one.")
    names = {id(p): n for n, p in model.named_parameters()}
    return [names[id(p)] for p in optimiser.parameters]


def _learnt_from(job: Job) -> list[Tensor]:
    rollouts = job.rollouts
    streams = [rollouts.streams[k] for k in sorted(rollouts.streams)]
    shown = [] if job.shown is None else [job.shown.ids, job.shown.length]
    return [rollouts.ids, rollouts.length, rollouts.action, rollouts.weight, *streams, *shown]


def _needed(terms: Sequence[Term]) -> set[str]:
    """Models whose forward a step needs."""
    against = against_of(terms)
    return {t.model for t in terms} | (set() if against is None else {against.by})


def _deal(rollouts: Rollouts, size: int) -> list[Tensor]:
    """Rows of each process: about equally many tokens, rows of one group together, so that they share their prompt."""
    order = rollouts.group.cpu().argsort(stable=True)
    length = rollouts.length.cpu()[order]
    middle = length.cumsum(0) - length / 2
    owner = (middle * size / length.sum().clamp(min=1)).long().clamp(max=size - 1)
    return [order[owner == rank] for rank in range(size)]


def _blocks(rows: Tensor, lengths: Tensor) -> list[Tensor]:
    """Rows in blocks of similar length, as a padded trunk runs them."""
    order = rows[lengths[rows].argsort(stable=True)]
    return [order[a:b] for a, b in length_blocks(lengths[order].tolist())]
