"""Names of the ADORA study: its parts, its arms, and which arms each part and size has."""

PARTS = {
    "long": "long is good",
    "short": "short is good",
    "grid": "tau and weight",
    "joined": "with other methods",
    "classes": "classes at fixed weights",
    "view": "one batch",
}
WORLDS = ("long", "short")
POLICIES = {"long": "policy where long is good", "short": "policy where short is good"}
"""World -> artefact; the parts "grid" and "joined" are in the world "long"."""
MAIN_ARMS = (
    "grpo", "amplify", "amplify mean1", "amplify permuted", "amplify length", "amplify difficulty", "amplify either",
    "attenuate", "attenuate mean1", "attenuate permuted",
)  # fmt: skip
WORLD_ARMS = {
    "long": MAIN_ARMS,
    "short": tuple(n for n in MAIN_ARMS if n.split()[-1] not in ("length", "difficulty", "either")),
}
"""Other criteria are tried where long is good only."""
TAUS, HEAVY, LIGHT = (0.25, 0.5, 0.75), (1.5, 2.0, 3.0), (0.0, 0.05, 0.1, 0.2)
AMPLIFIED = {f"amplify tau {tau} w {w}": (tau, w) for tau in TAUS for w in HEAVY if (tau, w) != (0.5, 2.0)}
ATTENUATED = {f"attenuate w {w}": w for w in LIGHT if w != 0.1}
"""Arms of the grid besides the published settings, which the main arms "amplify" and "attenuate" have."""
GRID_ARMS = (*AMPLIFIED, *ATTENUATED)
JOINED = {"dr_grpo": "dr_grpo + adora", "rloo": "rloo + adora", "filter": "filter + adora"}
"""A method -> the same with ADORA."""
JOINED_ARMS = tuple(name for pair in JOINED.items() for name in pair)
VIEW_ARMS = ("grpo", "amplify", "amplify permuted", "attenuate", "attenuate permuted")
"""Arms that the token view shows side by side."""
QUICK_ARMS = ("grpo", "amplify", "attenuate")
GROUPS = (5, 8, 16, 64)
CRITERIA = ("length", "difficulty", "both")
