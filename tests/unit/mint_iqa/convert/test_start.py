"""A start from InstructBLIP, BLIP-2 or CLIP: what it computes at first, what it says, what it refuses."""

import json
import re
import shutil

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from transformers import (
    BertModel,
    Blip2ForConditionalGeneration,
    BlipImageProcessorPil,
    CLIPVisionModel,
    InstructBlipForConditionalGeneration,
)

from mint_iqa import cli
from mint_iqa.assessor import Assessor
from mint_iqa.convert.start import initialize
from mint_iqa.errors import MintIQAError
from mint_iqa.model.modeling import MintIQAModel
from mint_iqa.model.processing import MintIQAProcessor
from mint_iqa.records import ModelInfo
from tests import tiny_sources

pytestmark = pytest.mark.slow


INFO = ModelInfo(name="start", revision="")

PIXELS = torch.randn(2, 3, 28, 28, generator=torch.Generator().manual_seed(5))
QUESTION_MASK = torch.tensor([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0]])
TEXT_MASK = torch.tensor([[1] * 9, [1] * 7 + [0] * 2])


def ids(length, vocabulary, seed=0):
    return torch.randint(5, vocabulary, (2, length), generator=torch.Generator().manual_seed(seed))


QUESTION, TEXT = ids(5, 1100), ids(9, 690, seed=1)
LABELS = torch.where((torch.arange(9) > 3) & TEXT_MASK.bool(), TEXT, -100)


@pytest.fixture(scope="module")
def sources(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sources")
    tiny_sources.save_instructblip(folder / "instructblip")
    tiny_sources.save_blip2(folder / "blip2")
    tiny_sources.save_clip(folder / "clip")
    tiny_sources.save_bert(folder / "bert")
    return folder


@pytest.fixture(scope="module")
def start(sources):
    return initialize(sources / "instructblip", sources / "start")


def load(folder):
    return MintIQAModel.from_pretrained(folder).eval()


def theirs(kind, folder):
    """Another's model, with the attention that ours has: other kernels round differently."""
    return kind.from_pretrained(folder, attn_implementation="eager").eval()


@torch.no_grad()
def vectors_of(model, seed=0):
    return torch.randn(2, model.config.query_tokens, model.config.qformer["hidden_size"])


@torch.no_grad()
def test_stage_2_is_exactly_instructblip(sources, start):
    reference = theirs(InstructBlipForConditionalGeneration, sources / "instructblip")
    model = load(start.folder)
    placed = torch.cat([torch.full((2, 4), 699), TEXT], dim=1)
    mask = torch.cat([torch.ones(2, 4, dtype=torch.long), TEXT_MASK], dim=1)
    labels = torch.cat([torch.full((2, 4), -100), LABELS], dim=1)
    expected = reference(PIXELS, QUESTION, QUESTION_MASK, placed, mask, labels=labels)
    given = model.forward_answer(PIXELS, vectors_of(model), QUESTION, QUESTION_MASK, TEXT, TEXT_MASK, LABELS)
    seen = expected.qformer_outputs.last_hidden_state[:, :4]
    assert torch.equal(given.query_output, seen)
    assert torch.equal(given.soft_prompt, reference.language_projection(seen))
    assert seen.std() > 0.1 and not torch.allclose(seen[0], seen[1], atol=0.1)
    torch.testing.assert_close(given.loss, expected.loss, atol=1e-6, rtol=0)


@torch.no_grad()
def test_it_answers_with_instructblips_own_tokens(sources, start):
    reference = theirs(InstructBlipForConditionalGeneration, sources / "instructblip")
    model = load(start.folder)
    answer = model.generate_answer(
        PIXELS[:1], vectors_of(model)[:1], QUESTION[:1], QUESTION_MASK[:1], TEXT[:1], TEXT_MASK[:1], 12, True
    )
    placed = torch.cat([torch.full((1, 4), 699), TEXT[:1]], dim=1)
    settings = {"max_new_tokens": 12, "min_new_tokens": 12, "do_sample": False, "eos_token_id": None}
    expected = reference.generate(PIXELS[:1], QUESTION[:1], QUESTION_MASK[:1], placed, **settings)
    assert answer.tolist() == expected[:, -12:].tolist() and len(set(answer[0].tolist())) > 3


def test_a_picture_is_prepared_as_instructblip_prepares_it(start):
    picture = Image.effect_noise((60, 41), 90).convert("RGB")
    theirs = BlipImageProcessorPil(size={"height": 28, "width": 28})(picture, return_tensors="pt")
    ours = MintIQAProcessor.from_config(load(start.folder).config, start.folder).pixel_values([picture])
    torch.testing.assert_close(ours, theirs["pixel_values"], atol=1e-5, rtol=0)


def test_both_stages_start_alike_and_part_where_the_published_towers_do(start):
    model = load(start.folder)
    assert model.config.vision["branch_at"] == 3  # of 5, as 22 of 39
    for one, other in zip(model.vision.blocks()[3:], model.vision2.blocks, strict=True):
        assert all(torch.equal(a, b) for a, b in zip(one.parameters(), other.parameters(), strict=True))
    assert all(
        torch.equal(tensor, model.qformer2.state_dict()[name])
        for name, tensor in model.qformer1.state_dict().items()
    )
    assert not model.bridge.weight.any() and not model.bridge.bias.any()


def test_the_report_names_a_source_for_every_parameter(start):
    told = {(o.part, o.source): o.parameters for o in start.origins}
    model = load(start.folder)
    for part in ("vision", "vision2", "qformer1", "qformer2", "heads", "bridge", "language_projection"):
        own = sum(n for (p, _), n in told.items() if p == part)
        assert own == sum(p.numel() for p in getattr(model, part).parameters())
    assert {source for (part, source) in told if part == "qformer1"} == {"qformer", "query_tokens"}
    assert {part for (part, source) in told if source == "new"} == {"heads", "bridge"}
    language = model.language_model().model
    assert told["language", "language_model"] == sum(p.numel() for p in language.parameters())


def test_new_weights_are_the_same_at_every_call_and_as_random_as_a_new_models(sources, start):
    again = initialize(sources / "instructblip", sources / "again")
    first, second = (load_file(s.folder / "model.safetensors") for s in (start, again))
    assert first.keys() == second.keys() and all(torch.equal(first[n], second[n]) for n in first)
    head = first["heads.quality.layers.0.weight"]
    assert head.std() == pytest.approx(24**-0.5, rel=0.15)


def test_a_start_says_that_its_scores_mean_nothing_until_it_is_trained(start):
    assessor = Assessor.from_pretrained(start.folder, device="cpu")
    picture = Image.effect_noise((300, 200), 90).convert("RGB")
    record = assessor.assess(picture, "a red fox")
    assert any("never been trained" in warning for warning in record.warnings)
    assert record.explanation.overall


def test_a_trained_head_is_not_warned_of(start, tmp_path):
    model = load(start.folder)
    torch.nn.init.constant_(model.heads["quality"].layers[-1].bias, 1e-3)
    assessor = Assessor(model, MintIQAProcessor.from_config(model.config, start.folder), INFO)
    picture = Image.effect_noise((300, 200), 90).convert("RGB")
    assert assessor.assess(picture, explain=False).warnings == ()


def test_weights_in_several_files_are_read_as_one(sources, start, tmp_path):
    folder = shutil.copytree(sources / "instructblip", tmp_path / "sharded")
    (folder / "model.safetensors").unlink()
    theirs(InstructBlipForConditionalGeneration, sources / "instructblip").save_pretrained(
        folder, max_shard_size="60KB"
    )
    assert len(list(folder.glob("*.safetensors"))) > 3
    again = load_file(initialize(folder, tmp_path / "out").folder / "model.safetensors")
    first = load_file(start.folder / "model.safetensors")
    assert first.keys() == again.keys() and all(torch.equal(first[n], again[n]) for n in first)


# BLIP-2, CLIP, another LLM


@torch.no_grad()
def test_blip2_brings_what_its_queries_read_with_and_bert_what_reads_text(sources, tmp_path):
    start = initialize(sources / "blip2", tmp_path / "out", text=str(sources / "bert"))
    model, reference = load(start.folder), theirs(Blip2ForConditionalGeneration, sources / "blip2")
    nothing = torch.zeros(2, 0, dtype=torch.long)
    encoded = model.encode_image(PIXELS)
    # BLIP-2's own Q-Former reads no text: without one the two are equal.
    seen = model.qformer2(encoded.explain_embeds, nothing, nothing)
    expected = reference.get_image_features(PIXELS)
    torch.testing.assert_close(seen, expected.qformer_outputs.last_hidden_state, atol=1e-6, rtol=0)
    bert = BertModel.from_pretrained(sources / "bert").state_dict()
    for ours, origin in (
        ("embeddings.word_embeddings", "embeddings.word_embeddings"),
        ("encoder.layer.2.intermediate.dense", "encoder.layer.2.intermediate.dense"),
    ):
        assert torch.equal(model.qformer1.encoder.state_dict()[f"{ours}.weight"], bert[f"{origin}.weight"])
    assert {o.source for o in start.origins if o.part == "qformer2"} == {
        "qformer",
        "query_tokens",
        "bert (BERT)",
    }


@torch.no_grad()
def test_blip2s_llm_is_its_own(sources, tmp_path):
    start = initialize(sources / "blip2", tmp_path / "out", text=str(sources / "bert"))
    llm, reference = (
        load(start.folder).language_model(),
        theirs(Blip2ForConditionalGeneration, sources / "blip2"),
    )
    assert torch.equal(llm.model(TEXT).logits, reference.language_model(TEXT).logits)


@torch.no_grad()
def test_clip_brings_the_tower_and_bert_the_rest(sources, tiny_language, tmp_path):
    start = initialize(sources / "clip", tmp_path / "out", text=str(sources / "bert"), llm=str(tiny_language))
    model, reference = load(start.folder), theirs(CLIPVisionModel, sources / "clip")
    assert model.config.vision["taps"] == [1, 2, 3, 5] and model.vision2 is None
    _, tapped = model.vision.trunk(PIXELS, 5)
    expected = reference(PIXELS, output_hidden_states=True).hidden_states
    for tap, hidden in zip((1, 2, 3, 5), tapped, strict=True):
        torch.testing.assert_close(hidden, expected[tap], atol=1e-6, rtol=0)
    told = {(o.part, o.source) for o in start.origins}
    assert {
        ("vision", "vision_model"),
        ("vision", "new"),
        ("qformer1", "new"),
        ("qformer1", "bert (BERT)"),
    } <= told
    assessor = Assessor.from_pretrained(start.folder, device="cpu")
    assert assessor.answer(Image.new("RGB", (30, 30)), "Why?").answer


def test_another_llm_stays_where_it_is_and_gets_a_new_projection(sources, tiny_language, tmp_path):
    start = initialize(sources / "instructblip", tmp_path / "out", llm=str(tiny_language))
    assert not (start.folder / "language").exists()
    config = json.loads((start.folder / "config.json").read_text())
    assert config["language"] == {"hidden_size": 32, "source": str(tiny_language.resolve())}
    assert ("language_projection", "new") in {(o.part, o.source) for o in start.origins}
    assert start.unused == ("language_model", "language_projection")
    assert load(start.folder).language_model().tokenizer.chat_template


# What is refused


def refusal(*arguments, **settings):
    with pytest.raises(MintIQAError) as caught:
        initialize(*arguments, **settings)
    message = caught.value.message
    assert message.endswith(".") and "\n" not in message
    return caught.value.code, message


@pytest.fixture
def damaged(sources, tmp_path):
    """Saves InstructBLIP with other weights."""

    def damaged(change):
        folder = shutil.copytree(sources / "instructblip", tmp_path / "damaged")
        weights = load_file(folder / "model.safetensors")
        change(weights)
        save_file(weights, folder / "model.safetensors", {"format": "pt"})
        return folder

    return damaged


@pytest.mark.parametrize(
    ("name", "values", "word"),
    [
        (
            "qformer.encoder.layer.1.output.dense.bias",
            None,
            "missing: qformer.encoder.layer.1.output.dense.bias",
        ),
        ("vision_model.encoder.layers.4.mlp.fc1.bias", None, "missing: vision_model.encoder.layers.4"),
        ("language_model.model.norm.weight", None, "missing: language_model.model.norm.weight"),
        ("qformer.encoder.layer.9.output.dense.bias", torch.zeros(3), "unknown: qformer.encoder.layer.9"),
        ("language_model.model.extra", torch.zeros(3), "unknown: language_model.model.extra"),
        ("query_tokens", torch.zeros(1, 5, 24), "of another shape: query_tokens"),
    ],
)
def test_weights_that_do_not_fit_are_refused_by_name(damaged, tmp_path, name, values, word):
    def change(weights):
        weights.pop(name, None)
        weights.update({name: values} if values is not None else {})

    code, message = refusal(damaged(change), tmp_path / "out")
    assert code == "bad_checkpoint" and word in message
    assert not (tmp_path / "out").exists()


def test_constants_that_older_libraries_saved_are_no_unknown_keys(damaged, tmp_path):
    old = {"qformer.embeddings.position_ids": torch.arange(64)}
    old["language_model.model.layers.0.self_attn.rotary_emb.inv_freq"] = torch.ones(4)
    assert initialize(damaged(lambda weights: weights.update(old)), tmp_path / "out").unused == ()


def test_a_source_that_reads_no_text_needs_a_bert(sources, tmp_path):
    code, message = refusal(sources / "blip2", tmp_path / "out")
    assert code == "text_missing" and "--text" in message
    assert refusal(sources / "clip", tmp_path / "out")[0] == "text_missing"


def test_a_bert_of_another_width_or_none_is_refused(sources, tiny_language, tmp_path):
    wide = tiny_sources.save_bert(tmp_path / "wide", hidden_size=48)
    assert "48 wide" in refusal(sources / "blip2", tmp_path / "out", text=str(wide))[1]
    assert "is a llama" in refusal(sources / "blip2", tmp_path / "out", text=str(tiny_language))[1]
    code, message = refusal(sources / "instructblip", tmp_path / "out", text=str(sources / "bert"))
    assert code == "bad_argument" and "leave --text out" in message


def test_a_tower_without_an_llm_needs_one(sources, tmp_path):
    code, message = refusal(sources / "clip", tmp_path / "out", text=str(sources / "bert"))
    assert code == "llm_missing" and "--llm" in message


def test_a_translator_is_no_llm_for_answers(tmp_path):
    t5 = {"model_type": "t5", "vocab_size": 700, "d_model": 16, "d_kv": 8, "d_ff": 24, "num_layers": 1}
    folder = tiny_sources.save_instructblip(tmp_path / "flan", text_config={**t5, "num_heads": 2})
    assert refusal(folder, tmp_path / "out")[0] == "llm_missing"


def test_a_folder_without_safetensors_or_of_another_model_is_refused(sources, tiny_language, tmp_path):
    folder = shutil.copytree(sources / "instructblip", tmp_path / "pickled")
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    assert "no readable safetensors" in refusal(folder, tmp_path / "out")[1]
    assert "of type 'llama'" in refusal(tiny_language, tmp_path / "out")[1]
    assert refusal(tmp_path / "none", tmp_path / "out")[0] == "model_missing"


def test_missing_tokenizers_are_refused_and_can_be_given(sources, tmp_path):
    folder = tmp_path / "bare"
    theirs(InstructBlipForConditionalGeneration, sources / "instructblip").save_pretrained(folder)
    code, message = refusal(folder, tmp_path / "out")
    assert code == "tokenizer_missing" and "--tokenizers" in message
    start = initialize(folder, tmp_path / "out", tokenizers=sources / "instructblip")
    assert load(start.folder).language_model().tokenizer


# The command


def test_the_command_says_what_came_from_where(sources, tmp_path, capsys):
    assert cli.main(["convert", str(sources / "instructblip"), str(tmp_path / "out")]) == 0
    out = capsys.readouterr().out
    for line in (
        r"vision .* vision_model",
        r"qformer2 .* qformer",
        r"heads .* new",
        r"language .* language_model",
    ):
        assert re.search(line, out)
    assert "has to be trained" in out


def test_the_command_refuses_what_no_folder_and_no_hub_knows(tmp_path, capsys):
    assert cli.main(["convert", "./nowhere", str(tmp_path / "out")]) == 2
    assert "There is no model 'nowhere'" in capsys.readouterr().err
    assert cli.main(["convert", "nobody/nothing", str(tmp_path / "out")]) == 2
    assert "could not be fetched from the hub" in capsys.readouterr().err
