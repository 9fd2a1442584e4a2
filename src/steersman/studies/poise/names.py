"""Names of the POISE study: its parts, its probes, estimators and arms, and which of them each size has."""

PARTS = {"probe": "probe", "gradients": "gradients", "training": "training"}
POLICY, TRUTH = "policy", "values"
"""Artefacts: the supervised policy, and what it is worth on held-out prompts."""
PROBES = (
    "all features", "rows left out", "alpha 0.01", "alpha 100", "projected", "prompt states", "reasoning states",
    "entropies", "segment entropies", "embeddings", "last layer", "own reward",
)  # fmt: skip
OTHERS = ("running mean", "sibling's reward", "prompt tokens", "critic")
"""What a probe is compared with."""
PAIRS = ("poise", "rloo 32x2", "true value 32x2", "own rollout", "refit before use")
"""Estimators on 32 prompts with 2 responses."""
SINGLES = ("none", "constant", "poise, prompt only", "true value 64x1")
"""On 64 prompts with one."""
GROUPS = ("rloo 8x8", "group mean", "true value 8x8")
"""On 8 prompts with eight."""
FOURS = ("true value 16x4",)
ALLOCATIONS = {(32, 2): PAIRS, (64, 1): SINGLES, (8, 8): GROUPS, (16, 4): FOURS}
"""(Prompts, responses of each) -> estimators."""
ARMS = ("poise", "dapo", "grpo", "rloo", "ppo", "constant", "poise, prompt only")
QUICK_ARMS = ("poise", "dapo", "grpo", "rloo")
