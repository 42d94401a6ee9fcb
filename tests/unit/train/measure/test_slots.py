"""Slot accuracy on stand-ins for AIGCIQA2023+'s pictures, answered right and wrong on purpose."""

import json
from pathlib import Path
from types import SimpleNamespace

import pytest
from PIL import Image

from instruct_data.answers.grammar import SLOTS, answer_of
from instruct_data.importers.aigciqa2023 import QUESTIONS
from instruct_data.splits import OFFICIAL_TEST
from mint_iqa.errors import MintIQAError
from train.measure.slots import evaluate_slots

TEST = sorted(OFFICIAL_TEST)[:6]
TRAIN = [number for number in range(60) if number not in OFFICIAL_TEST][:24]


def level_of_picture(number: int, words: int) -> int:
    return number % words


def truth(number: int, dimension: str) -> str:
    """The words go with the picture's number; so does the score (see `write_labels`)."""
    levels = {slot.name: level_of_picture(number, len(slot.words)) for slot in SLOTS}
    return answer_of(levels, dimension)


def write_labels(folder: Path) -> Path:
    rows = []
    for number in [*TRAIN, *TEST]:
        scores = {"moz1": (number % 4) / 4, "moz2": (number % 3) / 3, "moz3": (number % 3) / 3}
        for dimension in ("quality", "authenticity", "correspondence"):
            question = {"q1": QUESTIONS[dimension], "a1": truth(number, dimension)}
            rows.append({"id": "0", "img": f"{number}.png", "prompt": f"p{number}", **scores, **question})
    (folder / "labels.json").write_text(json.dumps(rows))
    for number in TEST:
        Image.new("RGB", (8, 8)).save(folder / f"{number}.png")
    return folder / "labels.json"


class Parrot:
    """Answers by `say(number, dimension)`; every score is 0."""

    def __init__(self, say) -> None:
        self.say = say

    def answer(self, image, question, prompt=None):
        dimension = next(name for name, asked in QUESTIONS.items() if asked == question)
        scores = SimpleNamespace(quality=0.0, authenticity=0.0, correspondence=0.0)
        return SimpleNamespace(answer=self.say(int(Path(image).stem), dimension), scores=scores)


def figures(folder: Path, say) -> dict:
    return {found.slot: found for found in evaluate_slots(Parrot(say), write_labels(folder), folder)}


def test_the_annotators_own_words_are_all_right(tmp_path):
    found = figures(tmp_path, truth)
    assert found.keys() == {slot.name for slot in SLOTS}
    assert all(each.model.value == each.answered.value == 1 and each.model.of == 6 for each in found.values())
    assert all(each.true_score_thresholds.value == 1 for each in found.values())


def test_always_the_best_word_is_right_as_often_as_it_is_true(tmp_path):
    def best(number, dimension):
        return answer_of({slot.name: len(slot.words) - 1 for slot in SLOTS}, dimension)

    found = figures(tmp_path, best)
    assert found["clarity"].model.value == sum(number % 4 == 3 for number in TEST) / 6
    assert found["authenticity"].model.value == sum(number % 3 == 2 for number in TEST) / 6


def test_an_answer_in_other_words_fills_no_slot_and_is_wrong(tmp_path):
    found = figures(tmp_path, lambda number, dimension: f"The {dimension} is fair.")
    assert all(each.answered.value == each.model.value == 0 for each in found.values())
    worst = sum(number % 4 == 0 for number in TEST) / 6
    assert found["clarity"].score_thresholds.value == worst  # its scores, all 0, say the worst word


def test_a_folder_without_the_pictures_is_an_error(tmp_path):
    labels = write_labels(tmp_path)
    (tmp_path / "empty").mkdir()
    with pytest.raises(MintIQAError, match="none of the pictures"):
        evaluate_slots(Parrot(truth), labels, tmp_path / "empty")
