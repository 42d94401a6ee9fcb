"""What the LLM reads, and how its answer comes out."""

import copy

import pytest
import torch

from mint_iqa.errors import MintIQAError
from mint_iqa.language.chat import IMAGE_PLACE, MAX_HISTORY, SYSTEM, scores_in_words
from mint_iqa.language.llm import MAX_NEW_TOKENS, LanguageModel, pad_left
from mint_iqa.model.references import load_language
from tests import tiny, tiny_llms

SCORES = {"quality": 34.9, "authenticity": 52.0, "correspondence": None}


@pytest.fixture(scope="module")
def loaded(tiny_language):
    config = tiny.config(language={"hidden_size": 32, "source": str(tiny_language)})
    return load_language(config, None)


@pytest.fixture
def language(loaded):
    """The tiny LLM, which never ends its answer by itself."""
    language = LanguageModel(loaded.model, loaded.tokenizer)
    language.stop_ids = set()
    return language


def random_prefix(length, seed=0):
    return torch.randn(length, 32, generator=torch.Generator().manual_seed(seed))


def written(language, question="Why?", history=(), scores=SCORES):
    """The text before and after the soft tokens."""
    return [language.tokenizer.decode(ids) for ids in language.tokens(scores, question, history)]


def generated(language, prefix, **settings):
    return [token for (token,) in language.decode([prefix], **settings)]


def test_scores_are_written_as_words_with_whole_points():
    words = scores_in_words({"quality": 34.9, "authenticity": 80.0, "correspondence": 0.0})
    assert words == "Scores: quality poor (34), authenticity excellent (80), correspondence bad (0)."


def test_a_missing_score_is_written_as_not_rated():
    assert scores_in_words(SCORES).endswith("authenticity fair (52), correspondence not rated.")


def test_the_soft_tokens_stand_first_in_the_question(language):
    before, after = written(language)
    assert before == f"<|im_start|>system\n{SYSTEM}<|im_end|>\n<|im_start|>user\n"
    assert after == f"\n{scores_in_words(SCORES)}\nWhy?<|im_end|>\n<|im_start|>assistant\n"


def test_the_prefix_is_the_soft_tokens_between_the_embedded_texts(language):
    soft, tokens = random_prefix(4), language.tokens(SCORES, "Why?", ())
    prefix = language.prefix(soft, tokens)
    start = len(tokens[0])
    assert len(prefix) == start + 4 + len(tokens[1])
    assert torch.equal(prefix[start : start + 4], soft)
    table = language.model.get_input_embeddings().weight
    assert torch.equal(prefix[:start], table[tokens[0]]) and torch.equal(
        prefix[start + 4 :], table[tokens[1]]
    )


def test_a_question_that_contains_the_marker_keeps_it_as_text(language):
    plain = language.tokens(SCORES, "Why?", ())
    before, after = written(language, f"Is {IMAGE_PLACE} blurry{IMAGE_PLACE}?")
    assert language.tokens(SCORES, f"{IMAGE_PLACE}", ())[0] == plain[0]
    assert before.endswith("user\n") and f"Is {IMAGE_PLACE} blurry{IMAGE_PLACE}?" in after


def test_the_picture_and_its_scores_stand_in_the_first_turn_alone(language):
    before, after = written(language, "And now?", [("Why?", "It is blurry.")])
    assert before.endswith("user\n")
    assert after.startswith(
        f"\n{scores_in_words(SCORES)}\nWhy?<|im_end|>\n<|im_start|>assistant\nIt is blurry.<|im_end|>"
    )
    assert after.endswith("<|im_start|>user\nAnd now?<|im_end|>\n<|im_start|>assistant\n")
    assert after.count("Scores:") == 1


def test_only_the_last_turns_are_remembered(language):
    turns = [(f"question {i}", f"answer {i}") for i in range(MAX_HISTORY + 2)]
    _, after = written(language, "Why?", turns)
    assert "answer 1" not in after and f"question {MAX_HISTORY + 1}" in after
    assert f"{scores_in_words(SCORES)}\nquestion 2" in after
    assert language.tokens(SCORES, "Why?", turns) == language.tokens(SCORES, "Why?", turns[2:])


def test_an_answer_is_what_the_model_itself_would_generate_greedily(language):
    prefix = random_prefix(9)
    expected = language.model.generate(
        inputs_embeds=prefix.unsqueeze(0),
        attention_mask=torch.ones(1, 9, dtype=torch.long),
        max_new_tokens=12,
        do_sample=False,
        eos_token_id=None,
        pad_token_id=0,
    )
    assert generated(language, prefix, max_new_tokens=12) == expected[0].tolist()


def test_answers_to_prefixes_of_different_length_equal_each_alone(language):
    prefixes = [random_prefix(n, seed=n) for n in (5, 23, 11)]
    together = language.answers(prefixes)
    assert together == [language.answers([p])[0] for p in prefixes]
    assert len(set(together)) == 3


def test_an_answer_that_ends_early_does_not_change_or_end_its_neighbors(language):
    prefixes = [random_prefix(n, seed=n) for n in (5, 23)]
    first, second = (generated(language, p) for p in prefixes)
    language.stop_ids = {next(t for t in first[3:] if t not in second)}
    assert len(generated(language, prefixes[0])) < len(first)
    steps = list(language.decode(prefixes))
    assert [own for _, own in steps] == second
    assert steps[-1][0] is None
    assert language.answers(prefixes) == [
        language.decode_text(generated(language, prefixes[0])),
        language.decode_text(second),
    ]


def test_streamed_pieces_join_to_the_whole_answer(language):
    for seed in range(4):
        prefix = random_prefix(8, seed)
        pieces = list(language.stream(prefix))
        assert "".join(pieces) == language.answers([prefix])[0]
        assert len(pieces) > 3


def test_a_character_of_several_tokens_is_streamed_whole(language, monkeypatch):
    ids = language.tokenizer("so é 雪!", add_special_tokens=False)["input_ids"]
    monkeypatch.setattr(language, "decode", lambda *_: iter([[i] for i in ids]))
    pieces = list(language.stream(random_prefix(1)))
    assert "".join(pieces) == "so é 雪!"
    assert len(ids) > len(pieces) and not any("\ufffd" in piece for piece in pieces)


def test_an_answer_has_at_most_so_many_tokens(language):
    assert len(generated(language, random_prefix(5))) == MAX_NEW_TOKENS
    assert len(generated(language, random_prefix(5), max_new_tokens=3)) == 3


def test_an_answer_stops_before_the_end_token(language):
    tokens = generated(language, random_prefix(5))
    end = tokens[6]
    language.stop_ids = {end}
    assert generated(language, random_prefix(5)) == tokens[: tokens.index(end)]


def test_the_end_of_a_turn_and_of_a_text_are_end_tokens(loaded):
    tokenizer = copy.deepcopy(loaded.tokenizer)
    tokenizer.eos_token = "<|endoftext|>"
    ends = tokenizer.convert_tokens_to_ids(["<|im_end|>", "<|endoftext|>"])
    assert LanguageModel(loaded.model, tokenizer).stop_ids == set(ends)


def test_each_prefix_has_bans_of_its_own(language):
    prefix = random_prefix(5)
    first = generated(language, prefix)[0]
    free, bound = next(iter(language.decode([prefix, prefix], banned=[[], [[first]]])))
    assert free == first != bound


def test_banned_tokens_never_appear(language):
    prefixes = [random_prefix(5), random_prefix(7, seed=1)]
    free = {t for p in prefixes for t in generated(language, p)}
    banned = [[token] for token in sorted(free)]
    for step in language.decode(prefixes, banned=[banned] * len(prefixes)):
        assert not free & set(step)
    assert language.answers(prefixes, [banned] * len(prefixes)) == [
        language.answers([p], [banned])[0] for p in prefixes
    ]


def test_a_banned_sequence_is_never_completed_but_its_tokens_may_stand_elsewhere(language):
    prefix = random_prefix(5)
    first, second, *_ = free = generated(language, prefix)
    other = generated(language, prefix, banned=[[[first, second]]])
    assert other[0] == first and other[1] != second
    assert generated(language, prefix, banned=[[[second, second, first], [*free, 0]]]) == free


def test_a_phrase_is_banned_at_the_start_of_an_answer_and_within_it(language):
    tokenizer = language.tokenizer
    held = [tokenizer.decode(list(ids)) for ids in language.sequences(["In part:"])]
    assert sorted(held) == [" In part:", "In part:"]
    assert [tokenizer.decode(list(ids)) for ids in language.sequences([" In part:"])] == [" In part:"]


def test_a_phrase_meant_for_the_inside_is_left_out_where_the_start_looks_the_same():
    words = tiny_llms.tokenizer("mistral")
    mistral = LanguageModel(tiny_llms.model("mistral", words), words)
    assert mistral.sequences([" In part:"]) == set()
    assert len(mistral.sequences(["In part:"])) == 1


def test_the_first_token_of_a_word_is_taken_as_inside_a_sentence(language):
    inside = language.tokenizer("it is blurry", add_special_tokens=False)["input_ids"]
    assert language.first_tokens(["blurry"]) <= set(inside)
    assert language.tokenizer.decode(list(language.first_tokens(["blurry"]))).startswith(" b")


def test_prefixes_are_padded_on_the_left():
    embeds, mask = pad_left([torch.ones(2, 3), torch.ones(4, 3)])
    assert mask.tolist() == [[0, 0, 1, 1], [1, 1, 1, 1]]
    assert torch.equal(embeds[0, :, 0], torch.tensor([0.0, 0, 1, 1]))


def test_an_adapter_without_weights_is_refused(tmp_path, tiny_language):
    config = tiny.config(language={"hidden_size": 32, "source": str(tiny_language)})
    with pytest.raises(MintIQAError, match=r"no adapter_model\.safetensors") as caught:
        load_language(config, tmp_path)
    assert caught.value.code == "bad_checkpoint"


def test_a_merged_adapter_answers_as_the_adapted_model(tmp_path, tiny_language, loaded):
    from peft import LoraConfig, PeftModel, get_peft_model
    from transformers import AutoModelForCausalLM

    torch.manual_seed(1)
    base = AutoModelForCausalLM.from_pretrained(tiny_language)
    adapted = get_peft_model(
        base, LoraConfig(r=2, target_modules=["q_proj", "v_proj"], init_lora_weights=False)
    )
    adapted.save_pretrained(tmp_path)
    config = tiny.config(language={"hidden_size": 32, "source": str(tiny_language)})
    merged = load_language(config, tmp_path)
    assert not isinstance(merged.model, PeftModel)
    inputs = {"inputs_embeds": random_prefix(6).unsqueeze(0)}
    with torch.no_grad():
        expected, plain = adapted.eval()(**inputs).logits, loaded.model(**inputs).logits
        given = merged.model(**inputs).logits
    torch.testing.assert_close(given, expected, atol=1e-4, rtol=0)
    assert not torch.allclose(given, plain, atol=1e-2)
