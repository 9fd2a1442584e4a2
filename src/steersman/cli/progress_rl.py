"""What a line of `steersman train rl` says: reward and accuracy first, never the surrogate loss, whose value tells
nothing.

Leaves out: bars, tables and files (`cli.progress`).
"""

import time
from collections.abc import Mapping

_PARTS = (
    ("no signal", "zero_signal_groups", "{:.0%}"),
    ("divergence", "divergence", "{:.3g}"),
    ("KL", "kl_ref", "{:.3g}"),
    ("KL/response", "kl_reward/kl_row", "{:.3g}"),
    ("entropy", "entropy", "{:.3g}"),
    ("grad", "grad_norm", "{:.3g}"),
    ("gap", "gap_max", "{:.0e}"),
)


class RLNotes:
    """Keeps what was last said: a batch of responses serves several steps, and only its first tells of it.

    Args:
        samples: responses of each prompt. The interval of the accuracy (95 %, Wilson) counts prompts, not responses,
            since those of a prompt are alike; it is the wider for it.
    """

    def __init__(self, samples: int) -> None:
        self.samples = samples
        self.known: dict[str, float] = {}
        self.now: Mapping[str, float] = {}
        self.step = self.drawn = self.told = 0
        self.tokens, self.seconds = 0.0, 0.0
        self.last: float | None = None

    def see(self, step: int, metrics: Mapping[str, float]) -> None:
        """A logged step."""
        self.known |= metrics
        self.now, self.step = metrics, step
        if {"rows_generated", "reward_mean", "accuracy"} & metrics.keys():
            self.drawn = step
        self._count(metrics)

    def line(self) -> list[str]:
        """The parts of a line, most telling first; the last is the rate. What a batch was worth is said once, with the
        step it was drawn in where that is an earlier one."""
        fresh = self.told != self.drawn
        self.told = self.drawn
        rest = [
            f"{name} {form.format(self.known[k])}"
            for name, k, form in _PARTS
            if k in self.known and (fresh or k in self.now)
        ]
        return [*(self._worth() if fresh else []), *rest, *self._rate()]

    def short(self) -> str:
        """What fits beside a bar."""
        return "  ".join([*self._accuracy()[:1], *self._rate()])

    def _worth(self) -> list[str]:
        found = self._accuracy()
        if found and self.drawn != self.step:
            found[-1] += f" (step {self.drawn})"
        return found

    def _accuracy(self) -> list[str]:
        from steersman.stats import wilson

        known = self.known
        reward = [f"reward {known['reward_mean']:.3f}"] if "reward_mean" in known else []
        if "accuracy" not in known:
            return reward
        prompts = max(round(known["rows_generated"] / self.samples), 1)
        found = wilson(round(known["accuracy"] * prompts), prompts)
        said = f"accuracy {known['accuracy']:.3f} [{found.low:.2f}, {found.high:.2f}]"
        return [said] if known["accuracy"] == known.get("reward_mean") else [said, *reward]

    def _count(self, metrics: Mapping[str, float]) -> None:
        """Tokens drawn and the seconds they took, updates included."""
        now, rate = time.perf_counter(), metrics.get("tokens_per_s", 0.0)
        if self.last is not None:
            self.tokens += rate * (now - self.last)
            self.seconds += now - self.last
        elif rate > 0:  # of the first step nobody took the time but whoever measured its rate
            self.tokens = metrics.get("tokens_generated", rate)
            self.seconds = self.tokens / rate
        self.last = now

    def _rate(self) -> list[str]:
        return [f"{self.tokens / self.seconds:,.0f} tokens/s"] if self.tokens else []
