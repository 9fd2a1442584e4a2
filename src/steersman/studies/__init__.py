"""The studies that come with the library, one file or folder per paper.

`STUDIES` names them without importing any: what a study needs is loaded when it is asked for.
"""

STUDIES: dict[str, str] = {
    "adora": "steersman.studies.adora:STUDY",
    "causal-minimax": "steersman.studies.causal_minimax:STUDY",
    "cepo": "steersman.studies.cepo:STUDY",
    "compose": "steersman.studies.compose:STUDY",
    "conjoint": "steersman.studies.conjoint:STUDY",
    "d3s": "steersman.studies.d3s:STUDY",
    "dp-bai": "steersman.studies.dp_bai:STUDY",
    "pf-ppo": "steersman.studies.pf_ppo:STUDY",
    "poise": "steersman.studies.poise:STUDY",
    "rdpo": "steersman.studies.rdpo:STUDY",
    "rl-presets": "steersman.studies.rl_presets:STUDY",
    "tip": "steersman.studies.tip:STUDY",
}
"""Name on the command line -> "module:ATTRIBUTE"."""
