"""What a line of `steersman train rl` says: reward and accuracy first, never the surrogate loss, whose value tells
nothing.

Leaves out: bars, tables and files (`cli.progress`).
"""

import time
from collections.abc import Mapping

_PARTS = (
    ("no signal", "zero_signal_groups", "{:.0%}"),
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
        self.tokens, self.seconds = 0.0, 0.0
        self.last: float | None = None

    def parts(self, metrics: Mapping[str, float]) -> list[str]:
        """The parts of a line, most telling first; the last is the rate since the first logged step."""
        self.known |= metrics
        first = self._accuracy()
        rest = [f"{name} {form.format(self.known[k])}" for name, k, form in _PARTS if k in self.known]
        return [*first, *rest, f"{self._rate(metrics):,.0f} tokens/s"]

    def short(self, parts: list[str]) -> str:
        """What fits beside a bar."""
        return "  ".join([parts[0], parts[-1]])

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

    def _rate(self, metrics: Mapping[str, float]) -> float:
        """Tokens drawn a second, updates included."""
        now, rate = time.perf_counter(), metrics.get("tokens_per_s", 0.0)
        if self.last is not None:
            self.tokens += rate * (now - self.last)
            self.seconds += now - self.last
        self.last = now
        return self.tokens / self.seconds if self.seconds else rate
