"""Checkpoints that are damaged, foreign, too new, pickled or bloated are refused in one sentence."""

import json
import shutil
import zipfile
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import AutoModelForCausalLM

from mint_iqa.checkpoints.checks import VERSION, check_finite, read_state
from mint_iqa.clip_agiqa.files import load_backbone
from mint_iqa.clip_agiqa.model import ClipAgiqa, convert_published
from mint_iqa.convert.from_published import convert
from mint_iqa.errors import MintIQAError
from mint_iqa.model.modeling import MintIQAModel
from mint_iqa.model.processing import MintIQAProcessor
from tests import tiny, tiny_clip

pytestmark = pytest.mark.slow


GOLDEN = Path(__file__).parents[3] / "golden/mint_iqa"


@pytest.fixture
def folder(tmp_path, tiny_checkpoint):
    return Path(shutil.copytree(tiny_checkpoint, tmp_path / "model"))


@pytest.fixture(scope="module")
def converted(tmp_path_factory):
    """The golden published checkpoint as a folder, with its own LLM in `language`."""
    out = tmp_path_factory.mktemp("converted") / "out"
    convert(GOLDEN / "official_format.pt", out, GOLDEN / "dims.json")
    return out


@pytest.fixture(scope="module")
def clip_folder(tmp_path_factory):
    """A CLIP-AGIQA folder beside the backbone that it names."""
    root = tmp_path_factory.mktemp("clip")
    tiny_clip.clip().save_pretrained(root / "backbone")
    pair = root / "aux.pth", root / "target.pth"
    backbone = load_backbone(str(root / "backbone"))
    for path, state in zip(pair, tiny_clip.published(backbone), strict=True):
        torch.save(state, path)
    convert_published(*pair, root / "model", str(root / "backbone"))
    return root


def refusal(call, *arguments):
    """The one sentence."""
    with pytest.raises(MintIQAError) as caught:
        call(*arguments)
    assert caught.value.code in ("bad_checkpoint", "bad_config", "tokenizer_missing", "weights_missing")
    assert "\n" not in caught.value.message and len(caught.value.message) < 600
    return caught.value.message


def load(folder):
    MintIQAProcessor.from_config(MintIQAModel.from_pretrained(folder).config, folder)


def change_config(folder, name, value, file="config.json"):
    """Sets `name`, with a dot before a name inside another."""
    config = json.loads((folder / file).read_text())
    place, _, last = name.rpartition(".")
    (config[place] if place else config)[last] = value
    (folder / file).write_text(json.dumps(config))


def change_weights(path, change):
    weights = load_file(path)
    change(weights)
    save_file(weights, path, {"format": "pt"})


# --- a folder that training wrote ---


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("model_type", "bert", "is a checkpoint of 'bert', not of 'mint_iqa'"),
        ("checkpoint_version", VERSION + 1, "update mint-iqa"),
        ("checkpoint_version", "x", "update mint-iqa"),
        ("vision.num_hidden_layers", 10**9, "num_hidden_layers to 1e+09"),
        ("vision.hidden_size", 10**6, "describes 48,000,"),
        ("query_tokens", 10**7, "describes 100,000,"),
        ("query_tokens", -1, "No model can be built"),
        ("query_tokens", "x", "No model can be built"),
        ("vision", 5, "No model can be built"),
        ("alignment", 5, "No model can be built"),
        ("heads.index", 5, "heads.index"),
        ("faults", ["nonsense"] * 6, "no fault 'nonsense'"),
        ("faults", ["blur"], "of another shape: fault_head"),
        ("referenced", [3], "referenced names are text"),
        ("qformer.layer_norm_eps", -1.0, "layer_norm_eps to -1"),
        ("qformer.layer_norm_eps", float("nan"), "layer_norm_eps to nan"),
        ("quantization_config", {"quant_method": "bitsandbytes"}, "sets quantization_config"),
        ("vision.attn_implementation", "owner/kernel", "sets attn_implementation"),
        ("num_labels", 10**6, "sets num_labels to 1e+06"),
        ("auto_map", {"AutoModel": "evil.py"}, "sets auto_map"),
        ("transformers_weights", "../other.safetensors", "sets transformers_weights"),
        ("processor", {}, "image_size"),
        ("processor.image_std", [0, 0, 0], "image_std.0"),
        ("processor.image_size", 10**6, "image_size"),
        ("processor.fitted_size", 10**6, "fitted_size"),
        ("processor.fitted_size", 8, "fitted_size is below image_size"),
        ("processor.fited_size", 40, "fited_size"),
        ("processor.max_aspect", 0, "max_aspect"),
        ("processor.max_prompt_tokens", 100, "max_prompt_tokens exceeds 32"),
    ],
)
def test_a_config_that_cannot_be_is_refused_and_the_setting_named(folder, name, value, said):
    change_config(folder, name, value)
    assert said in refusal(load, folder)


@pytest.mark.parametrize(("hidden", "said"), [(-1, "No model can be built"), (10**6, "describes")])
def test_a_shortcut_that_cannot_be_is_refused(folder, hidden, said):
    change_config(folder, "shortcut", True)
    change_config(folder, "shortcut_hidden", hidden)
    assert said in refusal(load, folder)


@pytest.mark.parametrize("text", ["", "null", "[]", "{", "[" * 100_000, '{"a": ' * 100_000, "\ud800"])
def test_a_config_that_is_no_json_is_refused(folder, text):
    (folder / "config.json").write_bytes(text.encode("utf-8", "surrogatepass"))
    assert "config" in refusal(load, folder)


@pytest.mark.parametrize("kept", [0, 4, 100, 0.5, 0.999])
def test_truncated_weights_are_refused(folder, kept):
    path = folder / "model.safetensors"
    whole = path.read_bytes()
    path.write_bytes(whole[: int(kept * len(whole)) if isinstance(kept, float) else kept])
    assert "no complete weights" in refusal(load, folder)


def test_pickled_weights_are_refused_and_not_opened(folder):
    (folder / "model.safetensors").unlink()
    torch.save({"a": nn.Linear(1, 1)}, folder / "pytorch_model.bin")
    assert "pytorch_model.bin may run code" in refusal(load, folder)


@pytest.mark.parametrize("number", [float("nan"), float("inf")])
def test_weights_that_are_not_numbers_are_refused_and_named(folder, number):
    change_weights(folder / "model.safetensors", lambda weights: weights["bridge.weight"].fill_(number))
    assert "The weight bridge.weight in" in refusal(load, folder)


def test_large_sound_weights_are_finite():
    module = nn.Linear(1000, 100).half()
    nn.init.constant_(module.weight, 60_000.0)  # the sum of a half-precision tensor would overflow
    check_finite(module, "a model")


def test_weights_outside_the_folder_are_not_read(folder):
    (folder / "model.safetensors").rename(folder.parent / "other.safetensors")
    index = {"weight_map": {"bridge.weight": "../other.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    assert "no complete weights" in refusal(load, folder)


def test_an_adapter_beside_the_model_is_not_followed_to_another_model(folder):
    (folder / "adapter_config.json").write_text('{"base_model_name_or_path": "owner/name"}')
    assert "adapter" in refusal(load, folder)


@pytest.mark.parametrize("prefix", ["vision.", "qformer1.query_tokens", "bridge."])
def test_a_reference_that_no_part_fills_is_refused(folder, prefix, monkeypatch):
    change_config(folder, "referenced", [prefix])
    words = tiny.model().qformer1.encoder.embeddings.word_embeddings.weight
    part = {"embeddings.word_embeddings.weight": words}
    monkeypatch.setattr("mint_iqa.model.references.part_state", lambda config, role: part)
    assert f"references {prefix}" in refusal(load, folder)


@pytest.mark.parametrize(
    ("file", "text"),
    [
        *(("tokenizer.json", text) for text in ("", "{}", "[1]", "{")),
        *(("tokenizer_config.json", text) for text in ("", "[1]", "{")),
        (
            "tokenizer_config.json",
            '{"auto_map": {"AutoTokenizer": ["evil.T", null]}, "tokenizer_class": "T"}',
        ),
    ],
)
def test_a_damaged_tokenizer_is_refused(folder, file, text):
    (folder / file).write_text(text)
    assert "tokenizer" in refusal(load, folder)


# --- a converted folder, its own LLM ---


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("num_hidden_layers", 10**9, "num_hidden_layers to 1e+09"),
        ("hidden_size", 10**6, "No LLM can be built|describes"),
        ("vocab_size", 10**7, "describes"),
        ("model_type", "no_such_model", "No LLM can be built"),
        ("auto_map", {"AutoModelForCausalLM": "evil.M"}, "sets auto_map"),
    ],
)
def test_an_llm_whose_config_cannot_be_is_refused(converted, tmp_path, name, value, said):
    folder = Path(shutil.copytree(converted, tmp_path / "out"))
    change_config(folder / "language", name, value)
    message = refusal(MintIQAModel.from_pretrained(folder).language_model)
    assert any(part in message for part in said.split("|"))


def test_an_llm_that_is_truncated_pickled_or_not_finite_is_refused(converted, tmp_path):
    def damaged(name, change):
        folder = Path(shutil.copytree(converted, tmp_path / name))
        change(folder / "language/model.safetensors")
        return refusal(MintIQAModel.from_pretrained(folder).language_model)

    def pickle(path):
        torch.save(load_file(path), path.with_name("pytorch_model.bin"))
        path.unlink()

    def not_finite(path):
        change_weights(path, lambda weights: weights["model.norm.weight"].fill_(torch.nan))

    assert "no complete weights" in damaged("cut", lambda path: path.write_bytes(path.read_bytes()[:-100]))
    assert "may run code" in damaged("pickled", pickle)
    assert "model.norm.weight" in damaged("nan", not_finite)


@pytest.fixture(scope="module")
def adapter(tmp_path_factory, tiny_language):
    """A LoRA adapter as training writes one."""
    root = tmp_path_factory.mktemp("adapter")
    llm = AutoModelForCausalLM.from_pretrained(tiny_language)
    get_peft_model(llm, LoraConfig(r=2, target_modules=["q_proj"])).save_pretrained(root)
    return root


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("r", 10**6),
        ("r", 10**9),
        ("rank_pattern", {"q_proj": 10**6}),
        ("peft_type", "EVIL"),
        ("r", "x"),
        ("r", 1),
    ],
)
def test_an_adapter_that_cannot_be_is_refused(folder, adapter, name, value):
    shutil.copytree(adapter, folder / "language")
    MintIQAModel.from_pretrained(folder).language_model()
    change_config(folder / "language", name, value, "adapter_config.json")
    assert "adapter" in refusal(MintIQAModel.from_pretrained(folder).language_model)


def test_an_adapter_that_is_truncated_short_of_a_weight_or_not_finite_is_refused(folder, adapter):
    shutil.copytree(adapter, folder / "language")
    path = folder / "language/adapter_model.safetensors"
    language = MintIQAModel.from_pretrained(folder).language_model
    name = next(iter(load_file(path)))
    change_weights(path, lambda weights: weights[name].fill_(torch.nan))
    assert "not finite" in refusal(language)
    change_weights(path, lambda weights: weights.pop(name))
    assert "no readable adapter" in refusal(language)
    path.write_bytes(path.read_bytes()[:-10])
    assert "no readable adapter" in refusal(language)


# --- the published file ---


def test_a_published_file_with_numbers_that_are_not_finite_is_refused(tmp_path):
    state = torch.load(GOLDEN / "official_format.pt", weights_only=True)
    state["qformer1.query_tokens"][0, 0, 0] = torch.nan
    torch.save(state, tmp_path / "published.pt")
    message = refusal(convert, tmp_path / "published.pt", tmp_path / "out", GOLDEN / "dims.json")
    assert "The weight qformer1.query_tokens in" in message
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "tensor",
    [torch.zeros(2, 3, device="meta"), torch.eye(3).to_sparse(), torch.zeros(3, dtype=torch.complex64)],
)
def test_tensors_of_unusual_kinds_are_refused(tmp_path, tensor):
    torch.save({"a": tensor}, tmp_path / "odd.pt")
    assert "not a single state dict of tensors" in refusal(read_state, tmp_path / "odd.pt", False)


def test_names_that_are_no_text_are_refused(tmp_path):
    torch.save({1: torch.zeros(1), "a": torch.zeros(1)}, tmp_path / "odd.pt")
    assert "not a single state dict" in refusal(read_state, tmp_path / "odd.pt", False)


def test_a_packed_file_is_refused_before_it_is_unpacked(tmp_path):
    torch.save({"a": torch.zeros(1_000_000)}, tmp_path / "plain.pt")
    with (
        zipfile.ZipFile(tmp_path / "plain.pt") as plain,
        zipfile.ZipFile(tmp_path / "packed.pt", "w", zipfile.ZIP_DEFLATED) as packed,
    ):
        for name in plain.namelist():
            packed.writestr(name, plain.read(name))
    assert read_state(tmp_path / "plain.pt", False).keys() == {"a"}
    assert "not a complete PyTorch checkpoint" in refusal(read_state, tmp_path / "packed.pt", False)


@pytest.mark.parametrize("name", ["vision_layers", "vision_width", "llm_layers", "query_tokens"])
def test_dimensions_that_no_model_has_are_refused(tmp_path, name):
    dims = json.loads((GOLDEN / "dims.json").read_text()) | {name: 10**12}
    (tmp_path / "dims.json").write_text(json.dumps(dims))
    message = refusal(convert, GOLDEN / "official_format.pt", tmp_path / "out", tmp_path / "dims.json")
    assert f"({name})" in message


# --- a CLIP-AGIQA folder and its backbone ---


def copy_of(clip_folder, tmp_path):
    root = Path(shutil.copytree(clip_folder, tmp_path / "clip"))
    change_config(root / "model", "backbone", str(root / "backbone"))
    return root


def test_a_clip_agiqa_folder_of_a_later_version_is_refused(clip_folder, tmp_path):
    root = copy_of(clip_folder, tmp_path)
    change_config(root / "model", "checkpoint_version", 2)
    assert "checkpoint_version" in refusal(ClipAgiqa.from_pretrained, root / "model")


@pytest.mark.parametrize("place", ["model", "backbone"])
def test_clip_weights_that_are_truncated_or_not_finite_are_refused(clip_folder, tmp_path, place):
    root = copy_of(clip_folder, tmp_path)
    path = root / place / "model.safetensors"
    name = next(iter(load_file(path)))
    change_weights(path, lambda weights: weights[name].view(-1).fill_(torch.nan))
    assert name in refusal(ClipAgiqa.from_pretrained, root / "model")
    path.write_bytes(path.read_bytes()[:-50])
    assert str(path.parent) in refusal(ClipAgiqa.from_pretrained, root / "model")


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("model_type", "bert", "a checkpoint of 'bert', not of 'clip'"),
        ("text_config.num_hidden_layers", 10**9, "num_hidden_layers"),
        ("text_config.hidden_size", 10**6, "describes"),
        ("projection_dim", "x", "No CLIP can be built"),
    ],
)
def test_a_backbone_that_cannot_be_is_refused(clip_folder, tmp_path, name, value, said):
    root = copy_of(clip_folder, tmp_path)
    change_config(root / "backbone", name, value)
    assert said in refusal(ClipAgiqa.from_pretrained, root / "model")


def test_a_pickled_backbone_is_refused(clip_folder, tmp_path):
    root = copy_of(clip_folder, tmp_path)
    (root / "backbone/model.safetensors").unlink()
    torch.save({}, root / "backbone/pytorch_model.bin")
    assert "may run code" in refusal(ClipAgiqa.from_pretrained, root / "model")


def test_a_published_pair_that_is_not_finite_is_refused(clip_folder, tmp_path):
    root = copy_of(clip_folder, tmp_path)
    state = torch.load(root / "aux.pth", weights_only=True)
    state["ctx"][0, 0] = torch.inf
    torch.save(state, root / "aux.pth")
    pair = root / "aux.pth", root / "target.pth"
    message = refusal(convert_published, *pair, root / "new", str(root / "backbone"))
    assert "The weight ctx in" in message
