"""docs/weights.md, run as it stands there on tiny models of the same structure."""

import json
import os
import re
from pathlib import Path

import pytest
import torch

from benchmarks.memory import Format, computed_bytes, full_table, weight_bytes
from mint_iqa import cli
from mint_iqa.language.loading import load_llm, placement
from tests import published, tiny_llms, tiny_sources
from tests.textures import hills

TEXT = (Path(__file__).resolve().parents[2] / "docs" / "weights.md").read_text(encoding="utf-8")
COMMANDS = re.search(r"```\n(.*?)```", TEXT, re.DOTALL).group(1).splitlines()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Under the names of the docs: tiny stand-ins of the same structure, and the picture."""
    folder = tmp_path_factory.mktemp("weights")
    tiny_sources.save_instructblip(folder / "instructblip-vicuna-7b")
    tiny_sources.save_blip2(folder / "blip2-opt-2.7b")
    tiny_sources.save_clip(folder / "clip-vit-large-patch14")
    tiny_sources.save_bert(folder / "bert-base-uncased")
    tiny_llms.save("qwen2", folder / "Qwen2.5-7B-Instruct")
    tiny_llms.save("llama", folder / "SmolLM2-1.7B-Instruct")
    sizes = {**published.DIMS, "qformer_vocab": 1100, "llm_vocab": 700, "llm_pad": 699}
    torch.save(published.random_state(sizes), folder / "mint_iqa.pt")
    (folder / "dims.json").write_text(json.dumps(sizes))
    hills().save(folder / "picture.png")
    return folder


def words(line):
    """Of a command; the tiny checkpoint alone needs its dimensions said."""
    found = [quoted or plain for quoted, plain in re.findall(r'"([^"]*)"|(\S+)', line)]
    assert found[0] == "mint-iqa"
    return found[1:] + (["--config", "dims.json"] if "mint_iqa.pt" in found else [])


def test_every_command_runs_in_its_order(folder, monkeypatch, capsys):
    monkeypatch.chdir(folder)
    torch.manual_seed(0)  # what an LLM of random weights answers must not depend on the tests before
    assert len(COMMANDS) == 7
    for line in COMMANDS:
        assert cli.main(words(line)) == 0, capsys.readouterr().err
        assert capsys.readouterr().out.strip()
    assert {"published", "start", "start-qwen", "start-blip2", "start-clip"} <= set(os.listdir(folder))
    for name in ("start", "start-blip2", "start-clip"):
        assert cli.main(["ask", "picture.png", "Why?", "--model", name, "--device", "cpu"]) == 0


def test_the_sizes_in_the_docs_are_those_that_the_benchmark_computes():
    together = {row.split("|")[1].strip(): row.split("|")[-2].strip() for row in full_table()[2:]}
    for options, size in (
        ("`--dtype float32`", "34.6 GB"),
        ("`--dtype bfloat16`", "17.3 GB"),
        ("`--quantization nf4` `--dtype bfloat16`", "8.0 GB"),
    ):
        assert together[options] == size and size in TEXT


@pytest.mark.parametrize("kind", [None, "int8", "nf4"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_computed_sizes_are_those_in_memory(tmp_path, kind, dtype):
    words = tiny_llms.tokenizer("qwen")
    config = tiny_llms.config("qwen2", words)
    config.hidden_size, config.intermediate_size, config.tie_word_embeddings = 128, 256, False
    llm = type(tiny_llms.model("qwen2", words))(config)
    llm.save_pretrained(tmp_path)
    words.save_pretrained(tmp_path)
    settings = placement(kind, None, torch.device("cpu"), getattr(torch, dtype))
    model, _ = load_llm(tmp_path, {"dtype": getattr(torch, dtype), **settings})
    assert weight_bytes(model) == pytest.approx(computed_bytes(llm, Format(dtype, kind)), rel=0.01)
