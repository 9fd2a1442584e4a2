"""Names of the TIP study: its parts, its arms, and which arms each part and size has."""

PARTS = {
    "first": "first batch",
    "main": "distillation",
    "limits": "saturation and learning rate",
    "memory": "memory",
}
STUDENTS = {"unsure": "student", "saturated": "saturated student"}
"""Student -> artefact: one that has seen some carries, one that has seen none."""
MAIN_ARMS = (
    "full", "entropy sampled 50", "entropy sampled 20", "entropy sampled 10", "entropy top 50", "entropy top 20",
    "entropy top 10", "soft-or 50", "soft-or 20", "soft-or 10", "q3 20", "q3 10", "divergence 50", "divergence 10",
    "random 50", "random 20", "random 10", "bottom 50",
)  # fmt: skip
QUICK_ARMS = ("full", "entropy top 20", "soft-or 20", "q3 10", "random 10")
LIMIT_ARMS = ("full", "soft-or 20", "q3 20")
CURES = ("q3 20 + anchor", "q3 20, forward KL")
"""What may help where a narrow selection collapses; tried in the hardest setting alone."""
RATES = {"slow": 1e-4, "fast": 5e-4}
CHUNK = 32
"""Rows whose logits exist at a time in the memory's variants with chunks."""
HIGH_ENTROPY, HIGH_DIVERGENCE = 0.2, 1.0
"""Share of log V, and nats, above which a token counts as high; named with every share that follows from them."""
KINDS = ("plain", "carry", "times", "synonym")
"""Kinds of tokens, as `task.planted.Kind`."""
PLANTED = {"plain": "Q4", "carry": "Q3", "times": "Q1", "synonym": "Q2"}
"""The quadrant that each kind was planted in."""
