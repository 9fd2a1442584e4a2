"""Names of the CEPO study: its parts, its arms, and which arms each part and size has."""

PARTS = {
    "evidence": "evidence at the first policy",
    "coin": "hidden coin",
    "view": "one batch",
    "main": "one filler",
    "noise": "eight fillers",
}
POLICIES = {1: "policy", 8: "policy with eight fillers"}
"""Fillers of a step -> artefact."""
FAST = "grpo 5x"
MAIN_ARMS = (
    "grpo", "rlsd", "cepo", "cepo own", "cepo modal", "cepo shuffled", "cepo exact", "oracle", "sdpo", "opsd", FAST,
)  # fmt: skip
NOISE_ARMS = ("grpo", "rlsd", "cepo", "cepo exact", "oracle")
QUICK_ARMS = ("grpo", "rlsd", "cepo", "opsd", FAST)
VIEW_ARMS = ("grpo", "rlsd", "cepo", "d3s", "tip")
"""Methods that the token view shows side by side."""
