"""A token diagnosis by hand: quadrants, what rules keep, overlaps, the page, refusals."""

import pytest
import torch

from steersman.assure.diagnose.tokens import NAMES, STREAMS, diagnose_tokens, rules
from steersman.assure.diagnose.tokens_page import page, samples_of
from steersman.core.component import Moment
from steersman.core.errors import UserError
from steersman.core.types import Rollouts
from steersman.objective.components_tip import SelectTokens
from steersman.objective.select.tokens import in_loss

ROUNDING = 1e-6
#            Q4   Q4   Q2   Q3   Q1   outside the response's actions
H = torch.tensor([[0.0, 0.1, 2.0, 0.2, 2.5, 9.0]])
D = torch.tensor([[0.0, 0.1, 0.2, 6.0, 3.0, 9.0]])


def five():
    """Five actions behind a prompt of one; what stands in the last column lies behind the end."""
    pad = torch.nn.functional.pad
    streams = {"entropy": H, "divergence": D, "divergence_forward": 2 * D}
    ids = torch.arange(7).view(1, 7)
    return Rollouts.of(
        ids, torch.tensor([6]), torch.tensor([1]), streams={k: pad(x, (1, 0)) for k, x in streams.items()}
    )


@pytest.fixture
def found():
    return diagnose_tokens(five(), rules(0.4), Moment(seed=1), 1.0, 1.0)


def test_quadrants_by_hand(found):
    assert found.quadrants.label.tolist() == [[0, 4, 4, 2, 3, 1, 0]]
    rows = {r["quadrant"]: r for r in found.by_quadrant()}
    assert [rows[q]["tokens"] for q in NAMES] == [1, 1, 1, 2]
    assert rows["Q3"]["part"] == pytest.approx(6 / 9.3, abs=ROUNDING)
    assert rows["Q4"]["entropy"] == pytest.approx(0.05, abs=ROUNDING)
    assert rows["Q2"]["divergence"] == pytest.approx(0.2, abs=ROUNDING)


def test_what_rules_keep(found):
    kept = {n: x[0].nonzero()[:, 0].tolist() for n, x in found.kept.items()}
    assert kept["entropy"] == [3, 5]
    assert kept["divergence"] == kept["Soft-OR"] == [4, 5]
    assert kept["Q3"] == [2, 4]  # of h clipped at its 98th percentile the most uncertain token has weight 0
    assert kept["bottom"] == [1, 2]
    rows = {r["rule"]: r for r in found.by_rule()}
    assert {r["tokens"] for r in rows.values()} == {2}
    assert rows["entropy"]["kept"] == {"Q1": 1, "Q2": 1, "Q3": 0, "Q4": 0}
    assert rows["entropy"]["makeup"] == {"Q1": 0.5, "Q2": 0.5, "Q3": 0, "Q4": 0}
    assert rows["divergence"]["part"] == pytest.approx(9 / 9.3, abs=ROUNDING)


def test_overlap(found):
    table = found.overlap()
    assert all(table[n][n] == 1 for n in table)
    assert table["entropy"]["divergence"] == table["divergence"]["entropy"] == pytest.approx(1 / 3, abs=ROUNDING)
    assert table["bottom"]["divergence"] == 0


def test_the_sets_are_those_of_the_stage():
    batch, at = five(), Moment(seed=4, step=0)
    stage = SelectTokens(rule="entropy", mode="sample", keep=0.4)
    assert torch.equal(diagnose_tokens(batch, {"x": stage}, at).kept["x"], in_loss(stage(batch, at)[0]))


def test_an_empty_quadrant_and_a_perfect_policy():
    same = five().with_streams(divergence=torch.zeros(1, 7), divergence_forward=torch.zeros(1, 7))
    found = diagnose_tokens(same, rules(0.4))
    rows = {r["quadrant"]: r for r in found.by_quadrant()}
    assert (rows["Q3"]["tokens"], rows["Q3"]["divergence"], rows["Q3"]["part"]) == (0, None, None)
    assert {r["part"] for r in found.by_rule()} == {None}
    assert "nothing to learn" in page(found, {}, (), 20)


def test_refused():
    with pytest.raises(UserError, match="keep: is 0"):
        rules(0)
    with pytest.raises(UserError, match="no divergence_forward"):
        diagnose_tokens(Rollouts.of(torch.zeros(1, 2).long(), torch.tensor([2]), torch.tensor([1]),
                                    streams={n: torch.zeros(1, 2) for n in STREAMS[:2]}), rules(0.5))  # fmt: skip
    with pytest.raises(UserError, match="no token to look at"):
        diagnose_tokens(five().index(slice(0, 0)), rules(0.5))


def test_the_page(found, tmp_path, open_page):
    samples = samples_of(found, [list("=abcde")], [0], {0: [("prompt", "1")]})
    assert samples[0].views[0].dropped == (False, True, True, True, False, False)
    assert samples[0].views[0].streams["quadrant"] == (None, 4, 4, 2, 3, 1)
    file = tmp_path / "report.html"
    file.write_text(page(found, {"policy": "<me>"}, samples, 30), encoding="utf-8")
    view, trouble = open_page(file.as_uri())
    assert trouble == []
    assert view.locator("section#rules figure").count() == len(found.kept)
    assert view.locator("section#plane .corner").all_text_contents() == ["Q1  20%", "Q2  20%", "Q3  20%", "Q4  40%"]
    assert "64.5% of the divergence" in view.locator("p.sentence").inner_text()
    assert view.locator("section#overlap td").count() == len(found.kept) ** 2
