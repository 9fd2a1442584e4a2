"""Names and sizes of the conjoint study: its parts, the environment variable of the survey, margins."""

PARTS = {
    "exact": "closed form",
    "average": "average case",
    "rules": "rules of thumb",
    "game": "game",
    "solvers": "solvers",
    "push": "push-forward",
    "models": "outcome models",
    "proxy": "proxies of the voters' side",
    "survey": "survey",
}
SURVEY = "STEERSMAN_CONJOINT_SURVEY"
"""Environment variable: path of the survey of Ono and Burden as CSV or CSV.GZ."""
COUNTS = (3, 5, 8)
"""Binary factors of the average case, besides one with four levels."""
SAMPLES = (500, 1500, 3500, 10000)
GAME_SAMPLES = (1000, 5000, 10000)
SHARES = (0.2, 0.5, 0.8)
GAME_LAM = 0.1
HISTORY = (0.41, 0.55)
"""Democratic share of the two-party vote in presidential elections from 1976 to 2020, about."""
SURVEY_FACTORS = ("gender", "race", "experience", "pos_security", "pos_abortion", "pos_deficit", "pos_immigrants")
SETTINGS = (("none", False, 0.05), ("none", False, 0.01), ("none", True, 0.05), ("all", False, 0.05))
"""Interactions, primaries, lam of the survey's games."""


def share_arm(share: float, primaries: bool = False) -> str:
    """Name of an arm of the game."""
    return f"{share:.0%} of the voters" + (", primaries" if primaries else "")


def count_arm(count: int) -> str:
    """Name of an arm of the average case."""
    return f"{count} binary factors and one of four levels"


def setting_arm(interactions: str, primaries: bool, lam: float) -> str:
    """Name of an arm of the survey."""
    told = "main effects" if interactions == "none" else "two-way"
    return f"{told}, lam {lam:g}" + (", primaries" if primaries else "")
