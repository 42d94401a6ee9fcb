"""CLIP-AGIQA's prompts in the towers of a MINT-IQA: its sentence space where there are none, and what learns.

Where prompts stand is tested on CLIP; here, what differs.
"""

from dataclasses import replace

import pytest
import torch
from PIL import Image
from transformers import AutoTokenizer

from mint_iqa.checkpoints.parts import part_folder
from mint_iqa.clip_agiqa.assessor import ClipAgiqaAssessor
from mint_iqa.clip_agiqa.crops import crops, resize
from mint_iqa.clip_agiqa.model import ClipAgiqa, ClipAgiqaConfig
from mint_iqa.clip_agiqa.towers import GOOD, CaptionTowers, towers_of
from mint_iqa.errors import MintIQAError
from tests import tiny
from tests.unit.mint_iqa.clip_agiqa.test_model import Watch, random_image, same

PATCHES = 4  # 2 x 2
SENTENCES = {"hidden_size": 16, "num_hidden_layers": 2, "intermediate_size": 24, **tiny.TEXT}
SENTENCES["vocab_size"] = 30522  # BERT's own: the class words are fixed token ids


def backbone(**changes):
    return tiny.lively(tiny.model(alignment=SENTENCES, referenced=[], **changes))


def build(**changes):
    config = ClipAgiqaConfig(
        perceptual=CaptionTowers.perceptual,
        alignment=CaptionTowers.alignment,
        **{"text_depth": 2, "vision_depth": 4, "prompt_length": 3, **changes},
    )
    torch.manual_seed(1)
    model = ClipAgiqa(backbone(), config).eval()
    with torch.no_grad():
        for tensor in model.learned().values():
            tensor.add_(torch.randn(tensor.shape) * 0.3)
    return model


def pictures(count=2):
    return torch.randn(count, 3, 28, 28, generator=torch.Generator().manual_seed(0))


@torch.no_grad()
def test_without_prompts_it_is_the_sentence_space_choosing_between_two_sentences():
    model = build(text_depth=0, vision_depth=0)
    space = model.backbone.alignment
    for task, output in zip(
        (CaptionTowers.perceptual, CaptionTowers.alignment), model(pictures()), strict=True
    ):
        longest = max(map(len, task.ids))
        ids = torch.tensor([sentence + (0,) * (longest - len(sentence)) for sentence in task.ids])
        texts = space.encode_text(ids, (ids > 0).long())
        images = space.image_vector(model.backbone.encode_image(pictures()).image_embeds)
        expected = (space.logit_scale.exp() * images @ texts.T).softmax(dim=-1)[:, :1]
        torch.testing.assert_close(output, expected, atol=1e-6, rtol=0)


@torch.no_grad()
def test_visual_prompts_follow_the_patches_and_are_not_read_as_patches():
    model = build()
    prompts = model.target.visual_prompts(model.auxiliary)
    seen = []
    hook = model.backbone.vision.readout.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    with Watch(*model.backbone.vision.blocks()) as layers:
        model(pictures(), alignment=False)
    hook.remove()
    for prompt, entering in zip(prompts, layers.inputs, strict=True):
        assert same(prompt, entering[:, 1 + PATCHES :])
    (tapped,) = seen
    assert [t.shape[1] for t in tapped] == [1 + PATCHES] * 3
    assert torch.equal(tapped[0], layers.outputs[0][:, : 1 + PATCHES])


@torch.no_grad()
def test_the_text_context_follows_the_start_token_and_is_replaced_before_each_later_layer():
    model = build()
    prompts = model.target.text_prompts()
    text = model.backbone.alignment.text_encoder
    with Watch(text.embeddings.LayerNorm) as norm, Watch(*text.encoder.layer) as layers:
        model.encode_text(CaptionTowers.perceptual.ids, prompts)
    embed, positions = text.embeddings.word_embeddings.weight, text.embeddings.position_embeddings.weight
    ids = CaptionTowers.perceptual.ids[0]
    words = torch.cat([embed[[ids[0]]], prompts[0], embed[list(ids[1:])]])
    kind = text.embeddings.token_type_embeddings.weight[0]
    torch.testing.assert_close(norm.inputs[0][0], words + positions[: len(words)] + kind)
    assert same(prompts[1], layers.inputs[1][:, 1:4])
    assert torch.equal(layers.inputs[1][:, 4:], layers.outputs[0][:, 4:])


@torch.no_grad()
def test_a_sentence_does_not_depend_on_a_longer_one_beside_it():
    model = build()
    prompts = model.auxiliary.text_prompts()
    short, long = CaptionTowers.alignment.ids
    assert len(short) < len(long)
    together = model.encode_text((short, long), prompts)
    torch.testing.assert_close(together[:1], model.encode_text((short,), prompts), atol=1e-6, rtol=0)


def test_every_prompt_and_fusion_learns_and_the_towers_do_not():
    model = build().train()
    model.loss(model(pictures()), torch.tensor([4.0, 1.0]), torch.tensor([1.0, 2.0])).backward()
    reached = {name for name, p in model.named_parameters() if p.grad is not None and p.grad.any()}
    assert reached == model.learned().keys()


@torch.no_grad()
def test_bfloat16_autocast_changes_scores_little():
    model = build()
    expected = model(pictures())
    with torch.autocast("cpu", torch.bfloat16):
        found = model.eval()(pictures())
    torch.testing.assert_close(found, expected, atol=0.03, rtol=0)


def test_a_picture_is_scaled_and_normalized_as_the_tower_wants_it():
    model = build(short_side=28)
    image = random_image(56, 140)
    small = resize(image, 28)
    assert small.shape == (28, 70, 3)
    with torch.no_grad():
        expected = model(crops(small, 28, mean=[0.485, 0.456, 0.406], std=[0.229, 0.224, 0.225]))
    torch.testing.assert_close(model.score(image).perceptual, expected.perceptual.mean(dim=0, keepdim=True))


def test_a_checkpoint_names_the_mint_iqa_and_is_served(tmp_path):
    backbone().save_pretrained(tmp_path / "mint")
    model = build(backbone=str(tmp_path / "mint"), short_side=28)
    model.save_pretrained(tmp_path / "prompts")
    assessor = ClipAgiqaAssessor.from_pretrained(tmp_path / "prompts")
    expected = model.score(random_image(40, 40)).perceptual.item() * 100
    assert assessor.assess(Image.fromarray(random_image(40, 40))).scores.quality == pytest.approx(
        expected, abs=1e-3
    )


def test_what_does_not_fit_is_refused():
    with pytest.raises(MintIQAError, match="must begin with 101 and hold 102"):
        ClipAgiqa(backbone(), ClipAgiqaConfig(text_depth=2, vision_depth=4))
    with pytest.raises(MintIQAError, match="vision_depth is 5, and this backbone allows 4"):
        build(vision_depth=5)
    with pytest.raises(MintIQAError, match="no sentence space"):
        towers_of(tiny.model(alignment=None))


def test_the_class_words_are_what_the_sentence_encoders_tokenizer_makes_of_them():
    tokenizer = AutoTokenizer.from_pretrained(part_folder("minilm_l6"))
    for task in (CaptionTowers.perceptual, CaptionTowers.alignment):
        assert [tuple(ids) for ids in tokenizer(list(task.words))["input_ids"]] == list(task.ids)
    assert replace(CaptionTowers.perceptual, ids=GOOD.ids) == GOOD  # the same words as for CLIP
