"""The Assessor: records that hold, scores that depend on nothing else, answers, and errors one can act on."""

import json
import shutil
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import jsonschema
import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from mint_iqa import assessor as assessor_module
from mint_iqa import pictures as pictures_module
from mint_iqa import records
from mint_iqa.assessor import MAX_QUESTION_CHARACTERS, UNTAUGHT, Assessor
from mint_iqa.checkpoints.finding import find_checkpoint, revision_of
from mint_iqa.errors import MintIQAError
from mint_iqa.images import read_image
from mint_iqa.language.guard import FIT_WORDS
from mint_iqa.model.modeling import MintIQAModel
from mint_iqa.records import Assessment, FailedAssessment, Fault, Scores
from mint_iqa.vocabulary import FAULT_WORDS, FAULTS, GRADES, NAMED_FROM, QUESTIONS
from tests import tiny

PROMPT = "a red fox in the snow"
VALIDATOR = jsonschema.Draft202012Validator(records.schema())


@pytest.fixture(scope="module")
def assessor(tiny_checkpoint):
    return Assessor.from_pretrained(tiny_checkpoint, device="cpu")


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """Paths of four pictures of different sizes."""
    folder = tmp_path_factory.mktemp("pictures")
    random = np.random.default_rng(0)
    paths = []
    for i, (width, height) in enumerate([(40, 30), (64, 64), (28, 50), (90, 60)]):
        coarse = random.integers(0, 256, (5, 4, 3), dtype=np.uint8)
        paths.append(folder / f"{i}.png")
        Image.fromarray(coarse).resize((width, height)).save(paths[-1])
    return paths


def count_calls(monkeypatch, owner, name):
    calls = []
    original = getattr(owner, name)

    def counted(*args, **kwargs):
        calls.append(args)
        return original(*args, **kwargs)

    monkeypatch.setattr(owner, name, counted)
    return calls


def numbers(record):
    return [score for _, score in record.scores if score is not None]


def assert_same(one, other):
    assert one.prompt == other.prompt
    assert numbers(one) == pytest.approx(numbers(other), abs=1e-3)  # of 100
    assert [f.name for f in one.faults] == [f.name for f in other.faults]


def test_an_assessment_is_a_valid_record_with_everything_in_it(assessor, pictures):
    record = assessor.assess(pictures[0], PROMPT)
    VALIDATOR.validate(record.model_dump(mode="json"))
    assert isinstance(record, Assessment)
    assert record.image == str(pictures[0]) and record.prompt == PROMPT
    assert record.scores.correspondence is not None
    explanation = record.explanation.model_dump()
    assert set(explanation) == set(QUESTIONS) and all(explanation.values())
    assert record.warnings == ()


def test_the_tiny_model_tells_pictures_and_prompts_apart(assessor, pictures):
    """Or the other tests here would compare nothing."""
    scores = [numbers(assessor.assess(p, q, explain=False)) for p in pictures for q in (PROMPT, "two dogs")]
    assert all(0.5 < s < 99.5 for row in scores for s in row)
    assert len({round(row[2], 1) for row in scores}) == len(scores)


def test_without_explain_there_is_no_explanation_and_no_llm_is_loaded(tiny_checkpoint, pictures, monkeypatch):
    loads = count_calls(monkeypatch, assessor_module.LanguageModel, "load")
    fresh = Assessor.from_pretrained(tiny_checkpoint, device="cpu")
    assert fresh.assess(pictures[0], explain=False).explanation is None
    assert loads == []
    fresh.assess(pictures[0])
    fresh.assess(pictures[0])
    assert len(loads) == 1


@pytest.mark.parametrize("prompt", [None, "", "  \n\t"])
def test_without_a_prompt_correspondence_is_neither_scored_nor_explained(assessor, pictures, prompt):
    record = assessor.assess(pictures[0], prompt)
    VALIDATOR.validate(record.model_dump(mode="json"))
    assert record.prompt is None
    assert record.scores.correspondence is record.levels.correspondence is None
    assert record.explanation.correspondence is None and record.explanation.overall
    assert numbers(record) == numbers(assessor.assess(pictures[0], None))


def test_blanks_around_a_prompt_do_not_count(assessor, pictures):
    assert_same(assessor.assess(pictures[0], f"  {PROMPT}\n"), assessor.assess(pictures[0], PROMPT))


def test_faults_are_those_above_the_threshold_and_strongest_first(assessor, pictures, monkeypatch):
    logits = torch.tensor([[0.0, 3.0, -3.0, 1.0, -1.2, -1.0]])
    monkeypatch.setattr(assessor.model.fault_head, "forward", lambda vectors: logits)
    monkeypatch.setattr(pictures_module, "contradicted", lambda image: frozenset())
    faults = assessor.assess(pictures[0], explain=False).faults
    named = [(s, n) for s, n in zip(logits[0].sigmoid().tolist(), FAULTS, strict=True) if s >= NAMED_FROM]
    assert [(f.severity, f.name) for f in faults] == sorted(named, reverse=True)
    assert len(faults) == 4


def test_words_for_faults_that_were_not_detected_are_banned_and_for_detected_ones_allowed(
    assessor, pictures, monkeypatch
):
    logits = torch.tensor([[3.0, -9, -9, -9, -9, -9]])  # blur alone
    monkeypatch.setattr(assessor.model.fault_head, "forward", lambda vectors: logits)
    decodes = count_calls(monkeypatch, assessor.language_model(), "decode")
    assessor.assess(pictures[0])
    banned = {ids[0] for ids in decodes[0][1][0] if len(ids) == 1}
    language = assessor.language_model()
    blur = language.first_tokens(FAULT_WORDS["blur"])
    assert not banned & blur
    assert language.first_tokens(["grainy", "pixelated", "underexposed"]) - blur <= banned
    assert not banned & language.first_tokens(["heavily"])  # severity .95
    assert language.first_tokens(["slightly", "clearly"]) <= banned


def test_answers_written_together_are_those_written_alone(assessor, pictures, monkeypatch):
    """Each under its own picture's ban."""
    monkeypatch.setattr(assessor.model.fault_head, "forward", lambda v: v.mean(dim=1)[:, :6] * 40)
    items = [(pictures[0], PROMPT), (pictures[1], None), (pictures[0], "a dog")]
    decodes = count_calls(monkeypatch, assessor.language_model(), "decode")
    together = list(assessor.assess_many(items, explain=True))
    assert len(decodes) == 1 and len({tuple(banned) for banned in decodes[0][1]}) > 1
    for item, record in zip(items, together, strict=True):
        assert record.explanation == assessor.assess(*item).explanation


def test_where_no_fault_was_detected_no_word_for_its_strength_is_said_either(assessor, pictures, monkeypatch):
    monkeypatch.setattr(assessor.model.fault_head, "forward", lambda vectors: torch.full((1, 6), -9.0))
    decodes = count_calls(monkeypatch, assessor.language_model(), "decode")
    assessor.assess(pictures[0])
    grades = assessor.language_model().first_tokens([*GRADES])
    assert {(token,) for token in grades} <= set(decodes[0][1][0])


@pytest.mark.parametrize(
    ("correspondence", "fit"), [(39.994, "missed"), (39.996, "part"), (60, "shown"), (None, None)]
)
def test_of_the_prompt_only_what_its_score_says_may_be_said(assessor, pictures, correspondence, fit):
    rated = assessor.rate([(assessor.read(pictures[0]), PROMPT)])[0]
    scores = Scores(quality=50, authenticity=50, correspondence=correspondence)
    banned = set(assessor.banned_sequences(replace(rated, scores=scores)))
    language = assessor.language_model()
    for phrase, fits in FIT_WORDS.items():
        sequences = language.sequences([phrase])
        assert sequences and (not sequences & banned if fit in fits else sequences <= banned), phrase


@pytest.mark.parametrize(
    ("fault", "explained", "other"),
    [("malformation", "authenticity", "quality"), ("noise", "quality", "authenticity")],
)
def test_a_score_that_a_detected_fault_explains_is_not_called_unexplained(
    assessor, pictures, fault, explained, other
):
    rated = assessor.rate([(assessor.read(pictures[0]), None)])[0]
    scores = Scores(quality=50, authenticity=50, correspondence=None)
    sound, faulted = (
        set(assessor.banned_sequences(replace(rated, scores=scores, faults=faults)))
        for faults in ((), (Fault(name=fault, severity=0.6),))
    )
    language = assessor.language_model()
    for words in (", but", "; none", ". None"):
        barred, allowed = (language.sequences([f"{name} is fair{words}"]) for name in (explained, other))
        assert barred <= faulted and not allowed & faulted and not barred & sound, words
    assert language.sequences(["can detect no fault"]) <= faulted - sound


def test_a_long_prompt_is_cut_with_a_warning(assessor, pictures):
    long = "fox " * 14
    assert assessor.assess(pictures[0], long, explain=False).warnings == ()
    (warning,) = assessor.assess(pictures[0], long + "cat", explain=False).warnings
    assert "first 16 tokens" in warning


@pytest.mark.parametrize("size, warned", [((80, 40), False), ((40, 81), True), ((200, 20), True)])
def test_an_elongated_picture_is_scored_with_a_warning(assessor, size, warned):
    picture = Image.linear_gradient("L").resize(size).convert("RGB")
    warnings = assessor.assess(picture, explain=False).warnings
    assert [f"{size[0]} x {size[1]}" in w and "2:1" in w for w in warnings] == [True] * warned


def test_a_picture_unlike_the_familiar_ones_is_scored_with_a_warning(assessor, pictures, monkeypatch):
    monkeypatch.setattr(assessor.model, "novelty", lambda encoded: torch.tensor([1.1]))
    (warning,) = assessor.assess(pictures[0], explain=False).warnings
    assert "less certain" in warning


def test_what_was_done_to_read_the_picture_is_among_the_warnings(assessor):
    see_through = Image.linear_gradient("L").resize((40, 40)).convert("RGBA")
    see_through.putalpha(99)
    (warning,) = assessor.assess(see_through, explain=False).warnings
    assert "transparent" in warning


def test_an_empty_picture_is_called_empty_and_no_fault_is_named(assessor, monkeypatch):
    monkeypatch.setattr(assessor.model.fault_head, "forward", lambda vectors: torch.full((1, 6), 3.0))
    record = assessor.assess(Image.new("RGB", (40, 40)), explain=False)
    assert record.faults == ()
    assert any("empty" in warning for warning in record.warnings)


@pytest.mark.parametrize("batch_size", [1, 2, 3, 8])
def test_many_pictures_come_back_in_order_with_the_scores_of_each_alone(assessor, pictures, batch_size):
    prompts = [PROMPT, None, "two dogs", "a painting of a cat under rain and snow"]
    many = list(assessor.assess_many(zip(pictures, prompts, strict=True), batch_size=batch_size))
    assert [r.image for r in many] == [str(p) for p in pictures]
    for record, picture, prompt in zip(many, pictures, prompts, strict=True):
        assert_same(record, assessor.assess(picture, prompt, explain=False))
        assert record.explanation is None


def test_a_broken_file_fails_alone(assessor, pictures, tmp_path):
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"\x89PNG\r\n\x1a\n but not for long")
    items = [(pictures[0], None), (broken, PROMPT), (tmp_path / "gone.png", None), (pictures[1], PROMPT)]
    one, two, three, four = assessor.assess_many(items, batch_size=4)
    assert isinstance(two, FailedAssessment) and isinstance(three, FailedAssessment)
    assert (two.error.code, two.prompt, two.model) == ("image_truncated", PROMPT, assessor.model_info)
    assert three.error.code == "image_missing"
    assert_same(one, assessor.assess(pictures[0], explain=False))
    assert_same(four, assessor.assess(pictures[1], PROMPT, explain=False))
    for record in (one, two, three, four):
        VALIDATOR.validate(record.model_dump(mode="json"))


def test_a_batch_of_broken_files_and_an_empty_batch_are_no_trouble(assessor, tmp_path):
    (failed,) = assessor.assess_many([(tmp_path / "gone.png", None)])
    assert isinstance(failed, FailedAssessment)
    assert list(assessor.assess_many([])) == []


def test_items_are_pulled_a_batch_at_a_time(assessor, pictures):
    pulled = []
    items = ((pulled.append(p), (p, None))[1] for p in pictures)
    next(assessor.assess_many(items, batch_size=2))
    assert pulled == pictures[:2]


def test_many_can_be_explained(assessor, pictures):
    (record,) = assessor.assess_many([(pictures[0], PROMPT)], explain=True)
    assert record.explanation == assessor.assess(pictures[0], PROMPT).explanation


def test_a_picture_is_read_and_encoded_once_for_all_that_follows(assessor, pictures, monkeypatch):
    encodings = count_calls(monkeypatch, assessor.model, "encode_image")
    readings = count_calls(monkeypatch, assessor_module, "read_image")
    picture = assessor.read(pictures[0], name="my fox")
    record = assessor.assess(picture, PROMPT, explain=False)
    list(assessor.ask(picture, "Why?", PROMPT))
    (again,) = assessor.assess_many([(picture, PROMPT)])
    assert assessor.read(picture) is picture
    assert (len(encodings), len(readings)) == (1, 1)
    assert record.image == again.image == "my fox"
    assert_same(record, assessor.assess(pictures[0], PROMPT, explain=False))
    assert_same(record, again)


def test_what_is_already_read_is_encoded_as_it_is_and_its_pixels_are_not_kept(assessor, pictures):
    read = read_image(pictures[0])
    picture = assessor.read(read, name="my fox")
    assert (picture.name, picture.size, picture.sha256) == ("my fox", read.rgb.size, read.sha256)
    assert_same(assessor.assess(picture, PROMPT), assessor.assess(pictures[0], PROMPT))
    assert not [value for value in vars(picture).values() if isinstance(value, Image.Image)]


def test_a_batch_may_mix_files_with_pictures_already_read(assessor, pictures):
    items = [(pictures[0], None), (assessor.read(pictures[1]), None), (pictures[2], None)]
    for record, path in zip(assessor.assess_many(items), pictures, strict=False):
        assert record.image == str(path)
        assert_same(record, assessor.assess(path, explain=False))


def test_a_streamed_answer_is_the_answer(assessor, pictures):
    question = "How is the quality of the image?"
    pieces = list(assessor.ask(pictures[0], question, PROMPT))
    record = assessor.answer(pictures[0], question, PROMPT)
    VALIDATOR.validate(record.model_dump(mode="json"))
    assert len(pieces) > 1 and "".join(pieces) == record.answer
    assert record.question == question and record.scores == assessor.assess(pictures[0], PROMPT, False).scores
    assert record.answer == assessor.assess(pictures[0], PROMPT).explanation.quality


def test_the_answer_depends_on_question_picture_and_history(assessor, pictures):
    def answer(picture=0, question="Why?", history=()):
        return "".join(assessor.ask(pictures[picture], question, history=history))

    answers = [
        answer(),
        answer(picture=1),
        answer(question="Is it red?"),
        answer(history=[("Red?", "It is red.")]),
    ]
    assert len(set(answers)) == 4
    assert answer() == answers[0]


def test_history_and_earlier_questions_do_not_change_scores(assessor, pictures):
    picture = assessor.read(pictures[0])
    before = assessor.assess(picture, PROMPT, explain=False)
    list(assessor.ask(picture, "Why?", PROMPT, history=[("Is it blurry?", "It is very blurry.")] * 5))
    assert assessor.assess(picture, PROMPT, explain=False) == before
    assert assessor.answer(picture, "Why?", PROMPT).scores == before.scores


def test_the_llm_reads_the_scores_as_the_record_writes_them(assessor, pictures, monkeypatch):
    scores = Scores(quality=79.996, authenticity=50, correspondence=None)  # written 80.0, hence excellent
    monkeypatch.setattr(pictures_module.ScoredBatch, "scores", lambda *_: (scores, None))
    seen = count_calls(monkeypatch, assessor.language_model(), "tokens")
    record = assessor.assess(pictures[0])
    assert record.levels.quality == "excellent"
    assert all(call[0]["quality"] == 80.0 for call in seen) and len(seen) == 3


@pytest.mark.parametrize("ask", ["ask", "answer"])
@pytest.mark.parametrize(
    "question, code", [(" \n", "question_empty"), ("w" * (MAX_QUESTION_CHARACTERS + 1), "question_too_long")]
)
def test_a_bad_question_is_refused_before_the_first_piece(assessor, pictures, ask, question, code):
    with pytest.raises(MintIQAError) as caught:
        getattr(assessor, ask)(pictures[0], question)
    assert caught.value.code == code


def test_a_question_of_the_greatest_length_is_answered(assessor, pictures):
    assert assessor.answer(pictures[0], "w" * MAX_QUESTION_CHARACTERS).answer


def test_a_missing_picture_is_refused_before_the_first_piece(assessor, tmp_path):
    with pytest.raises(MintIQAError) as caught:
        assessor.ask(tmp_path / "gone.png", "Why?")
    assert caught.value.code == "image_missing"


@pytest.mark.parametrize("name", ["nanoo", "./nothing/here", "/no/such/folder", "~/model", "a/b/c"])
def test_an_unknown_model_is_refused_without_asking_the_network(name):
    with pytest.raises(MintIQAError, match="use nano, a folder") as caught:
        Assessor.from_pretrained(name)
    assert caught.value.code == "model_missing"


def test_a_hub_id_that_cannot_be_fetched_is_refused():
    with pytest.raises(MintIQAError, match="could not be fetched from the hub") as caught:
        find_checkpoint("no-such-owner/no-such-model")
    assert caught.value.code == "model_missing"


@pytest.mark.parametrize(
    "choice, message",
    [
        ({"device": "abacus"}, "no device 'abacus'"),
        ({"device": "cuda:99"}, "no device 'cuda:99'"),
        ({"dtype": "float8"}, "no dtype 'float8'.*float32"),
    ],
)
def test_an_unknown_device_or_dtype_is_refused(tiny_checkpoint, choice, message):
    with pytest.raises(MintIQAError, match=message) as caught:
        Assessor.from_pretrained(tiny_checkpoint, **choice)
    assert caught.value.code == "bad_argument"


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_half_precision_gives_about_the_same_scores(tiny_checkpoint, assessor, pictures, dtype):
    half = Assessor.from_pretrained(tiny_checkpoint, device="cpu", dtype=dtype)
    assert half.model.dtype == getattr(torch, dtype)
    record = half.assess(pictures[0], PROMPT)
    assert record.explanation.overall
    assert numbers(record) == pytest.approx(numbers(assessor.assess(pictures[0], PROMPT, False)), abs=5)


@pytest.mark.parametrize("weights", ["model.safetensors", "language/adapter_model.safetensors"])
def test_the_revision_changes_when_a_weight_of_model_or_adapter_changes(tmp_path, tiny_checkpoint, weights):
    folder = tmp_path / "copy"
    shutil.copytree(tiny_checkpoint, folder)
    (folder / "language").mkdir()
    shutil.copy(folder / "model.safetensors", folder / "language" / "adapter_model.safetensors")
    before = revision_of(folder)
    (folder / "README.md").write_text("not a weight")
    assert revision_of(folder) == before
    changed = load_file(folder / weights)
    changed["bridge.bias"][0] += 1
    save_file(changed, folder / weights, metadata={"format": "pt"})
    assert revision_of(folder) != before


def test_the_record_names_model_and_revision(assessor, tiny_checkpoint, pictures):
    model = assessor.assess(pictures[0], explain=False).model
    assert (model.name, model.revision) == (str(tiny_checkpoint), revision_of(tiny_checkpoint))


@pytest.mark.slow
def test_threads_that_ask_at_once_get_their_own_answers(tiny_checkpoint, assessor, pictures):
    jobs = [
        (p, f"{q} {PROMPT}?", r) for p in pictures for q, r in [("Why", PROMPT), ("Is it", "two dogs " * 3)]
    ]
    expected = [assessor.answer(*job) for job in jobs]
    fresh = Assessor.from_pretrained(tiny_checkpoint, device="cpu")  # the LLM is loaded by the first to come
    barrier = threading.Barrier(4)

    def work(start):
        barrier.wait()
        return [(i, fresh.answer(*jobs[i])) for i in (start, start + 4)]

    with ThreadPoolExecutor(4) as pool:
        given = dict(pair for pairs in pool.map(work, range(4)) for pair in pairs)
    for i, answer in enumerate(expected):
        assert given[i].answer == answer.answer
        assert numbers(given[i]) == pytest.approx(numbers(answer), abs=1e-3)


def test_interleaved_streams_keep_apart(assessor, pictures):
    questions = ["Why?", "Is it red?"]
    streams = [assessor.ask(p, q) for p, q in zip(pictures, questions, strict=False)]
    pieces = [[], []]
    for step in range(400):
        pieces[step % 2].append(next(streams[step % 2], ""))
    for i, question in enumerate(questions):
        assert "".join(pieces[i]) == assessor.answer(pictures[i], question).answer


def test_a_model_in_training_mode_is_put_to_work_in_evaluation_mode(assessor, tiny_checkpoint):
    model = MintIQAModel.from_pretrained(tiny_checkpoint).train()
    assert not Assessor(model, assessor.processor, assessor.model_info).model.training


def test_a_model_of_stage_1_alone_scores_and_says_that_it_can_not_explain(tmp_path, pictures):
    folder = tiny.save(tmp_path, tmp_path)
    config = json.loads((folder / "config.json").read_text())
    config["language"] |= {"source": "nowhere", "taught": False}
    (folder / "config.json").write_text(json.dumps(config))
    assessor = Assessor.from_pretrained(folder, device="cpu")
    record = assessor.assess(pictures[0])
    assert record.scores.quality is not None and record.explanation is None
    assert UNTAUGHT in record.warnings
    assert UNTAUGHT not in assessor.assess(pictures[0], explain=False).warnings
    for asked in (assessor.ask, assessor.answer):
        with pytest.raises(MintIQAError, match="never taught to explain"):
            asked(pictures[0], "Why?")
