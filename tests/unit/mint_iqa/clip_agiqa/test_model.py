"""CLIP-AGIQA: where the prompts stand, what is learned, what is computed once, and what is refused."""

import json
from dataclasses import replace
from itertools import pairwise, product

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import CLIPConfig, CLIPImageProcessorPil, CLIPModel

from mint_iqa import cli
from mint_iqa.clip_agiqa.crops import MAX_CROPS, crops
from mint_iqa.clip_agiqa.model import ClipAgiqa, ClipAgiqaConfig, convert_published
from mint_iqa.clip_agiqa.towers import ALIGNED, END, GOOD, START, Antonyms
from mint_iqa.errors import MintIQAError
from tests import tiny_clip

pytestmark = pytest.mark.slow


LAYERS = 4
PATCHES = 4  # 2 x 2
N = 8


def small(**changes):
    return ClipAgiqaConfig(**{"text_depth": 3, "vision_depth": 3, **changes})


def build(seed=0, layers=LAYERS, **changes):
    model = ClipAgiqa(tiny_clip.clip(layers, seed), small(**changes)).eval()
    with torch.no_grad():
        for tensor in model.learned().values():
            tensor.add_(torch.randn(tensor.shape) * 0.3)
    return model


def pictures(count=2, seed=0):
    return torch.randn(count, 3, 32, 32, generator=torch.Generator().manual_seed(seed))


@pytest.fixture(scope="module")
def model():
    return build()


class Watch:
    """What goes into and comes out of modules while they run, in order."""

    def __init__(self, *modules):
        self.inputs, self.outputs = [], []
        self.hooks = [module.register_forward_hook(self.note) for module in modules]

    def note(self, module, inputs, output):
        self.inputs.append(inputs[0].detach().clone())
        self.outputs.append(output.detach().clone())

    def __enter__(self):
        return self

    def __exit__(self, *_):
        for hook in self.hooks:
            hook.remove()


def same(prompt, hidden):
    """Whether every item of hidden float[B, n, D] is the prompt float[n, D], to the bit."""
    return all(torch.equal(prompt, item) for item in hidden)


# --- where the prompts stand ---


@torch.no_grad()
def test_visual_prompts_enter_before_ln_pre_after_the_patches_and_without_positions(model):
    vision = model.backbone.vision_model
    with Watch(vision.pre_layrnorm) as norm, Watch(vision.encoder.layers[0]) as first:
        model(pictures(), alignment=False)
    (entering,) = norm.inputs
    assert entering.shape == (2, 1 + PATCHES + N, 48)
    assert torch.equal(entering[:, : 1 + PATCHES], vision.embeddings(pictures()))
    assert same(model.target.visual_prompts(model.auxiliary)[0], entering[:, 1 + PATCHES :])
    assert torch.equal(first.inputs[0], norm.outputs[0])  # nothing is exchanged before layer 0


@torch.no_grad()
def test_visual_prompts_are_replaced_before_every_later_layer_that_has_one(model):
    prompts = model.target.visual_prompts(model.auxiliary)
    with Watch(*model.backbone.vision_model.encoder.layers) as layers:
        model(pictures(), alignment=False)
    for i in (1, 2):
        assert torch.equal(layers.inputs[i][:, : 1 + PATCHES], layers.outputs[i - 1][:, : 1 + PATCHES])
        assert same(prompts[i], layers.inputs[i][:, 1 + PATCHES :])
    assert torch.equal(layers.inputs[3], layers.outputs[2])  # beyond vision_depth


@torch.no_grad()
def test_the_text_context_follows_the_start_token_and_has_positions_as_words_have(model):
    text = model.backbone.text_model
    embed, positions = text.embeddings.token_embedding.weight, text.embeddings.position_embedding.weight
    with Watch(text.encoder.layers[0]) as first:
        model.encode_text(ALIGNED.ids, model.auxiliary.text_prompts())
    (entering,) = first.inputs
    assert entering.shape == (2, len(ALIGNED.ids[1]) + N, 32)  # nothing after the longer sentence's end
    for sentence, ids in zip(entering, ALIGNED.ids, strict=True):
        expected = torch.cat([embed[[START]], model.auxiliary.ctx, embed[list(ids[1:])]])
        torch.testing.assert_close(sentence[: len(expected)], expected + positions[: len(expected)])


@torch.no_grad()
def test_the_text_context_is_replaced_without_positions_before_every_later_layer_that_has_one(model):
    learner = model.target
    with Watch(*model.backbone.text_model.encoder.layers) as layers:
        model.encode_text(GOOD.ids, learner.text_prompts())
    for i in (1, 2):
        assert same(learner.prompts_text[i - 1], layers.inputs[i][:, 1 : 1 + N])
        others = [0, *range(1 + N, layers.inputs[i].shape[1])]
        assert torch.equal(layers.inputs[i][:, others], layers.outputs[i - 1][:, others])
    assert torch.equal(layers.inputs[3], layers.outputs[2])  # beyond text_depth


@torch.no_grad()
def test_each_target_prompt_is_a_linear_layer_of_its_own_and_the_auxiliarys(model):
    target, auxiliary = model.target, model.auxiliary
    fusions = [target.proj, *target.compound_prompt_projections]
    for i, fused in enumerate(target.visual_prompts(auxiliary)):
        own, guiding = fusions[i].weight[:, :48], fusions[i].weight[:, 48:]
        expected = target.prompts_vis[i] @ own.T + auxiliary.prompts_vis[i] @ guiding.T + fusions[i].bias
        torch.testing.assert_close(fused, expected)


@torch.no_grad()
def test_the_alignment_pass_sees_the_auxiliarys_own_prompts(model):
    with Watch(model.backbone.vision_model.pre_layrnorm) as norm:
        model(pictures())
    assert len(norm.inputs) == 2
    assert same(model.auxiliary.prompts_vis[0], norm.inputs[1][:, 1 + PATCHES :])


# --- the paper's ablations ---


@torch.no_grad()
def test_without_any_prompt_it_is_clip_itself_choosing_between_two_sentences():
    model = build(text_depth=0, vision_depth=0, auxiliary=False)
    assert model.learned() == {}
    padded = [ids + (0,) * (77 - len(ids)) for ids in GOOD.ids]
    model.backbone.text_model.eos_token_id = END
    logits = model.backbone(input_ids=torch.tensor(padded), pixel_values=pictures()).logits_per_image
    output = model(pictures())
    assert output.alignment is None
    torch.testing.assert_close(output.perceptual, logits.softmax(dim=-1)[:, :1], atol=1e-6, rtol=0)


@pytest.mark.parametrize("auxiliary", [True, False])
@pytest.mark.parametrize(("text_depth", "vision_depth"), [(0, 3), (3, 0), (1, 1), (LAYERS, LAYERS)])
def test_every_ablation_learns_with_all_of_its_parameters(text_depth, vision_depth, auxiliary):
    model = build(text_depth=text_depth, vision_depth=vision_depth, auxiliary=auxiliary).train()
    output = model(pictures())
    model.loss(output, torch.tensor([4.0, 1.0]), torch.tensor([1.0, 2.0])).backward()
    assert (output.alignment is None) == (not auxiliary)
    learned = {name: p for name, p in model.named_parameters() if not name.startswith("backbone.")}
    assert learned.keys() == model.learned().keys() != set()
    assert [name for name, p in learned.items() if p.grad is None or not p.grad.any()] == []
    has = {part: any(part in name for name in learned) for part in ("ctx", "prompts_vis", "proj")}
    fused = bool(auxiliary and vision_depth)
    assert has == {"ctx": text_depth > 0, "prompts_vis": vision_depth > 0, "proj": fused}


def test_the_published_model_has_14_million_parameters_under_the_published_names():
    with torch.device("meta"):
        model = ClipAgiqa(CLIPModel(CLIPConfig()), ClipAgiqaConfig())  # transformers' default is ViT-B/32
    learned = model.learned()
    assert sum(tensor.numel() for tensor in learned.values()) == 14_410_752
    prompts = {"ctx", *(f"prompts_text.{i}" for i in range(11)), *(f"prompts_vis.{i}" for i in range(12))}
    fusions = ["proj", *(f"compound_prompt_projections.{i}" for i in range(11))]
    fusion = {f"{name}.{end}" for name in fusions for end in ("weight", "bias")}
    assert learned.keys() == {f"auxiliary.{n}" for n in prompts} | {f"target.{n}" for n in prompts | fusion}


# --- learning ---


def test_the_loss_weighs_two_mean_squared_errors_on_a_scale_of_five(model):
    output = type(model(pictures()))(torch.tensor([[0.5], [0.9]]), torch.tensor([[0.2], [0.4]]))
    perceptual, alignment = torch.tensor([2.5, 2.5]), torch.tensor([1.0, 5.0])
    assert model.loss(output, perceptual, alignment).item() == pytest.approx(0.16 / 2 + 0.1 * 0.36 / 2)
    assert model.loss(output._replace(alignment=None), perceptual).item() == pytest.approx(0.16 / 2)
    with pytest.raises(ValueError, match="alignment_mos"):
        model.loss(output, perceptual)


def test_a_step_changes_every_prompt_and_fusion_and_nothing_of_the_backbone():
    model = build().train()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    # Of every parameter that asks for a gradient, with decay: a backbone that was not frozen would move.
    optimizer = torch.optim.AdamW(
        [p for p in model.parameters() if p.requires_grad], lr=1e-2, weight_decay=0.1
    )
    model.loss(model(pictures()), torch.tensor([4.0, 1.0]), torch.tensor([1.0, 2.0])).backward()
    optimizer.step()
    moved = {name for name, tensor in model.state_dict().items() if not torch.equal(tensor, before[name])}
    assert moved == model.learned().keys()
    assert not any(module.training for module in model.backbone.modules())


def test_learning_brings_scores_to_the_mean_opinions():
    model = build().train()
    optimizer = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lr=1e-2)
    perceptual, alignment = torch.tensor([1.0, 4.0]), torch.tensor([4.0, 1.0])
    losses = []
    for _ in range(40):
        losses.append(model.loss(model(pictures()), perceptual, alignment))
        optimizer.zero_grad()
        losses[-1].backward()
        optimizer.step()
    assert losses[-1] < 0.1 * losses[0]


# --- computed once ---


@torch.no_grad()
def test_sentences_are_encoded_once_for_all_pictures():
    model = build()
    with Watch(model.backbone.text_model.final_layer_norm) as text:
        first = model(pictures())
        for seed in range(3):
            model(pictures(seed=seed))
    assert len(text.inputs) == 2  # one a task
    assert torch.equal(model(pictures()).perceptual, first.perceptual)


@torch.no_grad()
def test_alignment_costs_nothing_unless_asked_for():
    model = build()
    vision, text = model.backbone.vision_model.post_layernorm, model.backbone.text_model.final_layer_norm
    with Watch(vision) as passes, Watch(text) as sentences:
        output = model(pictures(), alignment=False)
    assert output.alignment is None
    assert (len(passes.inputs), len(sentences.inputs)) == (1, 1)
    assert torch.equal(output.perceptual, model(pictures()).perceptual)


def step(model):
    """One large step of plain descent, without leaving eval mode."""
    with torch.enable_grad():
        model.loss(model(pictures()), torch.zeros(2), torch.zeros(2)).backward()
        torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=5.0).step()


def edit_and_eval(model):
    model.target.prompts_vis[0].add_(1)
    model.eval()


CHANGES = {
    "load": lambda model: model.load_state_dict(build(seed=1).state_dict()),
    "step": step,
    "edit, then eval": edit_and_eval,
    "rounding": lambda model: model.bfloat16().float(),
}


@pytest.mark.parametrize("change", CHANGES)
@torch.no_grad()
def test_changed_weights_are_not_answered_from_what_was_kept(change):
    model = build()
    before = model(pictures())
    CHANGES[change](model)
    after = model(pictures())
    fresh = ClipAgiqa(model.backbone, model.config).eval()
    fresh.load_state_dict(model.state_dict())
    assert torch.equal(after.perceptual, fresh(pictures()).perceptual)
    assert not torch.allclose(before.perceptual, after.perceptual, atol=1e-4)


@torch.no_grad()
def test_a_half_precision_backbone_runs_under_full_precision_prompts():
    model = build()
    expected = model(pictures())
    model.backbone.bfloat16()
    half = model.eval()(pictures())
    torch.testing.assert_close(half.perceptual.float(), expected.perceptual, atol=0.05, rtol=0)


@torch.no_grad()
def test_eager_attention_sees_as_little_of_later_tokens_as_the_default_one():
    model = build()
    expected = model(pictures())
    model.backbone.set_attn_implementation("eager")
    assert model.backbone.config.text_config._attn_implementation == "eager"
    torch.testing.assert_close(model.eval()(pictures()), expected, atol=1e-6, rtol=0)


@torch.no_grad()
def test_a_score_does_not_depend_on_its_neighbors(model):
    together = model(pictures(3))
    alone = [model(pictures(3)[i : i + 1]).perceptual for i in range(3)]
    torch.testing.assert_close(torch.cat(alone), together.perceptual, atol=1e-6, rtol=0)


# --- crops ---


def random_image(height, width):
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)


def places(height, width, **settings):
    """(top, left) of every crop: the image says in its pixels where each of them is."""
    rows, columns = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    image = torch.stack([rows, columns, rows]).float()
    return [(int(crop[0, 0, 0]), int(crop[1, 0, 0])) for crop in crops(image, **settings)]


def test_crops_are_windows_every_64_pixels():
    steps = [0, 64, 128, 192, 256]
    assert places(512, 512) == [(y, x) for y in steps for x in steps]
    assert places(224, 300) == [(0, 0), (0, 64)]
    assert crops(torch.zeros(3, 512, 300)).shape == (10, 3, 224, 224)


@pytest.mark.parametrize(
    ("height", "width", "rows", "columns"),
    [(672, 672, 8, 8), (1024, 1024, 8, 8), (224, 8000, 1, 64), (8000, 224, 64, 1), (736, 2016, 4, 16)],
)
def test_a_large_picture_has_crops_spread_evenly_up_to_the_cap(height, width, rows, columns):
    found = places(height, width)
    tops, lefts = sorted({y for y, _ in found}), sorted({x for _, x in found})
    assert (len(tops), len(lefts)) == (rows, columns)
    assert len(found) == len(set(found)) == rows * columns <= MAX_CROPS
    for starts, side in ((tops, height), (lefts, width)):
        if len(starts) > 1:
            gaps = [b - a for a, b in pairwise(starts)]
            assert max(gaps) - min(gaps) <= 1 and min(gaps) >= 64
            assert (starts[0], starts[-1]) == (0, (side - 224) // 64 * 64)


def test_the_cap_holds_for_every_shape():
    for limit in range(1, 20):
        for height, width in product((32, 96, 160, 290, 500), repeat=2):
            found = len(crops(torch.zeros(3, height, width), size=32, limit=limit))
            every = ((height - 32) // 64 + 1) * ((width - 32) // 64 + 1)
            assert min(every, max(1, limit // 2)) <= found <= limit


def test_the_last_crop_that_a_cap_leaves_is_in_the_middle():
    assert places(224 + 640, 224, limit=1) == [(320, 0)]


def test_pixels_are_normalized_as_clip_has_it():
    image = random_image(240, 224)
    processor = CLIPImageProcessorPil(do_resize=False, do_center_crop=False)
    expected = processor(image, return_tensors="pt")["pixel_values"][0, :, :224]
    torch.testing.assert_close(crops(image)[0], expected, atol=1e-5, rtol=0)
    torch.testing.assert_close(crops(expected), expected[None])  # a tensor is normalized already


def test_what_cannot_be_cropped_is_refused():
    with pytest.raises(MintIQAError, match="300 x 223 pixels") as caught:
        crops(random_image(223, 300))
    assert caught.value.code == "image_too_small"
    with pytest.raises(ValueError, match="float64"):
        crops(random_image(224, 224) / 255)


def test_a_picture_scores_the_mean_of_its_crops():
    model = build()
    image = random_image(200, 300)
    with torch.no_grad():
        every = model(crops(image, size=32))
    assert len(every.perceptual) == 15
    output = model.score(image, alignment=True)
    torch.testing.assert_close(output.perceptual, every.perceptual.mean(dim=0, keepdim=True))
    torch.testing.assert_close(output.alignment, every.alignment.mean(dim=0, keepdim=True))
    assert model.score(image).alignment is None


# --- files ---


@pytest.fixture
def backbone(tmp_path):
    clip = tiny_clip.clip(LAYERS)
    clip.save_pretrained(tmp_path / "clip")
    return tmp_path / "clip"


@pytest.fixture
def saved(tmp_path, backbone):
    build(backbone=str(backbone)).save_pretrained(tmp_path / "model")
    return tmp_path / "model"


def refusal(call, code):
    with pytest.raises(MintIQAError) as caught:
        call()
    assert caught.value.code == code
    assert str(caught.value).endswith(".") and "\n" not in str(caught.value)
    return str(caught.value)


@torch.no_grad()
def test_a_checkpoint_names_its_backbone_and_holds_only_what_was_learned(saved, backbone):
    model = build(backbone=str(backbone))
    loaded = ClipAgiqa.from_pretrained(saved)
    assert load_file(saved / "model.safetensors").keys() == model.learned().keys()
    assert loaded.config == model.config
    assert not loaded.training and not any(p.requires_grad for p in loaded.backbone.parameters())
    torch.testing.assert_close(loaded(pictures()), model(pictures()), atol=1e-6, rtol=0)


def test_a_config_is_readable_and_keeps_words_and_tokens(saved):
    config = json.loads((saved / "config.json").read_text())
    assert config["model_type"] == "clip_agiqa" and config["text_depth"] == 3
    assert config["alignment"] == {"words": list(ALIGNED.words), "ids": [list(i) for i in ALIGNED.ids]}


@torch.no_grad()
def test_a_backbone_in_memory_serves_as_well_as_the_one_that_is_named(saved):
    clip = tiny_clip.clip(LAYERS)
    config = json.loads((saved / "config.json").read_text()) | {"backbone": "nowhere"}
    (saved / "config.json").write_text(json.dumps(config))
    assert "'nowhere'" in refusal(lambda: ClipAgiqa.from_pretrained(saved), "model_missing")
    loaded = ClipAgiqa.from_pretrained(saved, clip)
    torch.testing.assert_close(loaded(pictures()), build()(pictures()), atol=1e-6, rtol=0)


def change_config(saved, **changes):
    config = json.loads((saved / "config.json").read_text())
    (saved / "config.json").write_text(json.dumps(config | changes))


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"text_depth": -1}, "text_depth"),
        ({"vision_depth": 5}, "vision_depth is 5, and this backbone allows 4"),
        ({"prompt_length": 73}, "prompt_length is 73, and this backbone allows 71"),
        ({"depth": 3}, "depth"),
        ({"model_type": "mint_iqa"}, "model_type"),
        ({"perceptual": {"words": ["good", "bad"], "ids": [[START, 5, END], [START, 6]]}}, "49407"),
    ],
)
def test_a_config_that_cannot_be_is_refused_and_the_value_named(saved, changes, named):
    change_config(saved, **changes)
    assert named in refusal(lambda: ClipAgiqa.from_pretrained(saved), "bad_config")


def test_a_missing_config_is_refused(tmp_path):
    assert "config.json" in refusal(lambda: ClipAgiqa.from_pretrained(tmp_path / "none"), "model_missing")


def drop(state):
    state.pop("target.proj.bias")


def add(state):
    state["target.more"] = torch.zeros(1)


def reshape(state):
    state["auxiliary.ctx"] = torch.zeros(8, 31)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (drop, "missing: target.proj.bias"),
        (add, "unknown: target.more"),
        (reshape, "of another shape: auxiliary.ctx"),
    ],
)
def test_weights_that_do_not_fit_are_refused_by_name(saved, change, named):
    state = load_file(saved / "model.safetensors")
    change(state)
    save_file(state, saved / "model.safetensors")
    assert f"({named})" in refusal(lambda: ClipAgiqa.from_pretrained(saved), "bad_checkpoint")


def test_unreadable_weights_and_unwritable_folders_are_refused(saved):
    (saved / "model.safetensors").write_bytes(b"not safetensors")
    assert str(saved) in refusal(lambda: ClipAgiqa.from_pretrained(saved), "bad_checkpoint")
    inside_a_file = saved / "config.json" / "folder"
    assert str(inside_a_file) in refusal(lambda: build().save_pretrained(inside_a_file), "output_unwritable")


def test_a_backbone_that_is_not_whole_is_refused(saved, backbone):
    weights = load_file(backbone / "model.safetensors")
    weights.pop("logit_scale")
    save_file(weights, backbone / "model.safetensors", metadata={"format": "pt"})
    assert "logit_scale is missing" in refusal(lambda: ClipAgiqa.from_pretrained(saved), "bad_checkpoint")


# --- the published files ---


@pytest.fixture
def pair(tmp_path, backbone):
    """AUX.pth and TARGET.pth for `backbone`."""
    states = tiny_clip.published(tiny_clip.clip(LAYERS))
    paths = tmp_path / "AUX.pth", tmp_path / "TARGET.pth"
    for state, path in zip(states, paths, strict=True):
        torch.save(state, path)
    return paths


@torch.no_grad()
def test_a_published_pair_is_converted_to_a_checkpoint_with_the_same_scores(pair, backbone, tmp_path):
    convert_published(*pair, tmp_path / "ours", str(backbone))
    converted = ClipAgiqa.from_pretrained(tmp_path / "ours")
    clip = tiny_clip.clip(LAYERS)
    direct = ClipAgiqa.from_published(clip, *tiny_clip.published(clip))
    assert converted.config == replace(direct.config, backbone=str(backbone))
    assert converted.config == ClipAgiqaConfig(backbone=str(backbone), text_depth=LAYERS, vision_depth=LAYERS)
    torch.testing.assert_close(converted(pictures()), direct(pictures()), atol=1e-6, rtol=0)


def test_the_command_converts_a_pair_and_asks_for_the_second_file(pair, backbone, tmp_path, capsys):
    arguments = [*map(str, pair), str(tmp_path / "ours"), "--backbone", str(backbone)]
    assert cli.main(["convert", *arguments]) == 0
    assert f"Converted {pair[0]} and {pair[1]} to {tmp_path / 'ours'}" in capsys.readouterr().out
    assert ClipAgiqa.from_pretrained(tmp_path / "ours").config.backbone == str(backbone)
    assert cli.main(["convert", *arguments[1:]]) == 2
    assert "AUX.pth TARGET.pth OUT --backbone" in capsys.readouterr().err


@torch.no_grad()
def test_half_precision_files_of_other_words_are_read_as_well():
    clip = tiny_clip.clip(LAYERS)
    words = Antonyms(("sharp", "blurred"), ((START, 8157, END), (START, 16159, 777, END)))
    auxiliary, target = tiny_clip.published(clip, perceptual=words)
    half = {name: tensor.half() for name, tensor in target.items()}
    model = ClipAgiqa.from_published(clip, auxiliary, half)
    assert model.config.perceptual.ids == words.ids
    assert model.config.perceptual.words == ("tokens 8157", "tokens 16159, 777")
    assert model.config.alignment == ALIGNED
    exact = ClipAgiqa.from_published(clip, auxiliary, target)
    torch.testing.assert_close(model(pictures()), exact(pictures()), atol=1e-2, rtol=0)


def test_exchanged_files_are_refused(pair, backbone, tmp_path):
    auxiliary, target = pair
    message = refusal(
        lambda: convert_published(target, auxiliary, tmp_path / "x", str(backbone)), "bad_checkpoint"
    )
    assert "The auxiliary file does not fit (unknown: compound_prompt_projections.0.bias" in message
    assert not (tmp_path / "x").exists()


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (lambda state: state.pop("ctx"), "missing: ctx"),
        (lambda state: state.pop("prompts_vis.11"), "missing: prompts_vis.11"),
        (lambda state: state.update(optimizer=torch.zeros(1)), "unknown: optimizer"),
        (
            lambda state: state.update({"prompts_text.3": torch.zeros(4, 32)}),
            "of another shape: prompts_text.3",
        ),
    ],
)
def test_a_published_file_that_is_not_whole_is_refused_by_name(change, named):
    clip = tiny_clip.clip(LAYERS)
    auxiliary, target = tiny_clip.published(clip)
    change(target)
    message = refusal(lambda: ClipAgiqa.from_published(clip, auxiliary, target), "bad_checkpoint")
    assert f"The target file does not fit ({named})" in message


def test_a_backbone_that_the_files_were_not_trained_on_is_refused():
    files = tiny_clip.published(tiny_clip.clip(LAYERS, seed=0))
    other = tiny_clip.clip(LAYERS, seed=1)
    message = refusal(lambda: ClipAgiqa.from_published(other, *files), "bad_checkpoint")
    assert "was trained on another CLIP" in message


def test_a_file_that_would_run_code_is_refused(pair, backbone, tmp_path):
    torch.save({"ctx": nn.Linear(1, 1)}, pair[0])
    message = refusal(lambda: convert_published(*pair, tmp_path / "x", str(backbone)), "bad_checkpoint")
    assert "AUX.pth holds other objects than tensors" in message


@pytest.mark.parametrize("content", [b"", b"not a state dict", None])
def test_a_damaged_or_missing_file_is_refused(pair, backbone, tmp_path, content):
    pair[1].unlink() if content is None else pair[1].write_bytes(content)
    code = "file_missing" if content is None else "bad_checkpoint"
    assert "TARGET.pth" in refusal(lambda: convert_published(*pair, tmp_path / "x", str(backbone)), code)
