"""Networks as figures: columns, thickness, names that are not markup, circles."""

import re

import pytest

from steersman.page.network import Flow, Network, Node, columns, network
from steersman.page.theme import marks

NODES = (Node("supplier"), Node("hub", "holding 0.3", "warehouse"), Node("<shop>", "holding 1", "store"))
FLOWS = (Flow("supplier", "hub", "3", 10.0), Flow("hub", "<shop>", "2", 5.0), Flow("supplier", "<shop>", "4"))


def test_places_stand_right_of_all_that_lead_to_them() -> None:
    assert columns(NODES, FLOWS) == {"supplier": 0, "hub": 1, "<shop>": 2}


def test_a_drawing_has_every_place_and_flow_and_escapes_names() -> None:
    drawn = network(Network("Net", "lead times", NODES, FLOWS, "A note."), marks(["warehouse", "store"]))
    assert drawn.count("<rect") == 3
    assert drawn.count("<path") == 3
    assert "<shop>" not in drawn
    assert "&lt;shop&gt;" in drawn
    widths = [float(w) for w in re.findall(r"stroke-opacity:.55;stroke-width:([\d.]+)", drawn)]
    assert widths == [6.0, 3.5, 1.0]
    assert "A note." in drawn


def test_no_places() -> None:
    assert "No places to draw." in network(Network("Net", "", (), ()), {})


def test_what_cannot_be_drawn() -> None:
    with pytest.raises(ValueError, match="no place 'x'"):
        Network("Net", "", NODES, (Flow("x", "hub"),))
    with pytest.raises(ValueError, match="go round"):
        Network("Net", "", NODES, (Flow("hub", "<shop>"), Flow("<shop>", "hub")))
