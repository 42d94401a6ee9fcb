"""Deliberately wrong prompts: really wrong, in one word, and still a sentence."""

import csv
import os
from pathlib import Path

import numpy as np
import pytest

from instruct_data.prompts import _CLASSES, _WORDS, content_words, exchange_word, unrelated_prompt


def exchanges(prompt: str, seeds: int = 60) -> set[tuple[str, str]]:
    found = [exchange_word(prompt, np.random.default_rng(seed)) for seed in range(seeds)]
    return {(change.original, change.replacement) for change in found if change}


@pytest.mark.parametrize(("prompt", "words"), [
    ("Two dogs in the snow", {"two", "dog", "snow"}),
    ("a castle, soft lighting, hyper detail, sci-fi style", {"castle"}),
    ("portrait of beautiful women, close-up, warm color, baroque style", {"woman"}),
    ("berries and boxes on benches", {"berry", "box", "bench"}),
    ("grass, glass, a bus", {"grass", "glass", "bus"}),
    ("anime style, blurred detail", set()),
    ("", set()),
])  # fmt: skip
def test_content_words_are_what_is_to_be_seen(prompt: str, words: set[str]) -> None:
    assert content_words(prompt) == words


def test_an_unrelated_prompt_shares_nothing() -> None:
    pool = ["a dog on a beach", "puppies asleep, anime style", "red car", "a car and a dog", "anime style"]
    chosen = {unrelated_prompt("two dogs, anime style", pool, np.random.default_rng(i)) for i in range(40)}
    assert chosen == {"red car"}


def test_unrelated_prompts_are_spread_over_the_pool_and_follow_the_seed() -> None:
    pool = [f"thing{'abcdefghij'[i]}" for i in range(10)]
    chosen = [unrelated_prompt("a dog", pool, np.random.default_rng(i)) for i in range(200)]
    assert set(chosen) == set(pool)
    assert chosen[:5] == [unrelated_prompt("a dog", pool, np.random.default_rng(i)) for i in range(5)]


@pytest.mark.parametrize("pool", [[], ["a dog"], ["anime style"]])
def test_without_an_unrelated_prompt_there_is_an_error(pool: list[str]) -> None:
    with pytest.raises(ValueError, match="unrelated"):
        unrelated_prompt("the dog", pool, np.random.default_rng(0))


def test_one_word_changes_and_the_rest_stays() -> None:
    for seed in range(60):
        change = exchange_word("a black dog running in the snow", np.random.default_rng(seed))
        assert change is not None
        assert change.prompt.count(change.replacement) == 1
        before, after = change.original.split(), change.replacement.split()
        expected = "a black dog running in the snow".replace(change.original, change.replacement)
        assert change.prompt.replace("an ", "a ") == expected and len(before) == len(after) == 1


def test_a_word_is_exchanged_by_another_of_its_class() -> None:
    for original, replacement in exchanges("a black dog running in the snow", 200):
        assert _WORDS[original][0] == _WORDS[replacement][0]
        assert _WORDS[original][1] != _WORDS[replacement][1]


def test_the_replacement_is_never_what_the_prompt_already_says() -> None:
    assert exchanges("a man, a woman and a boy", 200) <= {
        (one, other) for one in ("man", "woman", "boy") for other in ("girl", "baby")
    }


def test_plurals_stay_plural_and_capitals_capital() -> None:
    for original, replacement in exchanges("Dogs", 200):
        assert original == "Dogs" and replacement[0].isupper()
        assert replacement.endswith("s") or replacement in {"Mice", "Geese", "Fish", "Sheep", "Deer"}
    assert {"women", "boys", "girls", "babies"} == {new for _, new in exchanges("men", 200)}


def test_the_article_fits_the_new_word() -> None:
    for seed in range(200):
        change = exchange_word("a horse", np.random.default_rng(seed))
        assert change is not None
        article, word = change.prompt.split()
        assert article == ("an" if word[0] in "aeio" else "a")


@pytest.mark.parametrize("prompt", [
    "warm color, cold color, black and white photo", "a teddy bear", "mickey mouse",
    "everything is a dream", "",
])  # fmt: skip
def test_style_and_names_are_left_alone(prompt: str) -> None:
    assert exchange_word(prompt, np.random.default_rng(0)) is None


def test_odd_capitals_do_not_shift_the_word() -> None:
    change = exchange_word("İİİ a dog", np.random.default_rng(0))
    assert change is not None and change.original == "dog"


def test_the_same_seed_exchanges_the_same_word() -> None:
    prompt = "a black dog running in the snow"
    assert exchange_word(prompt, np.random.default_rng(4)) == exchange_word(prompt, np.random.default_rng(4))


def test_every_class_leaves_a_choice_and_no_word_has_two_meanings_in_it() -> None:
    for name, row in _CLASSES.items():
        words = row.replace("|", " ").split()
        assert len(row.split()) > 1 and len(words) == len(set(words)), name


@pytest.mark.data
@pytest.mark.skipif("MINT_IQA_DATA" not in os.environ, reason="set MINT_IQA_DATA to the folder of data sets")
@pytest.mark.parametrize(("table", "column", "share"), [
    ("agiqa3k/scores.csv", "prompt", 0.85), ("flickr8k/captions.csv", "caption", 0.97),
])  # fmt: skip
def test_most_prompts_in_use_can_be_exchanged(table: str, column: str, share: float) -> None:
    path = Path(os.environ["MINT_IQA_DATA"]) / table
    if not path.exists():
        pytest.skip(f"{path} is not there")
    with path.open(encoding="utf-8") as file:
        prompts = sorted({row[column] for row in csv.DictReader(file)})[::10]
    rng = np.random.default_rng(0)
    assert np.mean([exchange_word(prompt, rng) is not None for prompt in prompts]) > share
