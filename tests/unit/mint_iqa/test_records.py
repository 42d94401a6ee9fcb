"""Records check themselves, and whatever they export follows the schema."""

import copy
import json

import jsonschema
import pytest
from pydantic import ValidationError

from mint_iqa.errors import MintIQAError
from mint_iqa.records import (
    Answer,
    Assessment,
    Explanation,
    FailedAnswer,
    FailedAssessment,
    Failure,
    Fault,
    Intervals,
    Levels,
    ModelInfo,
    Scores,
    schema,
)

MODEL = ModelInfo(name="nano", revision="abc")
SCORES = Scores(quality=63.2, authenticity=41.876, correspondence=None)
INTERVALS = Intervals(quality=(51, 74.5), authenticity=(20.123, 41.876), correspondence=None)
FAILURE = Failure(code="image_missing", message="a.png does not exist: check the path.")


def assessment(**changes):
    scores = changes.pop("scores", SCORES)
    return Assessment(
        **{"image": "a.png", "model": MODEL, "scores": scores, "levels": Levels.of(scores)} | changes
    )


def answer(**changes):
    fields = {"image": "a.png", "model": MODEL, "question": "Why?", "answer": "Blur.", "scores": SCORES}
    return Answer(**fields | changes)


def exported(record):
    return json.loads(record.model_dump_json())


def every_kind():
    with_prompt = Scores(quality=0, authenticity=100, correspondence=55.5)
    explanation = Explanation(quality="Fine.", authenticity="Fine.", correspondence="Fine.", overall="Fine.")
    return [
        assessment(),
        assessment(
            prompt="a fox",
            scores=with_prompt,
            image_sha256="0" * 64,
            faults=[Fault(name="blur", severity=0.5)],
            warnings=["its transparent parts were laid on white"],
            explanation=explanation,
            metadata={"id": "7"},
        ),
        FailedAssessment(image="a.png", model=MODEL, error=FAILURE, metadata={"id": "7"}),
        answer(),
        assessment(intervals=INTERVALS),
        answer(intervals=INTERVALS),
        FailedAnswer(image="a.png", model=MODEL, question="Why?", error=FAILURE),
    ]


def complies(value):
    return jsonschema.Draft202012Validator(schema()).is_valid(value)


def test_the_schema_is_a_valid_schema():
    jsonschema.Draft202012Validator.check_schema(schema())


@pytest.mark.parametrize("record", every_kind(), ids=lambda record: type(record).__name__)
def test_every_export_follows_the_schema_alone_and_in_an_array(record):
    assert complies(exported(record))
    assert complies([exported(record), exported(assessment())])


@pytest.mark.parametrize("record", every_kind(), ids=lambda record: type(record).__name__)
def test_a_record_survives_the_way_through_json(record):
    again = type(record).model_validate_json(record.model_dump_json())
    assert again.model_dump() == record.model_dump()


@pytest.mark.parametrize(
    "damage",
    [
        {"schema_version": "2.0"},
        {"extra": 1},
        {"levels": None},
        {"scores": {"quality": 101, "authenticity": 1, "correspondence": None}},
        {"scores": {"quality": 1, "authenticity": 1}},
        {"schema_version": "1.1"},
        {"intervals": {"quality": [1, 70]}},
        {"intervals": {"quality": [1], "authenticity": None, "correspondence": None}},
        {"intervals": {"quality": [1, 101], "authenticity": None, "correspondence": None}},
        {"faults": [{"name": "ugliness", "severity": 0.5}]},
        {"image_sha256": "xyz"},
        {"metadata": {"id": 7}},
        {"error": {"code": "image_missing", "message": "Gone."}},
    ],
)
def test_the_schema_rejects_what_is_no_record(damage):
    assert not complies(exported(assessment()) | damage)


@pytest.mark.parametrize(
    "field", ["schema_version", "image", "prompt", "model", "scores", "intervals", "levels", "explanation"]
)
def test_the_schema_wants_every_field(field):
    value = exported(assessment())
    del value[field]
    assert not complies(value)


def test_a_failed_record_has_an_error_instead_of_results():
    failed, good = exported(every_kind()[2]), exported(assessment())
    assert failed["error"] == {"code": FAILURE.code, "message": FAILURE.message}
    assert not {"scores", "levels", "faults", "explanation"} & set(failed)
    assert "error" not in good


def test_metadata_is_present_only_when_there_is_some():
    assert "metadata" not in exported(assessment())
    assert "metadata" not in assessment().model_dump()
    assert exported(assessment(metadata={"id": "7"}))["metadata"] == {"id": "7"}


def test_scores_are_written_with_two_decimals_and_kept_in_full():
    assert exported(assessment())["scores"]["authenticity"] == 41.88
    assert SCORES.authenticity == 41.876
    assert exported(assessment(faults=[Fault(name="blur", severity=1 / 3)]))["faults"][0]["severity"] == 0.33
    tiny = Scores(quality=-0.0, authenticity=1, correspondence=None)
    assert "-0.0" not in tiny.model_dump_json()


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -0.1, 100.1, None, "high"])
def test_a_score_is_a_number_on_0_to_100(bad):
    with pytest.raises(ValidationError):
        Scores(quality=bad, authenticity=1, correspondence=None)


@pytest.mark.parametrize("make", [assessment, answer])
def test_an_interval_is_written_with_two_decimals_and_kept_in_full(make):
    written = exported(make(intervals=INTERVALS))["intervals"]
    assert written == {"quality": [51, 74.5], "authenticity": [20.12, 41.88], "correspondence": None}
    assert INTERVALS.authenticity == (20.123, 41.876)
    assert exported(make())["intervals"] is None


def test_an_assessment_gives_the_interval_of_a_score_as_it_is_written():
    assert assessment(intervals=INTERVALS).interval("authenticity") == (20.12, 41.88)
    assert assessment(intervals=INTERVALS).interval("correspondence") is None
    assert assessment().interval("quality") is None


@pytest.mark.parametrize(
    "ends", [(64, 60), (-1, 70), (60, 100.5), (float("nan"), 70), (60,), (60, 65, 70), (60, None)]
)
def test_an_interval_is_two_ends_on_0_to_100_the_low_one_first(ends):
    with pytest.raises(ValidationError):
        Intervals(quality=ends, authenticity=None, correspondence=None)


@pytest.mark.parametrize("make", [assessment, answer])
@pytest.mark.parametrize("ends", [(10, 63.19), (63.21, 80)])
def test_an_interval_contains_its_score(make, ends):
    with pytest.raises(ValidationError, match=r"intervals\.quality must contain"):
        make(intervals=Intervals(quality=ends, authenticity=None, correspondence=None))


@pytest.mark.parametrize("ends", [(10, 63.1951), (63.2049, 80), (63.2, 63.2)])
def test_rounding_alone_puts_no_score_outside_its_interval(ends):
    one = Intervals(quality=ends, authenticity=None, correspondence=None)
    assert assessment(intervals=one).interval("quality") == tuple(round(end, 2) for end in ends)


@pytest.mark.parametrize("make", [assessment, answer])
def test_what_is_not_scored_has_no_interval(make):
    with pytest.raises(ValidationError, match=r"intervals\.correspondence must be None"):
        make(intervals=Intervals(quality=None, authenticity=None, correspondence=(0, 100)))


@pytest.mark.parametrize("record", every_kind(), ids=lambda record: type(record).__name__)
def test_a_record_of_version_1_1_is_read_without_intervals_and_one_of_1_0_not_at_all(record):
    now = {field: None if field == "intervals" else value for field, value in exported(record).items()}
    earlier = {field: value for field, value in now.items() if field != "intervals"} | {
        "schema_version": "1.1"
    }
    assert exported(type(record).model_validate_json(json.dumps(earlier))) == now
    with pytest.raises(ValidationError, match="schema_version"):
        type(record).model_validate_json(json.dumps(earlier | {"schema_version": "1.0"}))


@pytest.mark.parametrize("bad", [float("nan"), -0.1, 1.1])
def test_a_severity_is_a_number_on_0_to_1(bad):
    with pytest.raises(ValidationError):
        Fault(name="blur", severity=bad)


def test_words_follow_the_numbers_as_they_are_written():
    levels = Levels.of(Scores(quality=79.996, authenticity=79.994, correspondence=0))
    assert (levels.quality, levels.authenticity, levels.correspondence) == ("excellent", "good", "bad")
    assert Levels.of(SCORES).correspondence is None


def test_words_that_contradict_the_numbers_are_rejected():
    wrong = Levels(quality="bad", authenticity="fair", correspondence=None)
    with pytest.raises(ValidationError, match="levels must follow"):
        assessment(levels=wrong)


@pytest.mark.parametrize("make", [assessment, answer])
def test_there_is_no_correspondence_without_a_prompt(make):
    scores = Scores(quality=1, authenticity=1, correspondence=1)
    assert make(scores=scores, prompt="a fox").scores.correspondence == 1
    with pytest.raises(ValidationError, match="no prompt"):
        make(scores=scores)


def test_records_are_frozen_and_know_their_fields():
    with pytest.raises(ValidationError):
        assessment().image = "b.png"
    with pytest.raises(ValidationError):
        assessment(color="red")


def test_a_record_can_be_given_its_origin():
    moved = assessment(image="/data/a.png").with_origin("a.png", {"id": "7"})
    assert (moved.image, moved.metadata) == ("a.png", {"id": "7"})
    assert moved.scores == SCORES
    assert moved.with_origin("a.png", {}).metadata is None


def test_a_file_name_that_is_not_utf8_can_be_exported():
    record = assessment().with_origin("caf\udce9.png", None)
    assert exported(record)["image"] == "caf\\xe9.png"


def test_an_error_shows_its_message_and_survives_copying():
    error = copy.copy(MintIQAError("image_missing", "a.png does not exist."))  # as between processes
    assert (str(error), error.code) == ("a.png does not exist.", "image_missing")
    assert Failure.of(error) == Failure(code="image_missing", message="a.png does not exist.")
