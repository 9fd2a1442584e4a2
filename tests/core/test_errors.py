"""What a user reads when something is wrong."""

import pickle

import pytest

from steersman.core.errors import CorruptFile, RunStopped, UserError


def test_all_four_parts_appear_in_order() -> None:
    error = UserError("got 3", where="optim.lr (a.toml:4)", allowed="(0, 1]", cure="Use 0.3.")
    assert str(error).split("\n") == ["optim.lr (a.toml:4): got 3", "       allowed: (0, 1]", "       Use 0.3."]
    assert (error.what, error.where, error.allowed, error.cure) == (
        "got 3",
        "optim.lr (a.toml:4)",
        "(0, 1]",
        "Use 0.3.",
    )


def test_absent_parts_leave_no_trace() -> None:
    assert str(UserError("is wrong")) == "is wrong"
    assert str(UserError("is wrong", cure="Fix it.")) == "is wrong\n       Fix it."


def test_exit_codes_and_families() -> None:
    assert (UserError.exit_code, CorruptFile.exit_code, RunStopped.exit_code) == (2, 2, 1)
    assert issubclass(UserError, ValueError)
    assert issubclass(CorruptFile, UserError)
    assert not issubclass(RunStopped, UserError)


@pytest.mark.parametrize("kind", [UserError, CorruptFile])
def test_errors_cross_process_borders_whole(kind: type[UserError]) -> None:
    error = kind("got 3", where="here", allowed="1, 2", cure="Use 1.")
    back = pickle.loads(pickle.dumps(error))
    assert type(back) is kind
    assert str(back) == str(error)
    assert (back.what, back.where, back.allowed, back.cure) == ("got 3", "here", "1, 2", "Use 1.")
