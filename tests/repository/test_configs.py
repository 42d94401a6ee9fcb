"""The recipes for large models, run as they are on small stand-ins: every name in them is a parameter's."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoTokenizer, BertConfig, BertModel, CLIPVisionConfig, CLIPVisionModel

from instruct_data.recipes import read_settings
from mint_iqa.errors import MintIQAError
from mint_iqa.model.configuration import MintIQAConfig
from mint_iqa.model.fresh import initialize
from mint_iqa.model.modeling import MintIQAModel
from mint_iqa.model.references import load_language
from tests import tiny
from tests.training_world import SIZE, living_in
from train import prepare, stage1, stage2
from train.engine.commands import command
from train.engine.recipes import Stage1, Stage2
from train.stage2 import language_to_teach

CONFIGS = Path(__file__).resolve().parents[2] / "configs"
WIDTH = 16
SMALL = {"hidden_size": WIDTH, "intermediate_size": 24, "num_attention_heads": 2}


@pytest.fixture(scope="module", autouse=True)
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with living_in(tmp_path_factory.mktemp("recipes")):
        prepare.build_all(SIZE)
        yield


def run(name: str, *overrides: str) -> int:
    """The recipe's own command, with what makes it short."""
    module, kind = (stage1, Stage1) if "stage1" in name else (stage2, Stage2)
    short = ["warmup=0", "threads=1", "stop_after=2", "batch_size=4", "log_steps=1"]
    short += ["held_out_photographs=2"] if kind is Stage1 else ["examples=8", "accumulation=2"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sys.argv", ["train", str(CONFIGS / name), "--set", *short, *overrides])
        return command(kind, module.train, "")


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory, tiny_language: Path) -> Path:
    """configs/clip_l/model.json with small widths, its parts as folders of transformers."""
    root = tmp_path_factory.mktemp("clip")
    config = json.loads((CONFIGS / "clip_l" / "model.json").read_text())
    config["vision"] |= {**SMALL, "image_size": SIZE, "embeds_width": WIDTH}
    config["processor"] |= {"image_size": SIZE, "fitted_size": None, "max_prompt_tokens": 16}
    text = {**SMALL, **tiny.TEXT, "num_hidden_layers": 2}
    config["qformer"] |= text
    config["language"] = {"hidden_size": 32, "source": str(tiny_language)}
    config["parts"] = {"vision": str(root / "clip"), "text": str(root / "bert")}
    torch.manual_seed(0)
    vision = {k: config["vision"][k] for k in CLIPVisionConfig().to_dict() if k in config["vision"]}
    CLIPVisionModel(CLIPVisionConfig(**vision)).save_pretrained(root / "clip")
    BertModel(BertConfig(**text)).save_pretrained(root / "bert")
    tiny.text_tokenizer().save_pretrained(root / "bert")
    (root / "model.json").write_text(json.dumps(config))
    return root / "model.json"


@pytest.fixture(scope="module")
def clip_first(clip: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("clip_first") / "run"
    assert run("clip_l/stage1.yaml", f"model={clip}", f"output={output}") == 0
    return output


def adapter(output: Path) -> dict[str, torch.Tensor]:
    return load_file(output / "model" / "language" / "adapter_model.safetensors")


def scores(folder: Path) -> torch.Tensor:
    model = MintIQAModel.from_pretrained(folder / "model", dtype=torch.float32).eval()
    pixels = torch.randn(3, 3, 28, 28, generator=torch.Generator().manual_seed(4))
    with torch.inference_mode():
        return model(pixels, torch.full((3, 4), 7), torch.ones(3, 4, dtype=torch.long)).scores


def test_a_start_from_local_folders_holds_their_weights(clip: Path) -> None:
    config = MintIQAConfig(**json.loads(clip.read_text()))
    model = MintIQAModel(config)
    initialize(model)
    tower = CLIPVisionModel.from_pretrained(config.parts["vision"]).state_dict()
    own = model.vision.backbone.state_dict()
    assert own.keys() == tower.keys() and all(torch.equal(own[k], tower[k]) for k in own)
    words = BertModel.from_pretrained(config.parts["text"]).embeddings.word_embeddings.weight
    assert torch.equal(model.qformer1.encoder.embeddings.word_embeddings.weight, words)


def test_a_part_that_is_neither_packaged_nor_a_folder_is_named(clip: Path) -> None:
    config = MintIQAConfig(**json.loads(clip.read_text()))
    config.parts["vision"] = "models/nowhere"
    with pytest.raises(MintIQAError, match="models/nowhere"):
        initialize(MintIQAModel(config))


def test_a_part_without_the_tower_s_weights_is_refused(clip: Path) -> None:
    config = MintIQAConfig(**json.loads(clip.read_text()))
    config.parts["vision"] = config.parts["text"]
    with pytest.raises(MintIQAError, match="lacks embeddings") as caught:
        initialize(MintIQAModel(config))
    assert caught.value.code == "bad_checkpoint"


def test_parts_of_another_size_are_refused(clip: Path) -> None:
    config = json.loads(clip.read_text())
    config["vision"]["hidden_size"] = 32
    with pytest.raises(MintIQAError, match="do not fit") as caught:
        initialize(MintIQAModel(MintIQAConfig(**config)))
    assert caught.value.code == "bad_checkpoint"


@pytest.mark.parametrize("name", ["clip_l/stage2.yaml", "clip_l/stage2_nf4.yaml"])
def test_clip_and_an_llm_learn_to_explain(clip_first: Path, tmp_path: Path, name: str) -> None:
    output = tmp_path / "run"
    assert run(name, f"stage1={clip_first}", f"output={output}") == 0
    learned = adapter(output)
    assert all(tensor.abs().max() > 0 for key, tensor in learned.items() if "lora_B" in key)
    assert torch.equal(scores(output), scores(clip_first))
    config = MintIQAModel.from_pretrained(output / "model").config
    load_language(config, output / "model" / "language")  # base and adapter fit


def test_nf4_keeps_the_llm_in_four_bits_and_lora_beside_it_learns(clip_first: Path) -> None:
    recipe = read_settings(Stage2, CONFIGS / "clip_l" / "stage2_nf4.yaml")
    config = MintIQAModel.from_pretrained(clip_first / "model").config
    language = language_to_teach(config, recipe)
    layers = {type(m.base_layer).__name__ for m in language.modules() if hasattr(m, "base_layer")}
    assert layers == {"Linear4bit"}
    embeds = torch.randn(1, 5, 32, dtype=torch.bfloat16)
    with torch.no_grad():
        language.eval().model(inputs_embeds=embeds)  # repacks the weights, on CPUs that can
    language.train().model(inputs_embeds=embeds).logits.float().square().mean().backward()
    # B is zero at the start, so what reaches the adapter reaches B first.
    assert all(
        p.grad is not None and p.grad.abs().max() > 0 for n, p in language.named_parameters() if "lora_B" in n
    )


def test_an_llm_of_another_width_than_the_soft_tokens_is_refused(clip_first: Path, tmp_path: Path) -> None:
    recipe = read_settings(Stage2, CONFIGS / "clip_l" / "stage2.yaml")
    config = MintIQAModel.from_pretrained(clip_first / "model").config
    config.language["hidden_size"] = 48
    with pytest.raises(MintIQAError, match="32 wide, but the checkpoint was made for one of 48"):
        language_to_teach(config, recipe)


def test_a_lora_target_that_the_llm_lacks_is_named(clip_first: Path) -> None:
    recipe = read_settings(Stage2, CONFIGS / "clip_l" / "stage2.yaml", ["lora.targets=[q_proj, c_attn]"])
    config = MintIQAModel.from_pretrained(clip_first / "model").config
    with pytest.raises(MintIQAError, match="'c_attn'"):
        language_to_teach(config, recipe)


@pytest.fixture(scope="module")
def converted(tmp_path_factory: pytest.TempPathFactory, tiny_language: Path) -> Path:
    """A converted published checkpoint of small width: 39 blocks that branch at 22, and an LLM without a chat
    template."""
    folder = tmp_path_factory.mktemp("converted") / "mint-iqa"
    tower = {**SMALL, "num_hidden_layers": 39, "image_size": SIZE, "patch_size": 14}
    published: dict[str, Any] = {"model_type": "instructblip_vision_model", "taps": [39], "branch_at": 22}
    model = tiny.model(
        vision={**tower, **published, "final_norm_eps": 1e-5}, faults=[], alignment=None,
        heads={"hidden": 8, "outputs": 3, "index": 1},
    )  # fmt: skip
    model.save_pretrained(folder)
    tiny.text_tokenizer().save_pretrained(folder)
    tokenizer = AutoTokenizer.from_pretrained(tiny.save_language(folder / "language"))
    tokenizer.chat_template = None
    (folder / "language" / "chat_template.jinja").unlink(missing_ok=True)
    tokenizer.save_pretrained(folder / "language")
    return folder


def test_the_published_set_up_goes_on_from_converted_weights(converted: Path, tmp_path: Path) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    # Thin random blocks need a larger step to be seen through float16.
    fast = ["learning_rate=0.01", "head_learning_rate=0.01", "tower_learning_rate=0.01"]
    assert run("published/stage1.yaml", f"model={converted}", f"output={first}", *fast) == 0
    source = f"language.source={converted / 'language'}"
    assert run("published/stage2.yaml", f"stage1={first}", f"output={second}", source, fast[0]) == 0
    start, one, two = (
        load_file(folder / "model.safetensors") for folder in (converted, first / "model", second / "model")
    )
    moved = {name for name in one if not torch.equal(one[name].float(), start[name].half().float())}
    trains = ("heads.", "qformer1.query_tokens", "vision.backbone.post_layernorm.")
    blocks = tuple(f"vision.backbone.encoder.layers.{i}." for i in range(22, 39))
    assert moved and not [name for name in moved if not name.startswith((*trains, *blocks))]
    assert {name.split(".")[0] for name in one if not torch.equal(one[name], two[name])} == {
        "qformer2", "bridge", "language_projection",
    }  # fmt: skip
    assert torch.equal(scores(second), scores(first))
    assert any(tensor.abs().max() > 0 for key, tensor in adapter(second).items() if "lora_B" in key)


def test_the_llm_stays_as_it_is_without_lora(clip_first: Path, tmp_path: Path) -> None:
    parts = "trains=[qformer2, bridge, language_projection]"
    output = tmp_path / "run"
    assert run("clip_l/stage2.yaml", f"stage1={clip_first}", f"output={output}", "lora.rank=0", parts) == 0
    assert not (output / "model" / "language").exists()
