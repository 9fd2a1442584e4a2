"""Names of the D3S study: its parts, its arms, and which arms each part and size has."""

PARTS = {
    "gradients": "gradients of one batch",
    "main": "with fillers",
    "bare": "without fillers",
    "four": "four updates",
    "view": "one batch",
}
POLICIES = {1: "policy", 0: "policy without fillers"}
"""Fillers of a step -> artefact."""
MAIN_ARMS = (
    "grpo", "random rows", "quarter batch", "pods", "d1s", "d1s_cross", "d2s", "d2s matched", "d2s random tokens",
    "d2s oracle", "d3s", "d3s_i", "d3s random", "d3s entropy", "d3s advantage", "d3s oracle",
)  # fmt: skip
BARE_ARMS = ("grpo", "d1s_cross", "d2s", "d2s random tokens", "d2s oracle", "d3s", "d3s random")
FOUR_ARMS = ("gspo", "gspo + d3s")
QUICK_ARMS = ("grpo", "random rows", "d1s_cross", "d2s", "d3s")
GRADIENT_ARMS = ("grpo", "random rows", "pods", "d1s", "d1s_cross", "d2s", "d2s random tokens", "d2s oracle")
VIEW_ARMS = ("grpo", "random rows", "d1s_cross", "d2s", "d3s", "d3s oracle")
"""Arms that the token view shows side by side."""
