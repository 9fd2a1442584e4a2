"""Five ways to make a data set of n transitions from one policy and the log of its training.

Leaves out: training that policy. Source: Schweighofer et al. 2022, section 5 and app. A.3.
"""

from collections.abc import Sequence
from typing import Any

from steersman.core.errors import UserError
from steersman.offline.rollouts import Act, epsilon_greedy, rollout, uniform
from steersman.offline.transitions import Transitions, concatenate

SCHEMES = ("random", "mixed", "replay", "noisy", "expert")
NOISE, RANDOM_SHARE = 0.2, 0.8
"""The paper's epsilon of "noisy", and how much of "mixed" is random."""


def mixed(random: Transitions, expert: Transitions, share: float = RANDOM_SHARE) -> Transitions:
    """The first `share` of random data followed by the last 1 - `share` of expert data, not shuffled.

    Args:
        random, expert: equally many transitions.
        share: of random data, above 0 and below 1.

    Raises:
        UserError: unequal sizes; a share that leaves nothing of one.

    Edge cases: the episodes at the seam are cut and late. The authors' buffer joins them into one episode, and lets the
        last random transition continue in the first expert state.
    """
    n = len(random)
    if len(expert) != n:
        raise UserError(f"{n:,} random transitions and {len(expert):,} of the expert", where="mixed", allowed="equal")
    k = round(share * n)
    if not 0 < k < n:
        raise UserError(f"{share} of {n:,} leaves nothing of one", where="share", allowed="above 0, below 1")
    return concatenate([random.slice(0, k), expert.slice(k, n)])


def make_datasets(
    env: Any,
    act: Act,
    replay: Transitions | None,
    n: int,
    seed: int = 0,
    schemes: Sequence[str] = SCHEMES,
    epsilon: float = NOISE,
) -> dict[str, Transitions]:
    """Data sets of exactly `n` transitions each.

    random: uniform actions. expert: `act`. noisy: `act`, but uniform with probability `epsilon`. mixed: the first 80 %
    of random and the last 20 % of expert. replay: every transition of the training, in order; the reference of SACo.

    Args:
        env: Gymnasium environment.
        act: the final policy, without exploration.
        replay: what the training saw; needed for "replay" only.
        n: transitions.
        seed: of environment and policies; each scheme has noise of its own.
        schemes: which to make.

    Raises:
        UserError: an unknown scheme; no replay data, or not `n` transitions of them.
    """
    if unknown := [s for s in schemes if s not in SCHEMES]:
        raise UserError(f"{unknown[0]!r} is not known", where="schemes", allowed=", ".join(SCHEMES))
    if "replay" in schemes and (replay is None or len(replay) != n):
        found = "no" if replay is None else f"{len(replay):,}"
        raise UserError(f"{found} transitions of the training", where="replay", allowed=f"n = {n:,}")
    anything = uniform(env.action_space)
    policies = {"random": anything, "expert": act, "noisy": epsilon_greedy(act, anything, epsilon)}
    needed = {*schemes} | ({"random", "expert"} if "mixed" in schemes else set())
    made = {name: rollout(env, p, n, seed, f"scheme {name}") for name, p in policies.items() if name in needed}
    if "mixed" in schemes:
        made["mixed"] = mixed(made["random"], made["expert"])
    if replay is not None:
        made["replay"] = replay
    return {name: made[name] for name in schemes}
