"""The table of streams and the refusal of what does not fit it."""

import pytest
import torch

from steersman.core.errors import UserError
from steersman.core.streams import STREAMS, check_stream, per_token

SHAPES = {"N": (3,), "N L": (3, 5), "N L D": (3, 5, 2), "N D": (3, 7)}


@pytest.mark.parametrize("name", STREAMS)
def test_every_stream_takes_its_shape_and_no_other(name: str) -> None:
    shape = STREAMS[name].shape
    check_stream(name, torch.zeros(SHAPES[shape]), 3, 5)
    same = {SHAPES["N L"]} if shape == "N D" else set()  # a vector may be as long as a row has tokens
    for other in {*SHAPES.values()} - {SHAPES[shape], *same} | {(4, *SHAPES[shape][1:]), ()}:
        with pytest.raises(UserError, match=rf"streams\.{name}: has shape .* expected \[{shape}\]"):
            check_stream(name, torch.zeros(other), 3, 5)


@pytest.mark.parametrize("name", [n for n in STREAMS if per_token(n)])
def test_a_token_stream_of_another_width_is_refused(name: str) -> None:
    with pytest.raises(UserError, match="has shape"):
        check_stream(name, torch.zeros(3, 6, *SHAPES[STREAMS[name].shape][2:]), 3, 5)


def test_an_unknown_name_gets_the_nearest_and_all_allowed() -> None:
    with pytest.raises(UserError) as caught:
        check_stream("logp_odl", torch.zeros(3, 5), 3, 5)
    assert "unknown stream 'logp_odl'" in str(caught.value)
    assert caught.value.cure == "Did you mean 'logp_old'?"
    assert caught.value.allowed == ", ".join(STREAMS)
    with pytest.raises(UserError) as caught:
        check_stream("qqqq", torch.zeros(3, 5), 3, 5)
    assert caught.value.cure == ""


def test_every_entry_says_what_it_is() -> None:
    for stream in STREAMS.values():
        assert stream.unit
        assert stream.given_by
        assert stream.meaning
