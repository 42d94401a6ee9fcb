"""CLIP-AGIQA gives what the published network gives.

Two witnesses: the stored outputs of the published code, and `step_by_step`, which computes the same from
the tensors of the published files alone, one task, one sentence and one attention head after the other.
"""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch.nn.functional import layer_norm, linear

from mint_iqa.clip_agiqa.model import ClipAgiqa
from mint_iqa.clip_agiqa.towers import ALIGNED, GOOD
from tests import tiny_clip
from tests.golden.clip_agiqa.make_inputs import make_inputs

GOLDEN = Path(__file__).resolve().parents[1] / "golden" / "clip_agiqa"


def affine(hidden, weights, name):
    return linear(hidden, weights[f"{name}.weight"], weights[f"{name}.bias"])


def attention(hidden, weights, name, heads, causal):
    query, key, value = (affine(hidden, weights, f"{name}.{p}_proj").chunk(heads, dim=-1) for p in "qkv")
    outputs = []
    for q, k, v in zip(query, key, value, strict=True):
        scores = q @ k.T * q.shape[-1] ** -0.5
        if causal:
            scores = scores.masked_fill(torch.ones_like(scores).triu(1).bool(), -torch.inf)
        outputs.append(scores.softmax(dim=-1) @ v)
    return affine(torch.cat(outputs, dim=-1), weights, f"{name}.out_proj")


def block(hidden, weights, name, heads, causal):
    """One residual block of CLIP on one sequence float[T, D]: pre-norm, eps 1e-5, QuickGELU."""
    normed = norm(hidden, weights, f"{name}.layer_norm1")
    hidden = hidden + attention(normed, weights, f"{name}.self_attn", heads, causal)
    inner = affine(norm(hidden, weights, f"{name}.layer_norm2"), weights, f"{name}.mlp.fc1")
    return hidden + affine(inner * torch.sigmoid(1.702 * inner), weights, f"{name}.mlp.fc2")


def norm(hidden, weights, name):
    return layer_norm(hidden, hidden.shape[-1:], weights[f"{name}.weight"], weights[f"{name}.bias"], eps=1e-5)


def sentence_vector(clip, state, sentence):
    """All 77 positions, read at the end token."""
    weights, sizes, length = clip.state_dict(), clip.config.text_config, len(state["ctx"])
    tokens = torch.cat([state["token_prefix"][sentence], state["ctx"], state["token_suffix"][sentence]])
    (end,) = (tokens == weights["text_model.embeddings.token_embedding.weight"][49407]).all(dim=1).nonzero()
    hidden = tokens + weights["text_model.embeddings.position_embedding.weight"]
    assert len(hidden) == 77
    for i in range(sizes.num_hidden_layers):
        if 1 <= i <= 11:
            hidden = torch.cat([hidden[:1], state[f"prompts_text.{i - 1}"], hidden[1 + length :]])
        name = f"text_model.encoder.layers.{i}"
        hidden = block(hidden, weights, name, sizes.num_attention_heads, causal=True)
    return norm(hidden, weights, "text_model.final_layer_norm")[end[0]] @ weights["text_projection.weight"].T


def picture_vector(clip, pixels, prompts):
    """pixels float[3, S, S]; prompts: float[n, Dv] for each of 12 layers."""
    weights, sizes = clip.state_dict(), clip.config.vision_config
    side = sizes.patch_size
    patches = (
        pixels.unfold(1, side, side).unfold(2, side, side).permute(1, 2, 0, 3, 4).reshape(-1, 3 * side**2)
    )
    patches = patches @ weights["vision_model.embeddings.patch_embedding.weight"].flatten(1).T
    hidden = torch.cat([weights["vision_model.embeddings.class_embedding"][None], patches])
    hidden = hidden + weights["vision_model.embeddings.position_embedding.weight"]
    length = len(hidden)
    hidden = norm(torch.cat([hidden, prompts[0]]), weights, "vision_model.pre_layrnorm")
    for i in range(sizes.num_hidden_layers):
        if 1 <= i <= 11:
            hidden = torch.cat([hidden[:length], prompts[i]])
        name = f"vision_model.encoder.layers.{i}"
        hidden = block(hidden, weights, name, sizes.num_attention_heads, causal=False)
    return norm(hidden, weights, "vision_model.post_layernorm")[0] @ weights["visual_projection.weight"].T


def fused_prompts(target, auxiliary):
    names = ["proj", *(f"compound_prompt_projections.{i}" for i in range(11))]
    pairs = [torch.cat([target[f"prompts_vis.{i}"], auxiliary[f"prompts_vis.{i}"]], dim=1) for i in range(12)]
    return [affine(pair, target, name) for pair, name in zip(pairs, names, strict=True)]


def step_by_step(clip, pixel_values, auxiliary, target):
    """{"perceptual": float[B, 1], "alignment": float[B, 1]}"""
    own = [auxiliary[f"prompts_vis.{i}"] for i in range(12)]
    tasks = {"perceptual": (target, fused_prompts(target, auxiliary)), "alignment": (auxiliary, own)}
    outputs = {}
    for task, (state, prompts) in tasks.items():
        texts = [sentence_vector(clip, state, sentence) for sentence in (0, 1)]
        rows = []
        for pixels in pixel_values:
            image = picture_vector(clip, pixels, prompts)
            cosines = [image @ text / image.norm() / text.norm() for text in texts]
            first, second = (torch.exp(clip.logit_scale.exp() * cosine) for cosine in cosines)
            rows.append(first / (first + second))
        outputs[task] = torch.stack(rows)[:, None]
    return outputs


def assert_meets(expected, model, pixel_values):
    with torch.no_grad():
        output = model(pixel_values)
    assert set(expected) == set(output._fields)
    for name, values in expected.items():
        torch.testing.assert_close(getattr(output, name), values, atol=1e-5, rtol=0)


@pytest.fixture(scope="module")
def golden():
    inputs = make_inputs(layers=2, seed=5)
    model = ClipAgiqa.from_published(inputs.clip, inputs.auxiliary, inputs.target)
    return inputs, model, load_file(GOLDEN / "expected_l2_s5.safetensors")


def test_the_published_outputs_are_met(golden):
    inputs, model, expected = golden
    assert_meets(expected, model, inputs.pixel_values)


def test_the_words_are_read_from_the_published_files(golden):
    _, model, _ = golden
    assert (model.config.perceptual, model.config.alignment) == (GOOD, ALIGNED)


@torch.no_grad()
def test_the_step_by_step_forward_gives_the_published_outputs(golden):
    inputs, _, expected = golden
    computed = step_by_step(inputs.clip, inputs.pixel_values, inputs.auxiliary, inputs.target)
    for name, values in computed.items():
        torch.testing.assert_close(values, expected[name], atol=1e-5, rtol=0)


# 1: no deep prompt at all; 12: the published depth; 14: the last prompt goes on into layers without one.
@pytest.mark.parametrize("layers", [1, 3, 12, 14])
@pytest.mark.parametrize(("seed", "patch_size"), [(0, 16), (1, 8)])
@torch.no_grad()
def test_other_depths_widths_and_weights_give_what_the_step_by_step_forward_gives(layers, seed, patch_size):
    clip = tiny_clip.clip(layers, seed, patch_size)
    files = tiny_clip.published(clip, seed)
    pixel_values = torch.randn(2, 3, 32, 32)
    expected = step_by_step(clip, pixel_values, *files)
    assert expected["perceptual"].std() > 1e-3  # two pictures differ by more than what is tolerated
    assert_meets(expected, ClipAgiqa.from_published(clip, *files), pixel_values)


@pytest.mark.slow
@torch.no_grad()
def test_the_full_size_meets_the_step_by_step_forward():
    inputs = make_inputs(layers=13, seed=2)
    model = ClipAgiqa.from_published(inputs.clip, inputs.auxiliary, inputs.target)
    pictures = inputs.pixel_values[:1]
    assert_meets(step_by_step(inputs.clip, pictures, inputs.auxiliary, inputs.target), model, pictures)
