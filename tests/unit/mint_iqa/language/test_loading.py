"""LLMs in 4 and 8 bits, spread over devices, and what can't be loaded."""

import importlib.util
import shutil

import pytest
import torch
from peft import LoraConfig, get_peft_model
from PIL import Image
from safetensors.torch import load_file, save_file
from transformers import LlamaConfig, LlamaForCausalLM, T5Config, T5ForConditionalGeneration

from mint_iqa import cli
from mint_iqa.assessor import Assessor
from mint_iqa.errors import MintIQAError
from mint_iqa.language.llm import lora_targets
from mint_iqa.language.loading import load_llm, placement
from mint_iqa.model.references import load_language
from tests import tiny

pytestmark = pytest.mark.slow


CPU = torch.device("cpu")
PICTURE = Image.effect_noise((300, 200), 90).convert("RGB")


@pytest.fixture(scope="module")
def llm(tmp_path_factory):
    """Wide enough for blocks of 64 weights, which nf4 scales together."""
    folder = tmp_path_factory.mktemp("llm")
    words = tiny.language_tokenizer()
    sizes = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4}
    torch.manual_seed(0)
    LlamaForCausalLM(LlamaConfig(vocab_size=len(words), initializer_range=0.2, **sizes)).save_pretrained(
        folder
    )
    words.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory, llm):
    folder = tmp_path_factory.mktemp("checkpoint")
    tiny.lively(tiny.model(language={"hidden_size": 64, "source": str(llm)})).save_pretrained(folder)
    tiny.text_tokenizer().save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def whole(checkpoint):
    return Assessor.from_pretrained(checkpoint, device="cpu")


def loaded(llm, dtype=torch.float32, own=None, **settings):
    config = tiny.config(language={"hidden_size": 64, "source": str(llm)})
    return load_language(config, own, dtype=dtype, **settings)


def quantized(kind, dtype=torch.float32):
    return placement(kind, None, CPU, dtype)


def logits(language, seed=0):
    inputs = torch.randn(1, 9, 64, generator=torch.Generator().manual_seed(seed))
    with torch.no_grad():
        return language.model(inputs_embeds=inputs.to(language.model.dtype)).logits.float()


@pytest.mark.parametrize(
    ("kind", "layer", "bytes_a_weight"), [("nf4", "Linear4bit", 0.5), ("int8", "Linear8bitLt", 1)]
)
def test_every_linear_layer_of_the_blocks_is_quantized_and_nothing_else(llm, kind, layer, bytes_a_weight):
    model = loaded(llm, **quantized(kind)).model
    names = {type(m).__name__ for n, m in model.named_modules() if n.endswith("_proj")}
    assert names == {layer}
    weights = model.model.layers[0].mlp.up_proj.weight
    assert weights.numel() * weights.element_size() == 64 * 128 * bytes_a_weight
    assert (
        type(model.lm_head).__name__ == "Linear"
        and model.get_input_embeddings().weight.dtype == torch.float32
    )


def test_widths_that_are_no_multiple_of_a_block_are_quantized_as_well(tiny_language):
    for kind in ("nf4", "int8"):
        model, _ = load_llm(tiny_language, {"dtype": torch.float32, **quantized(kind)})
        with torch.no_grad():
            assert model(torch.arange(9)[None]).logits.isfinite().all()


@pytest.mark.parametrize(("kind", "share"), [("nf4", 0.9), ("int8", 0.999)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_quantized_llm_says_nearly_the_same(llm, kind, share, dtype):
    expected, given = logits(loaded(llm)), logits(loaded(llm, dtype, **quantized(kind, dtype)))
    similar = torch.nn.functional.cosine_similarity(expected.flatten(), given.flatten(), dim=0)
    assert share < similar < 0.999999


@pytest.mark.parametrize("kind", ["nf4", "int8"])
def test_scores_do_not_depend_on_how_the_llm_is_kept(checkpoint, whole, kind):
    small = Assessor.from_pretrained(checkpoint, device="cpu", quantization=kind)
    expected, given = (a.assess(PICTURE, "a red fox") for a in (whole, small))
    assert given.scores == expected.scores and given.explanation.overall
    assert small.model.language_model().model.is_quantized
    assert small.model.language_model() is small.model.language_model()


def test_in_bfloat16_everything_is(checkpoint, whole):
    half = Assessor.from_pretrained(checkpoint, device="cpu", dtype="bfloat16")
    language = half.language_model()
    assert {p.dtype for m in (half.model, language) for p in m.parameters()} == {torch.bfloat16}
    assert half.assess(PICTURE).scores.quality == pytest.approx(whole.assess(PICTURE).scores.quality, abs=3)


def test_an_llm_spread_by_device_map_answers_alike(checkpoint, whole):
    spread = Assessor.from_pretrained(checkpoint, device="cpu", device_map="auto")
    assert spread.model.language.settings == {"device_map": "auto"}
    assert spread.answer(PICTURE, "Why?").answer == whole.answer(PICTURE, "Why?").answer


def adapter(llm, folder):
    torch.manual_seed(1)
    base = LlamaForCausalLM.from_pretrained(llm)
    config = LoraConfig(r=4, target_modules=lora_targets(base), init_lora_weights=False)
    adapted = get_peft_model(base, config)
    adapted.save_pretrained(folder)
    return adapted


@pytest.mark.parametrize(("kind", "share"), [("nf4", 0.9), ("int8", 0.999)])
def test_an_adapter_stands_beside_a_quantized_llm(llm, tmp_path, kind, share):
    adapted = adapter(llm, tmp_path).eval()
    language = loaded(llm, own=tmp_path, **quantized(kind))
    inputs = torch.randn(1, 9, 64, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected = adapted(inputs_embeds=inputs).logits
    similar = torch.nn.functional.cosine_similarity(expected.flatten(), logits(language).flatten(), dim=0)
    assert share < similar < 0.999999
    plain = torch.nn.functional.cosine_similarity(expected.flatten(), logits(loaded(llm)).flatten(), dim=0)
    assert plain < similar - 0.1


def gradients(llm, kind, answer_first):
    """Of every LoRA weight, in training."""
    language = loaded(llm, torch.bfloat16, **quantized(kind, torch.bfloat16))
    torch.manual_seed(2)
    language.add_lora(rank=4, alpha=8)
    for name, parameter in language.model.named_parameters():
        if "lora_B" in name:  # zero at the start, which would hide what comes through
            torch.nn.init.normal_(parameter, std=0.1)
    if answer_first:
        logits(language.eval())
    inputs = torch.randn(1, 9, 64, generator=torch.Generator().manual_seed(0)).bfloat16()
    language.train().model(inputs_embeds=inputs).logits.float().square().mean().backward()
    return {n: p.grad for n, p in language.model.named_parameters() if p.requires_grad}


@pytest.mark.parametrize("kind", ["nf4", "int8"])
def test_lora_learns_alike_whether_or_not_a_quantized_llm_has_answered_before(llm, kind):
    fresh, after = (gradients(llm, kind, answer_first) for answer_first in (False, True))
    assert len(fresh) == 28 and all("lora_" in name for name in fresh)
    assert all(grad.abs().max() > 0 for grad in fresh.values())
    for name, grad in fresh.items():
        torch.testing.assert_close(after[name], grad, atol=0, rtol=1e-2)


# What is refused


def refusal(function, *arguments, **settings):
    with pytest.raises(MintIQAError) as caught:
        function(*arguments, **settings)
    message = caught.value.message
    assert message.endswith(".") and "\n" not in message
    return caught.value.code, message


def test_unknown_words_are_refused_before_anything_is_loaded(checkpoint):
    code, message = refusal(Assessor.from_pretrained, checkpoint, quantization="int3")
    assert code == "bad_argument" and "use nf4, int8" in message
    assert "use auto, balanced" in refusal(Assessor.from_pretrained, "nowhere", device_map="all")[1]


def test_the_command_takes_the_options_and_refuses_unknown_words(checkpoint, tmp_path, capsys):
    PICTURE.save(tmp_path / "picture.png")
    command = ["ask", str(tmp_path / "picture.png"), "Why?", "--model", str(checkpoint), "--device", "cpu"]
    assert cli.main([*command, "--quantization", "nf4"]) == 0
    assert capsys.readouterr().out.strip()
    assert cli.main(["score", *command[1:2], "--quantization", "int3"]) == 2
    assert "There is no quantization 'int3'" in capsys.readouterr().err


def test_without_bitsandbytes_the_extra_is_named(monkeypatch):
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda n: None if n == "bitsandbytes" else find(n))
    code, message = refusal(placement, "nf4", None, CPU, torch.float32)
    assert code == "extra_missing" and "mint-iqa[quantization]" in message


def test_a_translator_is_no_causal_lm(tmp_path, llm):
    sizes = {"d_model": 16, "d_kv": 8, "d_ff": 24, "num_layers": 1, "num_heads": 2, "vocab_size": 600}
    T5ForConditionalGeneration(T5Config(**sizes)).save_pretrained(tmp_path)
    tiny.language_tokenizer().save_pretrained(tmp_path)
    assert "can't be loaded as a causal LM" in refusal(load_llm, tmp_path, {})[1]


def test_an_llm_of_another_width_than_the_projection_is_refused(llm):
    config = tiny.config(language={"hidden_size": 32, "source": str(llm)})
    code, message = refusal(load_language, config, None)
    assert code == "bad_config" and "is 64 wide, but the checkpoint was made for one of 32" in message


def test_an_llm_that_is_nowhere_is_refused():
    for source, word in (("./nowhere", "There is no LLM"), ("nobody/nothing", "could not be fetched")):
        config = tiny.config(language={"hidden_size": 64, "source": source})
        code, message = refusal(load_language, config, None)
        assert code == "model_missing" and word in message


def test_an_llm_without_its_tokenizer_is_refused(llm, tmp_path):
    LlamaForCausalLM.from_pretrained(llm).save_pretrained(tmp_path)
    assert refusal(load_llm, tmp_path, {})[0] in ("tokenizer_missing", "bad_checkpoint")


def test_pickled_weights_are_not_opened(llm, tmp_path):
    folder = shutil.copytree(llm, tmp_path / "pickled")
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    code, message = refusal(load_llm, folder, {})
    assert code == "bad_checkpoint" and "safetensors" in message


def test_an_llm_that_wants_to_run_its_own_code_is_refused(llm, tmp_path):
    folder = shutil.copytree(llm, tmp_path / "custom")
    text = (folder / "config.json").read_text()
    custom = '"auto_map": {"AutoConfig": "evil.C", "AutoModelForCausalLM": "evil.M"}, "model_type": "evil"'
    (folder / "config.json").write_text(text.replace('"model_type": "llama"', custom))
    (folder / "evil.py").write_text("raise SystemExit('ran')")
    assert "can't be loaded as a causal LM" in refusal(load_llm, folder, {})[1]


def test_a_damaged_llm_is_refused(llm, tmp_path):
    folder = shutil.copytree(llm, tmp_path / "damaged")
    weights = load_file(folder / "model.safetensors")
    weights["model.layers.0.mlp.up_proj.weight"] = torch.zeros(3, 3)
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    assert refusal(load_llm, folder, {})[0] == "bad_checkpoint"
