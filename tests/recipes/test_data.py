"""Reading a recipe's files: which reader, and every drop, cut and oddity said."""

from types import SimpleNamespace

import pytest
from tiny_files import write

from steersman.core.errors import UserError
from steersman.language.load import load_tokenizer
from steersman.recipes.data import read_data
from steersman.recipes.training import PreferenceRecipe, RewardRecipe, SftRecipe


def recipe(kind: type, shop: SimpleNamespace, train: object, **data: object):
    return kind.model_validate({"model": {"path": str(shop.model)}, "data": {"train": str(train), **data}})


def test_each_verb_reads_its_format(shop: SimpleNamespace) -> None:
    tokenizer = load_tokenizer(shop.model)
    assert len(read_data(recipe(SftRecipe, shop, shop.completions), tokenizer, 64).train.data) == 12
    assert len(read_data(recipe(RewardRecipe, shop, shop.pairs), tokenizer, 64).train.data) == 12
    kto = recipe(PreferenceRecipe, shop, shop.rated).model_copy(
        update={
            "loss": PreferenceRecipe.model_validate(
                {"model": {"path": "m"}, "data": {"train": "t"}, "loss": {"kind": "kto"}}
            ).loss
        }
    )
    found = read_data(kto, tokenizer, 64).train
    assert [row.desirable for row in found.rows] == [i % 3 > 0 for i in range(12)]


def test_everything_odd_is_counted_and_said(shop: SimpleNamespace, tmp_path) -> None:
    rows = [
        *shop.rows[:3],
        {"prompt": "p", "chosen": "same", "rejected": "same"},
        {"prompt": "p", "chosen": "a", "rejected": "b", "label": 0.5, "note": "x"},
        {"prompt": "p" * 99, "chosen": "a", "rejected": "b"},
        {"prompt": "p", "chosen": "a<|end|>b", "rejected": "b"},
    ]
    path = write(tmp_path / "odd.jsonl", rows)
    settings = {"truncation": {"kind": "drop"}, "evaluation": str(shop.pairs)}
    found = read_data(recipe(RewardRecipe, shop, path, **settings), load_tokenizer(shop.model), 64)
    text = "\n".join(found.notes)
    for line in (
        "odd.jsonl: 5 rows",
        "odd.jsonl: 1 pairs with identical sides dropped",
        "odd.jsonl: 1 too long, dropped",
        "odd.jsonl: 1 ties (label 0.5)",
        "odd.jsonl: 1 responses with an end-of-sequence token inside",
        "odd.jsonl: 1 rows with a column 'note', which is not used",
        "pairs.jsonl: 12 rows",
    ):
        assert line in text
    assert found.held_out is not None


def test_a_row_longer_than_the_context_is_refused_by_line(shop: SimpleNamespace, tmp_path) -> None:
    path = write(tmp_path / "long.jsonl", [shop.rows[0], {"prompt": "p" * 99, "chosen": "a", "rejected": "b"}])
    with pytest.raises(UserError, match=r"long\.jsonl, line 2: the prompt has 99 tokens, more than 64"):
        read_data(recipe(RewardRecipe, shop, path), load_tokenizer(shop.model), 64)
