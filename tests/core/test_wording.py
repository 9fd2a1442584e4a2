"""Values that a recipe refuses are refused in a user's words: no class of Python, no word of the library's."""

from typing import Annotated, Any

import pytest
from pydantic import BaseModel, Field, ValidationError

from steersman.core.wording import wrong


class Every(BaseModel):
    above: float = Field(1, gt=0, allow_inf_nan=False)
    least: int = Field(1, ge=1)
    below: float = Field(0, lt=1)
    most: int = Field(0, le=10)
    text: str = Field("a", min_length=1)
    shaped: str = Field("a:b", pattern=r"^\w+:\w+$")
    yes: bool = True
    many: tuple[float, ...] = Field((1.0,), min_length=1)
    few: list[Annotated[str, Field(max_length=2)]] = []
    table: dict[str, float] = {}


@pytest.mark.parametrize(
    "field, value, said",
    [
        ("above", 0.0, "got 0.0: must be above 0"),
        ("above", float("nan"), "got nan: must be a finite number"),
        ("above", float("inf"), "got inf: must be a finite number"),
        ("above", "x", "got 'x': must be a number"),
        ("above", {}, "got a table, a number is wanted"),
        ("least", 0, "got 0: must be at least 1"),
        ("least", 1.5, "got 1.5: must be a whole number"),
        ("least", "1" * 5000, f"got {'1' * 5000!r}: must be a whole number"),
        ("below", 1, "got 1: must be below 1"),
        ("most", 11, "got 11: must be at most 10"),
        ("text", "", "got '': must have at least 1 character"),
        ("text", 3, "got 3: must be text"),
        ("shaped", "a.b", "got 'a.b': has not the form that is wanted"),
        ("yes", "perhaps", "got 'perhaps': must be true or false"),
        ("many", "[a]", "got '[a]': must be a list"),
        ("many", (), "got (): must have at least 1 item"),
        ("few", ["abc"], "got 'abc': must have at most 2 characters"),
        ("few", {}, "got a table, a list is wanted"),
        ("table", 3, "got 3, a table is wanted"),
    ],
)
def test_words(field: str, value: Any, said: str) -> None:
    with pytest.raises(ValidationError) as caught:
        Every(**{field: value})
    error = caught.value.errors()[0]
    assert wrong(error["type"], error["input"], error["msg"], error.get("ctx") or {}) == said


def test_a_validators_own_words_stay() -> None:
    assert wrong("value_error", 3, "Three is too many", {}) == "got 3: three is too many"
    assert wrong("value_error", {"a": 1}, "a and b exclude each other", {}).startswith("got these values together: a")
