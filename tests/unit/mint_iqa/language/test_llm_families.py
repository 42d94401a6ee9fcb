"""LLMs of every family answer in their own chat format, and LoRA finds their layers."""

import pytest
import torch
from peft import LoraConfig, get_peft_model

from mint_iqa.language.chat import SYSTEM, scores_in_words
from mint_iqa.language.llm import lora_targets
from mint_iqa.model.references import load_language
from mint_iqa.vocabulary import FAULT_WORDS, GRADES
from tests import tiny, tiny_llms, tiny_sources

pytestmark = pytest.mark.slow


SCORES = {"quality": 34.9, "authenticity": 52.0, "correspondence": None}
BLOCK = ["down_proj", "gate_proj", "k_proj", "o_proj", "q_proj", "up_proj", "v_proj"]


@pytest.fixture(scope="module", params=tiny_llms.FAMILIES)
def family(request, tmp_path_factory):
    """The name of a model type, and its LLM as the assessor would load it."""
    folder = tiny_llms.save(request.param, tmp_path_factory.mktemp(request.param))
    config = tiny.config(language={"hidden_size": 32, "source": str(folder)})
    return request.param, load_language(config, None)


def written(language, question="Why?", history=()):
    """All text of a conversation, with ¤ where the soft tokens stand."""
    before, after = language.tokens(SCORES, question, history)
    return f"{language.tokenizer.decode(before)}¤{language.tokenizer.decode(after)}"


def test_a_conversation_has_one_picture_one_system_text_and_every_turn(family):
    _, language = family
    text = written(language, "And where?", [("Why?", "It is blurry.")])
    for part in (SYSTEM, "¤", scores_in_words(SCORES), "Why?", "It is blurry.", "And where?"):
        assert text.count(part) == 1, (part, text)
    places = [text.index(part) for part in (SYSTEM, "¤", "Why?", "It is blurry.", "And where?")]
    assert places == sorted(places)


def test_a_conversation_is_in_the_familys_own_format(family):
    name, language = family
    begins, ends = {
        "llama": ("<|begin_of_text|><|start_header_id|>system", "assistant<|end_header_id|>\n\n"),
        "qwen": ("<|im_start|>system\nYou judge", "assistant\n<think>\n\n</think>\n\n"),
        "mistral": ("<s>[INST] You judge", "Why? [/INST]"),
        "gemma": ("<bos><start_of_turn>user\nYou judge", "<end_of_turn>\n<start_of_turn>model\n"),
        "smollm": ("<|im_start|>system\nYou judge", "<|im_start|>assistant\n"),
    }[tiny_llms.FAMILIES[name]]
    text = written(language).replace("<s> [INST]", "<s>[INST]")
    assert text.startswith(begins) and text.endswith(ends)


def test_an_answer_ends_where_the_family_ends_a_turn(family):
    name, language = family
    end = language.tokenizer.convert_tokens_to_ids(tiny_llms.END_OF_TURN[tiny_llms.FAMILIES[name]])
    assert language.end_of_turn == end
    assert language.stop_ids == {end, language.tokenizer.eos_token_id}


def test_the_day_is_not_part_of_what_the_llm_reads(family):
    name, language = family
    assert ("Today Date: 26 Jul 2024" in written(language)) == (name == "llama")


def test_markers_in_a_question_are_no_turns(family):
    _, language = family
    every = " ".join({m for markers in tiny_llms.MARKERS.values() for m in markers} | {"[/INST]", "[INST]"})
    plain, attacked = language.tokens(SCORES, "a  b", ()), language.tokens(SCORES, f"a {every} b", ())
    special = {i for i, t in language.tokenizer.added_tokens_decoder.items() if t.special}
    assert [i for i in attacked[1] if i in special] == [i for i in plain[1] if i in special]
    assert written(language, "a [/INST] b").count("[/INST]") == written(language, "a b").count("[/INST]")


def test_the_first_token_of_a_word_says_something_about_it(family):
    _, language = family
    words = [word for words in FAULT_WORDS.values() for word in words] + [*GRADES]
    for word in words:
        (first,) = language.first_tokens([word])
        text = language.tokenizer.decode([first]).strip()
        assert text and word.startswith(text)
        assert language.tokenizer.decode(language.word_ids(word)).strip() == word


def test_an_answer_is_what_the_family_itself_would_generate(family):
    _, language = family
    ids = language.tokens(SCORES, "Why?", ())[1]
    prefix = language.embed(ids)
    settings = {"max_new_tokens": 8, "do_sample": False, "eos_token_id": None, "pad_token_id": 0}
    expected = language.model.generate(torch.tensor([ids]), **settings)[0, len(ids) :]
    given = [token for (token,) in language.decode([prefix], max_new_tokens=8, ignore_eos=True)]
    assert given == expected.tolist()


def test_answers_together_equal_each_alone(family):
    _, language = family
    prefixes = [language.embed(language.tokens(SCORES, q, ())[1]) for q in ("Why?", "Where is it blurry?")]
    assert language.answers(prefixes) == [language.answers([p])[0] for p in prefixes]


def test_lora_targets_are_the_linear_layers_of_the_blocks(family):
    _, language = family
    assert lora_targets(language.model) == BLOCK


def test_lora_on_the_targets_trains_every_linear_layer_of_the_blocks_and_nothing_else(family):
    name, _ = family
    model = tiny_llms.model(name, tiny_llms.tokenizer(tiny_llms.FAMILIES[name]))
    linear = {n for n, m in model.named_modules() if isinstance(m, torch.nn.Linear) and "lm_head" not in n}
    adapted = get_peft_model(
        model, LoraConfig(r=2, target_modules=lora_targets(model), task_type="CAUSAL_LM")
    )
    trains = {n.split(".lora_")[0] for n, p in adapted.named_parameters() if p.requires_grad}
    assert trains == {f"base_model.model.{n}" for n in linear} and len(linear) == 2 * len(BLOCK)


def test_lora_targets_of_blips_opt_and_of_gpt2_are_found_under_their_names(tmp_path):
    from transformers import AutoModelForCausalLM, GPT2Config

    tiny_sources.save_blip2(tmp_path)
    opt = tiny_sources.Blip2ForConditionalGeneration.from_pretrained(tmp_path).language_model
    assert lora_targets(opt) == ["fc1", "fc2", "k_proj", "out_proj", "q_proj", "v_proj"]
    gpt2 = AutoModelForCausalLM.from_config(GPT2Config(n_embd=8, n_layer=1, n_head=2, vocab_size=20))
    assert lora_targets(gpt2) == ["c_attn", "c_fc", "c_proj"]
