"""Names and sizes of the causal-minimax study: its parts, methods, the environment variable of the data."""

PARTS = {
    "exact": "random worlds, exact",
    "search": "class search",
    "estimated": "random worlds, estimated",
    "gate": "gate",
    "simulation": "published simulation",
    "mouse": "mouse measurements",
}
DATA = "STEERSMAN_CAUSAL_MINIMAX_DATA"
"""Environment variable: folder of the files of the authors' code, see `FILES`."""
FILES = ("simulation_20env.csv.gz", "simulation_params.json", "simulation_train_envs.json", "impc_mouse_14env.csv")

METHODS = (
    "causal minimax", "no shortcut", "smallest within one se", "whole stable set", "constant", "ERM",
    "ERM without mutable", "surgery", "ICP", "causal transfer", "GroupDRO", "IRM", "anchor",
)  # fmt: skip
RIVALS = ("ERM", "ERM without mutable", "ICP", "causal transfer", "GroupDRO", "IRM", "anchor", "constant")

PER_CELL = 20
BLOCKS = {"quick": 5, "full": 30}
"""Cells of 20 random worlds each: exact."""
ESTIMATED_WORLDS = {"quick": 20, "full": 100}
ESTIMATED_PER_CELL = 10
ROWS = {"quick": (2000,), "full": (500, 2000, 10000)}
COMPARED = 2000
"""Rows at which claims about estimates are judged."""
GATE_SEEDS = {"quick": 2, "full": 12}
GATE_ROWS = 2000
SEARCHED = {"quick": (4, 6, 8, 10, 12), "full": (4, 6, 8, 10, 12, 14, 16)}
GRAPHS = {"quick": 12, "full": 40}
"""Random graphs of each size."""
SPLITS = {"simulation": 10, "mouse": 45}
RANK = 0.5
"""A rank correlation above this counts as high."""
SAME = 0.002
"""Mean squared errors of binary outcomes closer than this count as the same."""
SHARE = 0.25
EXACT = 1e-9
