"""What an open page does: encode once, answer, stop, suggest, compare, and keep strangers apart."""

from itertools import pairwise

import pytest

from instruct_data.answers.templates import QUESTION_WORDINGS, SHOWS_IT, WHY_LOW_ABOUT
from mint_iqa.errors import MintIQAError
from mint_iqa.language.chat import MAX_HISTORY
from mint_iqa.records import Assessment, FailedAssessment, Intervals
from mint_iqa.vocabulary import DIMENSIONS
from ui.inputs import MAX_PROMPT_CHARACTERS, Upload
from ui.session import MAX_ANSWERS, Conversation, Session, Sessions, suggestions

PROMPT = "a red fox in the snow"


@pytest.fixture
def encoded(assessor, monkeypatch):
    """Grows by one with every picture the tower looks at."""
    calls, original = [], assessor.model.encode_image
    monkeypatch.setattr(assessor.model, "encode_image", lambda *args: calls.append(1) or original(*args))
    return calls


def ask(conversation, assessor, question):
    for _ in conversation.ask(assessor, question):
        pass
    return conversation.answers[-1].answer


# --- one picture ---


def test_a_picture_is_encoded_once_however_much_is_asked_about_it(assessor, uploads, encoded):
    session = Session()
    for prompt in ("", PROMPT, PROMPT, "a cat"):
        conversation = session.show(assessor, uploads[0], prompt)
        ask(conversation, assessor, "Why?")
    assert len(encoded) == 1
    session.show(assessor, uploads[1], "")
    assert len(encoded) == 2


def test_another_prompt_scores_anew_and_the_same_one_does_not(assessor, uploads):
    session = Session()
    without = session.show(assessor, uploads[0], "  ").assessment
    first = session.show(assessor, uploads[0], PROMPT).assessment
    assert without.scores.correspondence is None and first.scores.correspondence is not None
    assert session.show(assessor, uploads[0], f" {PROMPT} ").assessment is first


def test_another_picture_begins_another_conversation(assessor, uploads):
    session = Session()
    ask(session.show(assessor, uploads[0], ""), assessor, "Why?")
    assert session.show(assessor, uploads[1], "").answers == []


def test_a_file_that_is_not_a_picture_is_named_as_its_owner_named_it(assessor, tmp_path):
    path = tmp_path / "a1b2c3" / "notes.png"
    path.parent.mkdir()
    path.write_text("no picture")
    session = Session()
    with pytest.raises(MintIQAError, match=r"^my notes\.png is not a PNG") as error:
        session.show(assessor, Upload(str(path), "my notes.png"), "")
    assert str(tmp_path) not in error.value.message
    assert session.conversation is None


def test_an_overlong_prompt_is_refused_and_the_picture_stays(assessor, uploads):
    session = Session()
    before = session.show(assessor, uploads[0], PROMPT)
    with pytest.raises(MintIQAError, match=f"at most {MAX_PROMPT_CHARACTERS}"):
        session.show(assessor, uploads[0], "x" * (MAX_PROMPT_CHARACTERS + 1))
    assert session.conversation is before


# --- questions ---


def test_an_answer_grows_a_piece_at_a_time_and_is_what_the_assessor_answers(assessor, shown):
    seen = [shown.messages()[-1]["content"] for _ in shown.ask(assessor, "Why?") if shown.pending]
    assert seen[0] == "…" and len(seen) > 3
    assert all(later.startswith(earlier) for earlier, later in pairwise(seen[1:]))
    assert shown.answers[0].answer == assessor.answer(shown.picture, "Why?", PROMPT).answer
    assert shown.pending is None


def test_a_stopped_answer_ends_and_keeps_what_was_said(assessor, shown):
    steps = shown.ask(assessor, "Why?")
    for _ in range(4):
        next(steps)
    said = shown.pending.text
    shown.settle()
    assert list(steps) == []
    assert [a.answer for a in shown.answers] == [said] and said


def test_an_answer_nobody_listens_to_any_more_keeps_its_text_so_far(assessor, shown):
    steps = shown.ask(assessor, "Why?")
    next(steps), next(steps)
    steps.close()
    assert len(shown.answers) == 1 and shown.pending is None


def test_a_new_question_ends_the_answer_to_the_last_one(assessor, shown):
    first = shown.ask(assessor, "Why?")
    next(first), next(first)
    second = shown.ask(assessor, "How bad is it?")
    next(second)
    assert list(first) == []
    assert shown.pending.question == "How bad is it?"


def test_a_new_picture_ends_the_answer_about_the_last_one(assessor, uploads):
    session = Session()
    steps = session.show(assessor, uploads[0], "").ask(assessor, "Why?")
    next(steps)
    assert session.show(assessor, uploads[1], "").messages() == []
    assert list(steps) == []


@pytest.mark.parametrize(("question", "code"), [("  ", "question_empty"), ("x" * 501, "question_too_long")])
def test_a_question_that_cannot_be_asked_is_refused(assessor, shown, question, code):
    with pytest.raises(MintIQAError) as error:
        next(shown.ask(assessor, question))
    assert error.value.code == code and shown.pending is None


def test_an_answer_is_told_the_last_turns_under_this_prompt(assessor, uploads):
    session = Session()
    ask(session.show(assessor, uploads[0], ""), assessor, "Before?")
    conversation = session.show(assessor, uploads[0], PROMPT)
    assert conversation.turns == [] and len(conversation.answers) == 1
    for i in range(MAX_HISTORY + 2):
        ask(conversation, assessor, f"Why {i}?")
    assert [question for question, _ in conversation.turns] == [
        f"Why {i}?" for i in range(2, MAX_HISTORY + 2)
    ]


def test_a_long_conversation_is_cut_to_its_end_and_keeps_its_picture(assessor, shown, monkeypatch):
    monkeypatch.setattr(assessor, "ask", lambda *_: iter(["yes"]))
    for i in range(MAX_ANSWERS + 5):
        ask(shown, assessor, f"Why {i}?")
    assert shown.answers[0].question == "Why 5?" and len(shown.answers) == MAX_ANSWERS
    assert shown.records[0].scores == shown.assessment.scores and len(shown.messages()) == 2 * MAX_ANSWERS


@pytest.mark.parametrize(
    ("scores", "faults", "first"),
    [
        ({"authenticity": 12.0}, (), "Why is the authenticity low?"),
        ({"quality": 25.0}, ("blur",), "Why is the quality low?"),
        ({"quality": 55.0}, (), "Why is the quality not higher?"),
        ({}, (), "Which of the three scores is the lowest?"),
    ],
)
def test_suggestions_fit_the_result(assessment, scores, faults, first):
    suggested = suggestions(Conversation("", None, assessment(faults, **scores)))
    assert suggested[0] == first or first in suggested
    assert (first == suggested[0]) == (min(scores.values(), default=70) < 60)
    assert ("How bad is it?" in suggested) == bool(faults)


def test_without_a_prompt_nothing_is_suggested_about_it(assessment):
    suggested = suggestions(Conversation("", None, assessment(prompt=None, quality=10.0)))
    assert not [s for s in suggested if "prompt" in s or "correspondence" in s]


def test_every_suggestion_is_a_question_the_model_was_taught(assessment):
    wordings = {w for words in QUESTION_WORDINGS.values() for w in words} | set(SHOWS_IT)
    wordings |= {wording.format(name=name) for wording in WHY_LOW_ABOUT for name in DIMENSIONS}
    for level in (10.0, 50.0, 90.0):
        made = assessment(("blur",), **dict.fromkeys(DIMENSIONS, level))
        assert set(suggestions(Conversation("", None, made))) <= wordings


def test_what_was_asked_is_not_suggested_again(assessor, shown):
    first = suggestions(shown)[0]
    ask(shown, assessor, first)
    assert first not in suggestions(shown)


# --- comparison ---


def test_a_comparison_grows_a_row_at_a_time_and_names_what_is_not_a_picture(assessor, uploads, tmp_path):
    bad = tmp_path / "bad.png"
    bad.write_bytes(b"no")
    steps = list(Session().compare(assessor, [uploads[0], Upload(str(bad), "bad.png"), uploads[1]], PROMPT))
    assert [len(rows) for rows in steps] == [1, 2, 3]
    assert [type(row.record) for row in steps[-1]] == [Assessment, FailedAssessment, Assessment]
    assert steps[-1][0].record.scores == assessor.assess(uploads[0].path, PROMPT, explain=False).scores


def test_comparing_again_with_another_prompt_encodes_nothing(assessor, uploads, encoded):
    session = Session()
    for prompt in ("", PROMPT):
        list(session.compare(assessor, uploads[:3], prompt))
    assert len(encoded) == 3


@pytest.mark.parametrize(("count", "code"), [(0, "nothing_to_compare"), (9, "too_many_pictures")])
def test_none_and_too_many_pictures_are_refused(assessor, uploads, count, code):
    with pytest.raises(MintIQAError) as error:
        next(Session().compare(assessor, uploads[:count], ""))
    assert error.value.code == code


def test_an_answer_has_the_intervals_of_its_scores(assessor, shown):
    intervals = Intervals(quality=(0, 100), authenticity=None, correspondence=None)
    shown.assessment = shown.assessment.model_copy(update={"intervals": intervals})
    ask(shown, assessor, "Why?")
    assert shown.answers[0].intervals == intervals


# --- sessions ---


def test_two_people_share_nothing(assessor, uploads):
    sessions = Sessions()
    ask(sessions.get("anna").show(assessor, uploads[0], PROMPT), assessor, "Why?")
    assert sessions.get("bert").conversation is None
    assert sessions.get("anna").conversation.answers
    assert sessions.get(None) is not sessions.get(None) and len(sessions) == 2


def test_a_closed_page_is_forgotten_and_its_answer_ends(assessor, uploads):
    sessions = Sessions()
    steps = sessions.get("anna").show(assessor, uploads[0], "").ask(assessor, "Why?")
    next(steps)
    sessions.release("anna")
    assert list(steps) == [] and len(sessions) == 0
    sessions.release("nobody")


def test_sessions_are_bounded_in_number_and_age():
    sessions = Sessions(most=2)
    first = sessions.get("a")
    sessions.get("b")
    assert sessions.get("a") is first
    sessions.get("c")  # b was used longest ago
    assert sessions.get("a") is first and len(sessions) == 2
    aging = Sessions(idle=-1.0)
    assert aging.get("a") is not aging.get("a")
