"""The model: what it gives, what its parts depend on, and that a checkpoint is loaded whole or refused."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from mint_iqa.errors import MintIQAError
from mint_iqa.model import references
from mint_iqa.model.configuration import MintIQAConfig
from mint_iqa.model.modeling import FAMILIAR_AXES, MintIQAModel
from tests import tiny

REPOSITORY = Path(__file__).resolve().parents[4]
PROMPTS = ["a red fox in the snow", "two dogs", "a painting of a cat under rain and snow, in red"]


def random_pictures(count, seed=0):
    return torch.randn(count, 3, 28, 28, generator=torch.Generator().manual_seed(seed))


def tokens(*texts):
    encoded = tiny.text_tokenizer()(list(texts), padding=True, return_tensors="pt")
    return encoded["input_ids"], encoded["attention_mask"]


@pytest.fixture(scope="module")
def model():
    return tiny.lively(tiny.model())


@pytest.fixture
def saved(tmp_path):
    tiny.lively(tiny.model()).save_pretrained(tmp_path)
    return tmp_path


def change_weights(folder, change):
    weights = load_file(folder / "model.safetensors")
    change(weights)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


@torch.no_grad()
def test_every_output_has_the_documented_shape(model):
    encoded = model.encode_image(random_pictures(3))
    output = model.score(encoded, *tokens(*PROMPTS))
    assert encoded.image_embeds.shape == encoded.explain_embeds.shape == (3, 6, 24)
    assert output.scores.shape == (3, 3)
    assert output.faults.shape == (3, 6)
    assert output.quality_vectors.shape == (3, 4, 32)
    assert output.similarity.shape == (3,)
    assert model.soft_prompt(encoded, output.quality_vectors, *tokens(*PROMPTS)).shape == (3, 4, 32)
    assert model.novelty(encoded).shape == (3,)


@torch.no_grad()
def test_without_faults_and_alignment_there_are_only_scores():
    output = tiny.model(faults=[], alignment=None)(random_pictures(1), *tokens("a fox"))
    assert output.scores.shape == (1, 3)
    assert output.faults is None and output.similarity is None


@torch.no_grad()
def test_the_shortcut_adds_one_vector_of_the_whole_picture_to_every_weighted_quality_vector():
    model = tiny.model(shortcut=True)
    encoded, prompt = model.encode_image(random_pictures(2)), tokens("a fox", "a dog")
    queries = model.qformer1(encoded.image_embeds, *prompt)
    added = model.score(encoded, *prompt).quality_vectors - 0.1 * queries
    torch.testing.assert_close(added, added[:, :1].expand_as(added), atol=1e-5, rtol=0)
    assert added[0, 0].sub(added[1, 0]).abs().max() > 1e-3  # two pictures differ
    assert tiny.model().shortcut is None


@torch.no_grad()
def test_the_mean_query_gives_the_scores_and_faults_of_all_queries():
    model = tiny.lively(tiny.model(shortcut=True))
    encoded, prompt = model.encode_image(random_pictures(2)), tokens("a fox", "a dog")
    mean = model.qformer1(encoded.image_embeds, *prompt).mean(dim=1, keepdim=True)
    image, text = model.alignment.image_vector(encoded.image_embeds), model.alignment.encode_text(*prompt)
    whole, short = model.score(encoded, *prompt), model.apply_heads(mean, encoded.statistics, image, text)
    torch.testing.assert_close(short.scores, whole.scores, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(short.faults, whole.faults, atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_the_bridge_starts_at_zero_so_that_quality_vectors_change_nothing_until_it_has_learned():
    model = tiny.model()
    encoded, question = model.encode_image(random_pictures(1)), tokens("why ?")
    some, others = torch.randn(2, 1, 4, 32)
    assert torch.equal(
        model.soft_prompt(encoded, some, *question), model.soft_prompt(encoded, others, *question)
    )
    nn.init.eye_(model.bridge.weight[..., 0])
    assert not torch.allclose(
        model.soft_prompt(encoded, some, *question), model.soft_prompt(encoded, others, *question), atol=1e-4
    )


@torch.no_grad()
def test_the_bridge_mixes_queries_and_keeps_channels_apart(model):
    vectors = torch.randn(1, 4, 32)
    changed = vectors.clone()
    changed[:, 1, 5] += 1
    difference = model.bridge(changed) - model.bridge(vectors)
    assert difference[..., 5].abs().min() > 0
    assert difference[..., :5].abs().max() == difference[..., 6:].abs().max() == 0


@torch.no_grad()
def test_stage_2_reads_its_own_copy_of_the_late_blocks():
    model = tiny.lively(tiny.model(vision=tiny.vision(branch_at=2)))
    before = model.encode_image(random_pictures(1))
    model.vision2.blocks[0].mlp.fc1.weight.mul_(2)
    after = model.encode_image(random_pictures(1))
    assert torch.equal(before.image_embeds, after.image_embeds)
    assert not torch.allclose(before.explain_embeds, after.explain_embeds, atol=1e-4)
    assert torch.equal(after.one(0).explain_embeds, after.explain_embeds)


@torch.no_grad()
def test_queries_see_the_prompt_and_the_picture(model):
    encoded = model.encode_image(random_pictures(2))
    scores = model.score(encoded, *tokens("a red fox", "a red fox")).scores
    others = model.score(encoded, *tokens("a blue cat", "a blue cat")).scores
    assert (scores - others).abs().min() > 1e-5
    assert (scores[0] - scores[1]).abs().min() > 1e-5


@torch.no_grad()
def test_similarity_is_a_cosine_and_moves_correspondence_alone(model):
    encoded, prompts = model.encode_image(random_pictures(3)), tokens(*PROMPTS)
    output = model.score(encoded, *prompts)
    assert output.similarity.abs().max() <= 1
    gain = model.alignment.gain.clone()
    try:
        model.alignment.gain.add_(0.25)
        moved = model.score(encoded, *prompts).scores - output.scores
    finally:
        model.alignment.gain.copy_(gain)
    assert torch.equal(moved[:, :2], torch.zeros(3, 2))
    torch.testing.assert_close(moved[:, 2], 0.25 * output.similarity, atol=1e-6, rtol=0)


@pytest.mark.slow
@torch.no_grad()
def test_matching_changes_nothing_until_it_is_learned(model):
    matching = tiny.model(matching=True)
    matching.load_state_dict(model.state_dict(), strict=False)
    encoded, prompts = model.encode_image(random_pictures(3)), tokens(*PROMPTS)
    before, after = model.score(encoded, *prompts), matching.score(encoded, *prompts)
    torch.testing.assert_close(after.scores, before.scores)
    torch.testing.assert_close(after.similarity, before.similarity)


@torch.no_grad()
def test_a_prompt_below_the_knee_costs_correspondence_alone():
    model = tiny.model(matching=True)
    encoded, prompts = model.encode_image(random_pictures(3)), tokens(*PROMPTS)
    before = model.score(encoded, *prompts)
    knee = before.similarity.sort().values[1]
    model.alignment.knee.copy_(knee)
    model.alignment.slope.fill_(2.0)
    moved = model.score(encoded, *prompts).scores - before.scores
    assert torch.equal(moved[:, :2], torch.zeros(3, 2))
    torch.testing.assert_close(moved[:, 2], 2 * (before.similarity - knee).clamp(max=0))
    assert (moved[:, 2] < 0).sum() == 1


@torch.no_grad()
def test_mapped_prompts_are_still_compared_by_a_cosine():
    model = tiny.model(matching=True)
    encoded, prompts = model.encode_image(random_pictures(3)), tokens(*PROMPTS)
    before = model.score(encoded, *prompts).similarity
    torch.nn.init.normal_(model.alignment.prompt_map.weight, std=2.0)
    after = model.score(encoded, *prompts).similarity
    assert after.abs().max() <= 1 and (after - before).abs().min() > 1e-4


@torch.no_grad()
def test_a_head_keeps_the_output_at_its_index_and_averages_the_queries():
    head = tiny.model(heads={"hidden": 8, "outputs": 3, "index": 1}).heads["quality"]
    vectors = torch.randn(2, 4, 32)
    torch.testing.assert_close(head(vectors), head.layers(vectors)[:, :, 1].sum(dim=1) / 4)


@torch.no_grad()
def test_a_score_does_not_depend_on_batch_neighbors_or_padding(model):
    pictures = random_pictures(3)
    together = model(pictures, *tokens(*PROMPTS))
    for i, prompt in enumerate(PROMPTS):
        alone = model(pictures[i : i + 1], *tokens(prompt))
        torch.testing.assert_close(together.scores[i : i + 1], alone.scores, atol=1e-5, rtol=0)
        torch.testing.assert_close(together.faults[i : i + 1], alone.faults, atol=1e-5, rtol=0)
        torch.testing.assert_close(together.similarity[i : i + 1], alone.similarity, atol=1e-5, rtol=0)


@torch.no_grad()
def test_a_soft_prompt_does_not_depend_on_the_padding_of_its_question(model):
    encoded, vectors = model.encode_image(random_pictures(1)), torch.randn(1, 4, 32)
    ids, mask = tokens("why ?")
    padded = nn.functional.pad(ids, (0, 9), value=7), nn.functional.pad(mask, (0, 9))
    torch.testing.assert_close(
        model.soft_prompt(encoded, vectors, *padded),
        model.soft_prompt(encoded, vectors, ids, mask),
        atol=1e-5,
        rtol=0,
    )


@torch.no_grad()
def test_a_picture_is_novel_by_its_distance_along_the_familiar_axes():
    model = tiny.model()
    encoded = model.encode_image(random_pictures(2))
    assert model.novelty(encoded).tolist() == [0, 0]  # never measured
    pooled = encoded.image_embeds.mean(dim=1)
    model.familiar_mean.copy_(pooled[0])
    model.familiar_axes[:, :24] = torch.eye(24)
    expected = (pooled[1] - pooled[0]).square().sum() / FAMILIAR_AXES
    torch.testing.assert_close(model.novelty(encoded), torch.stack([torch.tensor(0.0), expected]))


def layer_norms(module):
    return {n.eps for n in module.modules() if isinstance(n, nn.LayerNorm)}


def test_the_published_configuration_has_the_layer_norms_of_instructblip_and_bert():
    vision = tiny.vision(model_type="instructblip_vision_model", taps=[4], branch_at=2)
    qformer = {k: v for k, v in tiny.config().qformer.items() if k != "layer_norm_eps"}
    model = tiny.model(vision=vision, qformer=qformer)
    assert layer_norms(model.vision) == layer_norms(model.vision2) == {1e-6}
    assert layer_norms(model.qformer1) == layer_norms(model.qformer2) == {1e-12}


def test_nano_has_the_layer_norms_of_dinov2_and_minilm():
    nano = MintIQAConfig.from_json_file(REPOSITORY / "configs" / "nano" / "model.json")
    assert nano.qformer["layer_norm_eps"] == nano.alignment["layer_norm_eps"] == 1e-12
    assert layer_norms(tiny.model(vision=tiny.vision(taps=[4])).vision) == {1e-6}


@pytest.mark.parametrize("kind", ["dinov2", "clip_vision_model", "instructblip_vision_model"])
@torch.no_grad()
def test_save_and_load_gives_every_weight_and_buffer_back_bit_for_bit(tmp_path, kind):
    model = tiny.lively(tiny.model(vision=tiny.vision(model_type=kind, branch_at=2)))
    model.familiar_axes.normal_()
    model.save_pretrained(tmp_path)
    loaded = MintIQAModel.from_pretrained(tmp_path)
    ours = {
        **dict(model.named_parameters()),
        **dict(model.named_buffers()),
    }  # those that aren't saved as well
    theirs = {**dict(loaded.named_parameters()), **dict(loaded.named_buffers())}
    assert ours.keys() == theirs.keys()
    assert [k for k in ours if ours[k].dtype != theirs[k].dtype or not torch.equal(ours[k], theirs[k])] == []
    assert not loaded.training
    inputs = random_pictures(1), *tokens(PROMPTS[0])
    # Not to the bit: with AVX2, MKL rounds by where in memory a matrix lies.
    torch.testing.assert_close(loaded(*inputs).scores, model(*inputs).scores, atol=1e-5, rtol=0)


@torch.no_grad()
def test_referenced_weights_are_not_saved_but_filled_from_their_parts(tmp_path, monkeypatch):
    referenced = [
        "alignment.text_encoder.",
        "qformer1.encoder.embeddings.word_embeddings.",
        "qformer2.encoder.embeddings.",
    ]
    alignment = {"hidden_size": 32, "num_hidden_layers": 1, "intermediate_size": 24, **tiny.TEXT}
    model = tiny.lively(tiny.model(referenced=referenced, alignment=alignment, parts={"text": "a_text_part"}))
    text = model.alignment.text_encoder.state_dict()
    part = tmp_path / "part"
    part.mkdir()
    model.alignment.text_encoder.config.save_pretrained(part)
    save_file({k: v.clone() for k, v in text.items()}, part / "model.safetensors", {"format": "pt"})
    monkeypatch.setattr(references, "part_folder", {"a_text_part": part}.__getitem__)
    model.save_pretrained(tmp_path / "model")
    held = load_file(tmp_path / "model" / "model.safetensors").keys()
    assert [k for k in held if k.startswith(tuple(referenced))] == []
    assert len(held) == len([k for k in model.state_dict() if not k.startswith(tuple(referenced))])

    loaded = MintIQAModel.from_pretrained(tmp_path / "model").state_dict()
    words = "embeddings.word_embeddings.weight"
    assert all(torch.equal(loaded[f"alignment.text_encoder.{k}"], v) for k, v in text.items())
    for qformer in ("qformer1", "qformer2"):
        assert torch.equal(loaded[f"{qformer}.encoder.{words}"], text[words])
    positions = "encoder.embeddings.position_embeddings.weight"
    assert torch.equal(loaded[f"qformer2.{positions}"], model.state_dict()[f"qformer1.{positions}"])


def refusal(folder):
    with pytest.raises(MintIQAError) as caught:
        MintIQAModel.from_pretrained(folder)
    assert caught.value.code == "bad_checkpoint"
    return str(caught.value)


def test_a_checkpoint_without_one_of_its_weights_is_refused_and_the_weight_named(saved):
    change_weights(saved, lambda weights: weights.pop("bridge.weight"))
    assert "missing: bridge.weight)" in refusal(saved)


def test_a_checkpoint_with_a_weight_too_many_is_refused_and_the_weight_named(saved):
    change_weights(saved, lambda weights: weights.update({"fourth_head.weight": torch.zeros(1)}))
    assert "unknown: fourth_head.weight)" in refusal(saved)


def test_a_checkpoint_with_a_weight_of_another_shape_is_refused_and_the_weight_named(saved):
    change_weights(saved, lambda weights: weights.update({"bridge.bias": torch.zeros(5)}))
    assert "of another shape: bridge.bias)" in refusal(saved)


@pytest.mark.parametrize("kept", [None, b"", b"not safetensors, but long enough to look like something"])
def test_a_checkpoint_whose_weights_cannot_be_read_is_refused(saved, kept):
    weights = saved / "model.safetensors"
    weights.unlink() if kept is None else weights.write_bytes(kept)
    assert str(saved) in refusal(saved)
