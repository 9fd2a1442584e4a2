"""Names of the PF-PPO study: parts, arms, and which arms each size has."""

RELIABILITY, TRAINED, EXACT, TESTS = "reliability", "training", "exact rewards", "tests as reward"
POLICY, REWARD = "policy", "reward"
SINGLE, ALL, RANDOM = "ppo-s", "ppo-m", "rand-2"
FILTERS = {
    "bon": "bon", "br": "br", "bw": "bw", "top": "top", "top-random": "top-random", "top-bottom": "top-bottom",
    "pow-1": "pow-1", "pow-2": "pow-2", "pow-3": "pow-3",
}  # fmt: skip
"""Arm -> strategy of the stage ``pf_ppo``."""
GRPO, ORACLE = "grpo", "oracle filter"
FULL_ARMS = (SINGLE, ALL, RANDOM, *FILTERS, GRPO, ORACLE)
QUICK_ARMS = (ALL, RANDOM, "bon", "bw")
NOISY_ARMS = (ALL, "bw")
"""Arms whose reward is the tests' verdict with noise of one variance."""
PAYS = {TRAINED: "model", EXACT: "noisy tests", TESTS: "tests"}
"""Part -> what pays its arms."""
STRATEGIES = ("none", *FILTERS)
"""Whose R^2 is compared; `none` is that of ppo-m."""
STRATEGY_OF = {ALL: "none"} | FILTERS
