"""A converted published checkpoint gives what the published code gives."""

import json

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from mint_iqa.convert.from_published import convert
from mint_iqa.convert.published import Dimensions, llm_config, model_config
from mint_iqa.model.modeling import MintIQAModel
from tests import published

pytestmark = pytest.mark.slow


EXPECTED = load_file(published.GOLDEN / "expected.safetensors")
# Everything that can differ does: depths, widths, heads, grid, queries, how often queries see the picture.
OTHER = {
    **published.DIMS,
    "image_size": 42, "vision_width": 40, "vision_layers": 3, "vision_heads": 5, "vision_mlp": 60,
    "qformer_width": 24, "qformer_layers": 3, "qformer_heads": 2, "qformer_mlp": 40, "qformer_vocab": 77,
    "cross_attention_every": 3, "query_tokens": 6, "head_hidden": 10, "llm_width": 48, "llm_layers": 1,
    "llm_vocab": 90, "llm_pad": 89,
}  # fmt: skip


def converted(folder, state, dims):
    """The model loaded from the conversion of `state`, and what `convert` said."""
    torch.save(state, folder / "published.pt")
    (folder / "dims.json").write_text(json.dumps(dims))
    done = convert(folder / "published.pt", folder / "out", folder / "dims.json")
    return MintIQAModel.from_pretrained(folder / "out"), done


@pytest.fixture(scope="module")
def golden(tmp_path_factory):
    folder = tmp_path_factory.mktemp("golden") / "out"
    convert(published.GOLDEN / "official_format.pt", folder, published.GOLDEN / "dims.json")
    return MintIQAModel.from_pretrained(folder)


@torch.no_grad()
def scored(model, inputs):
    return model.forward_scores(inputs["pixel_values"], inputs["prompt_ids"], inputs["prompt_mask"])


def question(inputs, items=slice(None)):
    """pixel_values, and the question in the Q-Former's tokens."""
    names = ("instruction_qformer_ids", "instruction_qformer_mask")
    return inputs["pixel_values"][items], *(inputs[name][items] for name in names)


@torch.no_grad()
def answered(model, inputs, vectors, pad):
    pixels, *instruction = question(inputs)
    return model.forward_answer(pixels, vectors, *instruction, *published.joined(inputs, pad))


def farthest(one, other):
    assert one.shape == other.shape
    return (one - other).abs().max().item()


def test_golden_scores_and_vectors_are_reproduced(golden):
    output = scored(golden, EXPECTED)
    assert farthest(output.scores, EXPECTED["scores"]) < 5e-5
    assert farthest(output.quality_vectors, EXPECTED["quality_vectors"]) < 5e-5


def test_the_golden_loss_and_what_leads_to_it_are_reproduced(golden):
    output = answered(golden, EXPECTED, EXPECTED["quality_vectors"], published.DIMS["llm_pad"])
    assert farthest(output.query_output, EXPECTED["query_output"]) < 5e-5
    assert farthest(output.soft_prompt, EXPECTED["soft_prompt"]) < 5e-5
    assert farthest(output.loss, EXPECTED["lm_loss"][0]) < 1e-5


def generated(model, items, **settings):
    pixels, *instruction = question(EXPECTED, items)
    asked = EXPECTED["instruction_llm_ids"][items], EXPECTED["instruction_llm_mask"][items]
    return model.generate_answer(pixels, EXPECTED["quality_vectors"][items], *instruction, *asked, **settings)


def test_golden_tokens_are_reproduced(golden):
    ids = generated(golden, slice(0, 1), max_new_tokens=8, ignore_eos=True)
    assert torch.equal(ids, EXPECTED["greedy_ids"])


def test_answers_of_a_batch_with_padding_are_those_of_each_item_alone(golden):
    together = generated(golden, slice(None), max_new_tokens=8, ignore_eos=True)
    alone = [generated(golden, slice(i, i + 1), max_new_tokens=8, ignore_eos=True) for i in range(3)]
    assert torch.equal(together, torch.cat(alone))


def test_an_answer_ends_before_the_end_token_and_a_shorter_one_is_filled_up_with_it(golden):
    free = generated(golden, slice(None), max_new_tokens=8, ignore_eos=True)
    language = golden.language_model()
    end, before = int(free[0, 4]), language.stop_ids
    assert before == {published.DIMS["llm_eos"]}
    language.stop_ids = {end}
    try:
        ids = generated(golden, slice(None), max_new_tokens=8)
        single = generated(golden, slice(0, 1), max_new_tokens=8)
    finally:
        language.stop_ids = before
    cut = free[0].tolist().index(end)
    assert single.tolist() == [free[0, :cut].tolist()]
    assert ids[0].tolist() == free[0, :cut].tolist() + [end] * (ids.shape[1] - cut)


def test_every_layer_norm_has_its_published_epsilon(golden):
    wanted = {
        "vision.backbone.post_layernorm": 1e-5,
        "vision2.norm": 1e-5,
        **dict.fromkeys(("vision", "vision2"), 1e-06),
        **dict.fromkeys(("qformer1", "qformer2"), 1e-12),
    }
    norms = {name: m.eps for name, m in golden.named_modules() if isinstance(m, nn.LayerNorm)}
    assert len(norms) == 2 * (2 * 4 + 1) + 2 * (1 + 4 * 3 + 2)
    assert {
        name: eps for name, eps in norms.items() if eps != wanted.get(name, wanted[name.split(".")[0]])
    } == {}
    llm = golden.language_model().model
    assert {m.variance_epsilon for n, m in llm.named_modules() if n.endswith("norm")} == {1e-6}


def test_the_reference_of_these_tests_gives_the_golden_values():
    state = torch.load(published.GOLDEN / "official_format.pt", weights_only=True)
    found = published.reference(state, published.DIMS, EXPECTED)
    for name in ("scores", "quality_vectors", "query_output", "soft_prompt"):
        assert farthest(found[name], EXPECTED[name]) < 5e-5, name
    assert farthest(found["lm_loss"], EXPECTED["lm_loss"][0]) < 1e-5


@pytest.mark.parametrize("dims", [published.DIMS, OTHER], ids=["golden sizes", "other sizes"])
@pytest.mark.parametrize(("seed", "shared"), [(1, 0), (2, 0), (3, 1), (4, 2), (5, "all")])
def test_random_checkpoints_give_what_the_reference_gives_however_much_the_towers_share(
    tmp_path, dims, seed, shared
):
    shared = dims["vision_layers"] if shared == "all" else shared
    state, inputs = published.random_state(dims, seed, shared), published.random_inputs(dims, seed)
    model, done = converted(tmp_path, state, dims)
    expected = published.reference(state, dims, inputs)
    output = scored(model, inputs)
    answer = answered(model, inputs, output.quality_vectors, dims["llm_pad"])
    assert done.shared == shared
    assert farthest(output.scores, expected["scores"]) < 5e-5
    assert farthest(output.quality_vectors, expected["quality_vectors"]) < 5e-5
    assert farthest(answer.soft_prompt, expected["soft_prompt"]) < 5e-5
    assert farthest(answer.loss, expected["lm_loss"]) < 1e-5


def test_what_towers_share_is_kept_once(tmp_path):
    depth = published.DIMS["vision_layers"]
    sizes = []
    for shared in (0, 2, depth):
        folder = tmp_path / str(shared)
        folder.mkdir()
        model, _ = converted(folder, published.random_state(published.DIMS, shared=shared), published.DIMS)
        own = [] if model.vision2 is None else list(model.vision2.parameters())
        sizes.append(sum(p.numel() for p in own))
    tower = sum(p.numel() for p in model.vision.parameters())
    assert sizes[0] == tower and 0.4 * tower < sizes[1] < 0.6 * tower and sizes[2] == 0


def test_towers_that_differ_only_in_the_last_norm_do_not_share_it(tmp_path):
    depth = published.DIMS["vision_layers"]
    state, inputs = (
        published.random_state(published.DIMS, shared=depth),
        published.random_inputs(published.DIMS),
    )
    state["qformer2.ln_vision.bias"] += 1
    model, done = converted(tmp_path, state, published.DIMS)
    expected = published.reference(state, published.DIMS, inputs)
    answer = answered(model, inputs, expected["quality_vectors"], published.DIMS["llm_pad"])
    assert done.shared == depth - 1
    assert farthest(answer.soft_prompt, expected["soft_prompt"]) < 5e-5


def test_scoring_loads_no_llm_and_asking_does_not_make_it_part_of_the_model(tmp_path):
    model, _ = converted(tmp_path, published.random_state(OTHER), OTHER)
    inputs = published.random_inputs(OTHER)
    names = set(model.state_dict())
    vectors = scored(model, inputs).quality_vectors
    assert model.language.loaded is None
    answered(model, inputs, vectors, OTHER["llm_pad"])
    assert model.language.loaded is not None and model.language_model() is model.language_model()
    assert set(model.state_dict()) == names


def test_the_default_dimensions_are_those_of_vit_g_bert_base_and_vicuna_7b():
    dims = Dimensions(qformer_vocab=30523, llm_vocab=32001, llm_pad=32000)
    with torch.device("meta"):
        model = MintIQAModel(model_config(dims, branch_at=0))
    millions = {n: round(sum(p.numel() for p in m.parameters()) / 1e6) for n, m in model.named_children()}
    assert millions["vision"] == millions["vision2"] == 986  # InstructBLIP's vision_model
    assert millions["qformer1"] == millions["qformer2"] == 186
    llm = llm_config(dims)
    sizes = (llm.hidden_size, llm.num_hidden_layers, llm.num_attention_heads, llm.intermediate_size)
    assert sizes == (4096, 32, 32, 11008) and llm.rms_norm_eps == 1e-6 and not llm.tie_word_embeddings
