"""Converting a published checkpoint: what is written, what is said, and what is refused."""

import json

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from mint_iqa import cli
from mint_iqa.assessor import Assessor
from mint_iqa.convert import writing
from mint_iqa.convert.from_published import convert
from mint_iqa.errors import MintIQAError
from mint_iqa.model.modeling import MintIQAModel
from tests import published, tiny

pytestmark = pytest.mark.slow


GOLDEN, DIMS = published.GOLDEN / "official_format.pt", published.GOLDEN / "dims.json"
# Vocabularies that the tiny tokenizers fit into.
SPOKEN = {**published.DIMS, "qformer_vocab": 1100, "llm_vocab": 700, "llm_pad": 699}


@pytest.fixture(scope="module")
def state():
    return torch.load(GOLDEN, weights_only=True)


@pytest.fixture
def run(capsys, monkeypatch):
    """Runs `mint-iqa` in this process: (exit code, stdout, stderr)."""
    monkeypatch.setenv("COLUMNS", "1000")

    def run(*arguments):
        code = cli.main([str(a) for a in arguments])
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return run


def saved(folder, content):
    torch.save(content, folder / "published.pt")
    return folder / "published.pt"


def refusal(*arguments):
    """The code and the sentence of the error that `convert` ends in."""
    with pytest.raises(MintIQAError) as caught:
        convert(*arguments)
    message = caught.value.message
    assert message.endswith(".") and "\n" not in message
    return caught.value.code, message


def test_the_command_says_what_it_wrote_and_what_it_left_out(tmp_path, run):
    code, out, _ = run("convert", GOLDEN, tmp_path / "out", "--config", DIMS)
    assert code == 0
    assert "share their first 0 of 4 blocks" in out
    for stage in ("qformer1", "qformer2"):
        for key in ("temp", "vision_proj.weight", "vision_proj.bias", "text_proj.weight", "text_proj.bias"):
            assert f"{stage}.{key}" in out
    assert "position_ids" not in out and "no tokenizers" in out
    assert MintIQAModel.from_pretrained(tmp_path / "out").config.vision["branch_at"] == 0


def test_weights_are_written_in_shards_that_load_as_one(tmp_path, monkeypatch):
    monkeypatch.setattr(writing, "SHARD_SIZE", "300KB")
    convert(GOLDEN, tmp_path / "out", DIMS)
    shards = sorted((tmp_path / "out").glob("*.safetensors"))
    assert len(shards) > 3 and all(shard.stat().st_size < 400_000 for shard in shards)
    held = {name for shard in shards for name in load_file(shard)}
    assert held == set(MintIQAModel.from_pretrained(tmp_path / "out").state_dict())
    assert [f.name for f in tmp_path.iterdir()] == ["out"]


def test_weights_keep_their_precision_and_the_widest_is_loaded(tmp_path, state):
    halved = {n: t.half() if ".visual_encoder." in n else t for n, t in state.items()}
    convert(saved(tmp_path, halved), tmp_path / "out", DIMS)
    held = load_file(tmp_path / "out" / "model.safetensors")
    assert held["vision.backbone.encoder.layers.0.mlp.fc1.weight"].dtype == torch.float16
    assert held["qformer1.query_tokens"].dtype == torch.float32
    assert MintIQAModel.from_pretrained(tmp_path / "out").dtype == torch.float32


def test_weights_that_overlap_in_memory_are_written_apart(tmp_path, state):
    tied = dict(state)
    words = "Qformer.bert.embeddings.word_embeddings.weight"
    tied[f"qformer2.{words}"] = tied[f"qformer1.{words}"]
    convert(saved(tmp_path, tied), tmp_path / "out", DIMS)
    weights = MintIQAModel.from_pretrained(tmp_path / "out").state_dict()
    ours = "encoder.embeddings.word_embeddings.weight"
    assert torch.equal(weights[f"qformer2.{ours}"], weights[f"qformer1.{ours}"])


def test_constants_that_older_libraries_saved_are_no_unknown_keys(tmp_path, state):
    frequencies = "qformer2.llm_model.model.layers.0.self_attn.rotary_emb.inv_freq"
    source = saved(tmp_path, {**state, frequencies: torch.ones(8)})
    assert frequencies not in convert(source, tmp_path / "out", DIMS).unused


# What is refused


def test_a_missing_key_is_refused_by_name(tmp_path, state):
    name = "qformer2.visual_encoder.blocks.3.attn.v_bias"
    source = saved(tmp_path, {n: t for n, t in state.items() if n != name})
    code, message = refusal(source, tmp_path / "out", DIMS)
    assert code == "bad_checkpoint" and f"(missing: {name})" in message
    assert sorted(f.name for f in tmp_path.iterdir()) == ["published.pt"]


def test_an_unknown_key_is_refused_by_name(tmp_path, state):
    source = saved(tmp_path, {**state, "qformer1.quality4.0.weight": torch.zeros(1)})
    code, message = refusal(source, tmp_path / "out", DIMS)
    assert code == "bad_checkpoint" and "(unknown: qformer1.quality4.0.weight)" in message


def test_a_key_of_another_shape_is_refused_by_name(tmp_path, state):
    source = saved(tmp_path, {**state, "qformer2.llm_proj.bias": torch.zeros(5)})
    assert "(of another shape: qformer2.llm_proj.bias)" in refusal(source, tmp_path / "out", DIMS)[1]


def test_a_checkpoint_of_another_architecture_is_refused_with_some_names_and_how_many_more(tmp_path):
    source = saved(tmp_path, torch.nn.Sequential(torch.nn.Linear(3, 3), torch.nn.Linear(3, 3)).state_dict())
    code, message = refusal(source, tmp_path / "out", DIMS)
    assert code == "bad_checkpoint" and "more; unknown: 0.bias, 0.weight, 1.bias and 1 more)" in message


def test_a_checkpoint_of_other_dimensions_than_given_is_refused(tmp_path):
    assert "give it another --config" in refusal(GOLDEN, tmp_path / "out")[1]


@pytest.mark.parametrize("kept", [0, 1000, 0.5, 0.999])
def test_a_truncated_file_is_refused(tmp_path, kept):
    content = GOLDEN.read_bytes()
    (tmp_path / "cut.pt").write_bytes(content[: int(kept * len(content)) if kept < 1 else kept])
    code, message = refusal(tmp_path / "cut.pt", tmp_path / "out", DIMS)
    assert code == "bad_checkpoint" and "cut.pt is not a complete PyTorch checkpoint" in message


class Innocent:
    """Would be built, were a checkpoint unpickled."""

    built = 0

    def __reduce__(self):
        return build, ()


def build():
    Innocent.built += 1


def test_a_file_with_other_objects_is_refused_and_none_of_them_is_built(tmp_path, state):
    source = saved(tmp_path, {**state, "note": Innocent()})
    code, message = refusal(source, tmp_path / "out", DIMS)
    assert code == "bad_checkpoint" and "other objects than tensors" in message
    assert Innocent.built == 0


@pytest.mark.parametrize("content", [{}, {"model": {"weight": torch.zeros(1)}}, torch.zeros(3), [1, 2]])
def test_a_file_that_is_no_single_state_dict_is_refused(tmp_path, content):
    code, message = refusal(saved(tmp_path, content), tmp_path / "out", DIMS)
    assert code == "bad_checkpoint" and "not a single state dict" in message


def test_a_missing_checkpoint_is_refused(tmp_path):
    assert refusal(tmp_path / "none.pt", tmp_path / "out", DIMS)[0] == "file_missing"


def test_a_missing_config_is_refused(tmp_path):
    code, message = refusal(GOLDEN, tmp_path / "out", tmp_path / "none.json")
    assert code == "config_missing" and "none.json can't be read" in message


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("{", "Invalid JSON"),
        ('{"vision_width": "wide"}', "vision_width"),
        ('{"vision_layers": 0}', "vision_layers"),
        ('{"visoin_width": 48}', "visoin_width"),
        ('{"vision_width": 50, "vision_heads": 7}', "No model has these dimensions"),
    ],
)
def test_a_config_that_names_no_possible_dimensions_is_refused(tmp_path, text, word):
    (tmp_path / "dims.json").write_text(text)
    code, message = refusal(GOLDEN, tmp_path / "out", tmp_path / "dims.json")
    assert code == "bad_config" and word in message


def test_a_folder_with_something_in_it_is_not_written_to(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    assert refusal(GOLDEN, tmp_path, DIMS)[0] == "output_exists"
    assert [f.name for f in tmp_path.iterdir()] == ["notes.txt"]


def test_a_place_that_cannot_be_written_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    assert refusal(GOLDEN, tmp_path / "file" / "out", DIMS)[0] == "output_unwritable"


def test_the_command_refuses_in_one_sentence(tmp_path, run):
    code, out, err = run("convert", tmp_path / "none.pt", tmp_path / "out")
    assert (code, out) == (2, "") and err.count("\n") == 1 and "Traceback" not in err


# Tokenizers


@pytest.fixture(scope="module")
def tokenizers(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tokenizers")
    speaker = tiny.language_tokenizer()
    speaker.chat_template = None  # as Vicuna v1.1's
    speaker.save_pretrained(folder)
    tiny.text_tokenizer().save_pretrained(folder / "qformer_tokenizer")
    return folder


@pytest.fixture(scope="module")
def spoken(tmp_path_factory):
    """A checkpoint, and its dimensions, with room for the tiny tokenizers' words."""
    folder = tmp_path_factory.mktemp("spoken")
    (folder / "dims.json").write_text(json.dumps(SPOKEN))
    return saved(folder, published.random_state(SPOKEN)), folder / "dims.json"


def test_with_tokenizers_pictures_are_scored_and_explained(tmp_path, spoken, tokenizers):
    done = convert(spoken[0], tmp_path / "out", spoken[1], tokenizers)
    assessor = Assessor.from_pretrained(tmp_path / "out", device="cpu")
    record = assessor.assess(Image.effect_noise((56, 56), 80).convert("RGB"), "a red fox")
    assert done.tokenizers and record.explanation.overall and record.faults == ()
    assert record.scores.correspondence is not None


@torch.inference_mode()
def test_without_a_fault_head_no_word_is_banned_and_the_soft_tokens_stay(tmp_path, spoken, tokenizers):
    convert(spoken[0], tmp_path / "out", spoken[1], tokenizers)
    assessor = Assessor.from_pretrained(tmp_path / "out", device="cpu")
    picture = assessor.read(Image.effect_noise((56, 56), 80).convert("RGB"))
    rated = assessor.rate([(picture, "a red fox")])[0]
    soft = assessor.llm_input(rated, "How is the quality?", ())[: SPOKEN["query_tokens"]]
    assert assessor.banned_sequences(rated) == []
    assert soft.abs().min(dim=1).values.max() > 0


def test_the_llm_reads_the_soft_tokens_then_the_bare_question(tmp_path, spoken, tokenizers):
    convert(spoken[0], tmp_path / "out", spoken[1], tokenizers)
    language = MintIQAModel.from_pretrained(tmp_path / "out").language_model()
    scores = dict.fromkeys(("quality", "authenticity", "correspondence"), 50.0)
    before, after = language.tokens(scores, "How is the quality?", [])
    assert before == [] and language.tokenizer.decode(after) == "How is the quality?"


def test_without_tokenizers_text_is_refused_and_the_remedy_named(tmp_path, spoken):
    convert(spoken[0], tmp_path / "out", spoken[1])
    with pytest.raises(MintIQAError, match="--tokenizers") as caught:
        Assessor.from_pretrained(tmp_path / "out")
    assert caught.value.code == "tokenizer_missing"
    language = MintIQAModel.from_pretrained(tmp_path / "out").language_model()
    with pytest.raises(MintIQAError, match="--tokenizers") as caught:
        language.decode_text([5])
    assert caught.value.code == "tokenizer_missing"


def test_a_folder_without_both_tokenizers_is_refused(tmp_path, spoken):
    tiny.language_tokenizer().save_pretrained(tmp_path / "half")
    for folder in (tmp_path / "none", tmp_path / "half"):
        assert refusal(spoken[0], tmp_path / "out", spoken[1], folder)[0] == "tokenizer_missing"


def test_tokenizers_with_more_words_than_the_checkpoint_are_refused(tmp_path, tokenizers):
    code, message = refusal(GOLDEN, tmp_path / "out", DIMS, tokenizers)
    assert code == "tokenizer_mismatch" and "the checkpoint 160" in message


def test_an_llm_that_lost_one_weight_is_refused_and_the_weight_named(tmp_path, spoken):
    convert(spoken[0], tmp_path / "out", spoken[1])
    path = tmp_path / "out" / "language" / "model.safetensors"
    save_file({n: t for n, t in load_file(path).items() if n != "model.norm.weight"}, path, {"format": "pt"})
    with pytest.raises(MintIQAError, match=r"lacks model\.norm\.weight"):
        MintIQAModel.from_pretrained(tmp_path / "out").language_model()


def test_an_llm_that_lost_its_weights_is_refused(tmp_path, spoken):
    convert(spoken[0], tmp_path / "out", spoken[1])
    (tmp_path / "out" / "language" / "model.safetensors").unlink()
    with pytest.raises(MintIQAError, match=r"language holds no model\.safetensors"):
        MintIQAModel.from_pretrained(tmp_path / "out").language_model()
