"""Which tokens a step of distillation learns from does not depend on how it is cut, and keep = 1 is the whole loss."""

import pytest
import torch

from steersman.core.component import Moment
from steersman.objective.components_tip import SelectTokens
from steersman.objective.select.tokens import in_loss
from steersman.recipes.diagnose_tokens import score
from steersman.studies.planted_policy import new_student
from steersman.task.planted import EOS, Planted, PlantedTeacher
from steersman.task.planted_world import PlantedWorld
from steersman.train.engine.local import LocalEngine
from steersman.train.engine.work import Drawing
from steersman.train.optimise import AdamW, Optimiser

AT = Moment(seed=2, step=3, total=9)
ROUNDING = 1e-4
"""Of weights that are 1.5 and -0.5 powers of sums in float32, relative."""
SIZE = {"n_embd": 32, "n_layer": 2, "n_head": 2, "n_positions": 32}


def engine(micro_tokens):
    model = new_student(SIZE, seed=1)
    optimiser = Optimiser(model.named_parameters(), AdamW(), 1)
    return LocalEngine(model, optimiser, micro_tokens=micro_tokens, teacher=PlantedTeacher(Planted()))


@pytest.fixture(scope="module")
def drawn():
    """Eight samples of each prompt, whose first tokens have one context each."""
    prompts = PlantedWorld(Planted()).draw(12, 5, 0)
    return engine(4096).sample(prompts, Drawing(8, 17, (EOS,)), AT, 5)


@pytest.mark.parametrize("mode", ["top", "sample", "bottom"])
@pytest.mark.parametrize("rule", ["soft_or", "q3", "divergence", "entropy"])
def test_the_set_is_that_of_any_micro_batches(drawn, rule, mode):
    sets = []
    for micro in (26, 100, 333, 4096):
        scored = score(engine(micro), drawn)
        sets.append(in_loss(SelectTokens(rule=rule, mode=mode, keep=0.2)(scored, AT)[0]))
    assert all(torch.equal(s, sets[0]) for s in sets)
    order = torch.randperm(len(drawn), generator=torch.Generator().manual_seed(0))
    moved = score(engine(100), drawn.index(order).widen(40))
    kept = in_loss(SelectTokens(rule=rule, mode=mode, keep=0.2)(moved, AT)[0])
    width = sets[0].shape[1]
    assert torch.equal(kept[:, :width], sets[0][order])
    assert not kept[:, width:].any()


@pytest.mark.parametrize("jsd_top_k", [None, 4])
@pytest.mark.parametrize("unbiased", [False, True])
def test_draws_by_entropy_and_divergence_are_those_of_any_micro_batches(drawn, jsd_top_k, unbiased):
    known = {"alpha": 1.5, "gamma": 0.5, "jsd_top_k": jsd_top_k, "unbiased": unbiased}
    stage = SelectTokens(rule="entropy", mode="sample", keep=0.2, **known)
    (asked,) = stage.passes()

    def weights(micro, rows):
        made = engine(micro)
        far = made.compare(rows, rows, asked.by, [asked.form])[asked.form]
        scored = score(made, rows).with_streams(divergence_jsd=far)
        return stage(scored, AT)[0].streams["token_weight"]

    first = weights(4096, drawn)
    for micro in (26, 333):
        again = weights(micro, drawn)
        assert torch.equal(again != 0, first != 0)
        assert torch.allclose(again, first, rtol=ROUNDING)
    order = torch.randperm(len(drawn), generator=torch.Generator().manual_seed(0))
    moved = weights(100, drawn.index(order).widen(40))
    assert torch.equal(moved[:, : first.shape[1]] != 0, first[order] != 0)


def test_a_large_divergence_does_not_leak_into_the_next_row(drawn):
    """The last token of a row, far from the teacher's, is told of that row and of no other."""
    scored = score(engine(4096), drawn)
    for row in (0, 7, len(drawn) - 1):
        alone = score(engine(4096), drawn.index(torch.tensor([row])).trim())
        n = int(drawn.length[row])
        assert torch.allclose(alone.streams["divergence"][0, :n], scored.streams["divergence"][row, :n], atol=1e-5)
    outside = ~drawn.action
    assert not scored.streams["divergence"][outside].any()
