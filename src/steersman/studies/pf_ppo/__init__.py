"""PF-PPO on TinyCode: which responses should PPO learn from when the reward is a learned, imperfect model?

R^2 of the reward under every filter is shown beside what its range alone gives (`reliability`); every training arm is a
recipe as a user writes it (`arms`). Claims were declared before the first run of version 1, in which PPO did not learn;
version 2 has another rate, KL, batch and reward model, chosen on plain PPO alone (`claims`, docs/pf-ppo.md).
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from steersman.store.run import RunDir
from steersman.studies.pf_ppo import claims, show
from steersman.studies.pf_ppo.names import POLICY, RELIABILITY, REWARD
from steersman.study.declare import Cell, Mode, ModeName, NotTestable, Result, Study, Word

MINUTES = {"quick": 2.0, "full": 18.0}
NOTES = {
    "quick": "R^2 with six draws of 400 prompts; PPO on all five, two at random, best and best-worst, and PPO paid by "
    "the tests, for 12 batches with three seeds, of which the first two move the critic alone. Of training it shows "
    "little.",
    "full": "R^2 with twelve draws; fourteen arms for 36 batches with five seeds, two with exact rewards, one paid by "
    "the tests. RAFT, DPO and tuned thresholds are left out.",
}


def mode(name: ModeName, extra_seeds: int = 0) -> Mode:
    """The runs of one size."""
    from steersman.studies import tiny_code_policy
    from steersman.studies.pf_ppo import reward
    from steersman.studies.pf_ppo.arms import cells

    made = (tiny_code_policy.artefact(name=POLICY), reward.artefact())
    return Mode(name, cells(name, extra_seeds), made, MINUTES[name], NOTES[name])


def run(cell: Cell, run_dir: RunDir, artefacts: Mapping[str, Path]) -> dict[str, Any]:
    """One run."""
    if cell.part == RELIABILITY:
        from steersman.studies.pf_ppo import reliability
        from steersman.studies.tiny_code_policy import model_folder

        return reliability.run(cell, model_folder(artefacts[POLICY]), artefacts[REWARD] / "model")
    from steersman.studies.pf_ppo import training

    return training.run(cell, run_dir, artefacts)


def answer(results: Sequence[Result], words: Mapping[str, Word]) -> str:
    """What came out, in plain words."""
    return show.sentence(results)


STUDY = Study(
    name="pf-ppo",
    title="Learning from responses whose reward can be trusted",
    question="Does PPO gain from learning from the responses of extreme reward only, and does R^2 say which filter?",
    paper='Shen, Zhang, "Policy Filtration for RLHF to Mitigate Noise in Reward Models", ICML 2025, arXiv 2409.06957',
    version=2,
    mode=mode,
    run=run,
    claims=claims.CLAIMS,
    answer=answer,
    show=show.show,
    not_testable=(
        NotTestable("Pass@1 on HumanEval, MBPP and LeetCode with 7 B parameters", "two cores; 0.1 M parameters"),
        NotTestable("Programs for functions that the policy was not taught", "a model of this size gets few right"),
        NotTestable("RAFT, DPO, IPO, KTO and BOND as baselines", "they learn in another loop than the filters"),
        NotTestable("Thresholds tuned on validation data", "fixed beforehand, in units of the reward's spread"),
    ),
    equal="start, reward model, 320 responses of a batch, eight updates of it, AdamW at 4e-5, held-out prompts; of a "
    "seed prompts and sampling noise. Not equal: prompts (ppo-s: 320, not 64), rows learnt from, the critic (grpo), KL "
    "(0.2 where the reward model pays, 0.01 where the tests do)",
    method_page="docs/pf-ppo.md",
    preload=("torch", "transformers", "transformers.models.llama.modeling_llama", "steersman.recipes.rl_job"),
)
