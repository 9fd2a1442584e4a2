"""The claims of the conjoint study, written down before its first run.

Known before they were written: the paper's statements; its authors' figures of the survey were not reproduced here, but
ours for it were known from a first look (main effects, lam .05: average case .605, equilibrium .526, .519 through
primaries, where the average case was .549). One thing was changed after the first quick run: P1 and P4 had compared the
parties' equilibrium policies, which before one evenly divided electorate are alike under any proxy; they compare the
sides' tastes since. Leaves out: what measures them (`measures`, `measures_survey`).
"""

from steersman.studies.conjoint.measures import (
    COVERAGE,
    EXPLOITABLE,
    GAMES,
    HARD,
    HONEST,
    LARGE,
    RELAXED,
    SAME,
    SLOPE,
    UNBIASED,
    Measure,
    apart,
    approaches,
    better,
    circles,
    converges,
    covers,
    driven_by_n,
    exact,
    exploitable,
    falls,
    honest,
    push,
    rules,
    unbiased,
    weaker,
)
from steersman.studies.conjoint.measures_survey import divided, inside, lower, outside, solved
from steersman.studies.conjoint.names import COUNTS, HISTORY, PARTS, SETTINGS, count_arm
from steersman.study.declare import Claim


def _claim(id: str, text: str, paper: str, measure: Measure, part: str) -> Claim:
    return Claim(id, text, paper, measure, (PARTS[part],))


PAPER, CONTROL, DERIVED, PREDICTED = "arXiv 2504.19043", "our control", "derived here", "our prediction"
COUNT_ARMS = [count_arm(c) for c in COUNTS]
CLAIMS: tuple[Claim, ...] = (
    _claim("E1", f"The closed form is the numerical optimum to {SAME:g} where it applies, and is refused elsewhere",
           f"{PAPER}: proposition 3.1", exact, "exact"),
    _claim("A1", f"Average case: the error of the policy falls with the ratings faster than n^-{SLOPE}",
           f"{PAPER}: RMSE of pi falls with n", falls("average", COUNT_ARMS), "average"),
    _claim("A2", f"The bias of Q is below {UNBIASED} standard deviations from 1,500 ratings on",
           f"{PAPER}: bias negligible", unbiased, "average"),
    _claim("A3", f"Intervals of Q cover .95 within {COVERAGE}, from {LARGE:,} ratings on", f"{PAPER}: near nominal",
           covers("average", "covered", LARGE, COUNT_ARMS), "average"),
    _claim("A4", "So do those of the policy's probabilities", f"{PAPER}: near nominal",
           covers("average", "policy_covered", LARGE, COUNT_ARMS), "average"),
    _claim("R1", "Where two good levels clash, the policy is worth more than the best levels by AMCE",
           f"{PAPER}: Q above the AMCE rule", rules("clash", 1.0), "rules"),
    _claim("R2", "Where nothing interacts the best levels by AMCE are worth at least as much: the gain is interactions",
           CONTROL, rules("additive", -1.0), "rules"),
    _claim("H1", "A policy's own model is too fond of it", DERIVED, honest("plug_in"), "rules"),
    _claim("H2", f"On folds that did not choose it, its worth is right within {HONEST} (doubly robust)", DERIVED,
           honest("doubly_robust"), "rules"),
    _claim("G1", f"Game: exploitability is below {EXPLOITABLE:g} in every survey", CONTROL, exploitable, "game"),
    _claim("G2", f"The error of both policies falls with the pairs faster than n^-{SLOPE}",
           f"{PAPER}: RMSE falls with n", falls("game", GAMES), "game"),
    _claim("G3", "The error is driven by the pairs, not by the groups' shares", f"{PAPER}: synthetic game",
           driven_by_n, "game"),
    _claim("G4", f"Intervals of Q cover .95 within {COVERAGE} at 10,000 pairs", f"{PAPER}: approaches .95",
           covers("game", "covered", 10_000, GAMES), "game"),
    _claim("G5", "Coverage of the policies is lower at 1,000 pairs than at 10,000", f"{PAPER}: below nominal at 1,000",
           approaches, "game"),
    _claim("X1", f"Extragradient solves every game of voters below {EXPLOITABLE:g} in 400 slopes", CONTROL,
           converges("voters", "extragradient"), "solvers"),
    _claim("X2", "So does OGDA", CONTROL, converges("voters", "ogda"), "solvers"),
    _claim("X3", "Where each party answers the other, plain steps stay more exploitable than extragradient",
           f"{PAPER}: Algorithm 1 may circle", circles("extragradient"), "solvers"),
    _claim("X4", "And more exploitable than OGDA", PREDICTED, circles("ogda"), "solvers"),
    _claim("X5", f"Hard draws of profiles give the exact Q through primaries within {HARD:g}", DERIVED,
           push("hard"), "push"),
    _claim("X6", f"Relaxed profiles (temperature .5), as in the package, are off by more than {RELAXED:g}",
           "reading of the authors' package", push("relaxed"), "push"),
    _claim("M1", "Where the two-way logit is right it predicts choices better than a network",
           f"{PAPER}: GLM best when nearly right", better("two-way", "logit", "network"), "models"),
    _claim("M2", "Where four factors interact the network predicts them better",
           f"{PAPER}: lower RMSE under strong nonlinearity", better("four-way", "network", "logit"), "models"),
    _claim("P1", "A split-sample proxy of the sides understates how far apart their tastes are", PREDICTED,
           apart("strong", "true sides", "split sample", "taste"), "proxy"),
    _claim("P2", "The weaker the loyalty it rests on, the more it understates the sides' tastes", PREDICTED, weaker,
           "proxy"),
    _claim("P3", "Sides inferred from the very tasks that are fitted overstate loyalty to the party", PREDICTED,
           apart("strong", "same tasks", "true sides", "loyalty"), "proxy"),
    _claim("P4", "A proxy with some signal finds the sides' tastes further apart than a coin does", CONTROL,
           apart("strong", "split sample", "no signal", "taste"), "proxy"),
    _claim("V1", f"Survey: the Democratic share of the average case lies above {HISTORY[1]}",
           f"{PAPER}: outside the range of 1976 to 2020", outside(SETTINGS[0]), "survey"),
    _claim("V2", f"The equilibrium's lies between {HISTORY[0]} and {HISTORY[1]} in every setting",
           f"{PAPER}: inside the range", inside, "survey"),
    _claim("V3", "The average case promises more than the equilibrium", PAPER, lower, "survey"),
    _claim("V4", "Through primaries parties are further apart on abortion and immigration than on other factors",
           f"{PAPER}: policies diverge there", divided, "survey"),
    _claim("V5", f"Every game's exploitability is below {EXPLOITABLE:g}", CONTROL, solved, "survey"),
    _claim("V6", "Through primaries, too, the average case lies above the range", CONTROL, outside(SETTINGS[2]),
           "survey"),
)  # fmt: skip
