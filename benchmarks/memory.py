"""python benchmarks/memory.py              # 3 minutes; the tables of docs/weights.md
python benchmarks/memory.py --computed   # 10 seconds; prints only the computed half

Memory and speed of the LLM in each format, measured for nano and computed for the published 7B.

Each format is measured in a separate process. Its peak includes libraries, activations and mapped weights. On
a CPU it has one thread, and seconds are processor time, so that other processes do not count. Weights and KV
cache are computed from the shapes alone; for nano, the computed size is next to the measured one.
"""

import argparse
import json
import platform
import re
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM

from mint_iqa.checkpoints.parts import part_folder
from mint_iqa.convert.published import Dimensions, llm_config, model_config
from mint_iqa.model.modeling import MintIQAModel
from mint_iqa.vocabulary import LEVELS, named_faults

ROOT = Path(__file__).resolve().parents[1]
PICTURES = ("astronaut", "coffee_blurred", "chelsea")
TOKENS = 48
GB, MB = 1e9, 1e6
QUERIES, QUESTION, ANSWER = 32, 24, 72  # tokens of one answer: soft, of the question, generated
FP32_BYTES, BF16_BYTES = 4.0, 2.0
# nf4 has one fp32 scale for 64 weights, int8 one for each row.
LINEAR_BYTES = {None: None, "int8": 1.0, "nf4": 0.5 + 4 / 64}


@dataclass(frozen=True)
class Format:
    """How the LLM is kept: the type of its weights, and the quantization of its linear layers."""

    dtype: str
    quantization: str | None = None

    def __str__(self) -> str:
        return f"{self.quantization}, rest {self.dtype}" if self.quantization else self.dtype

    def option(self) -> str:
        chosen = f"`--quantization {self.quantization}`" if self.quantization else ""
        return f"{chosen} `--dtype {self.dtype}`".strip()


FORMATS = (
    Format("float32"), Format("bfloat16"), Format("float32", "int8"), Format("bfloat16", "int8"),
    Format("float32", "nf4"), Format("bfloat16", "nf4"),
)  # fmt: skip


def measure(kept_as: Format, device: str) -> dict[str, Any]:
    """Sizes in bytes, seconds, tokens per second of one greedy answer, and all answers, in this process."""
    from mint_iqa.assessor import Assessor

    clock = time.perf_counter if device == "cuda" else time.process_time
    torch.set_num_threads(1)
    assessor = Assessor.from_pretrained(
        "nano", device=device, dtype=kept_as.dtype, quantization=kept_as.quantization
    )
    start = clock()
    language = assessor.language_model()
    load = clock() - start
    read = [assessor.read(ROOT / "examples" / f"{name}.jpg") for name in PICTURES]
    rated = assessor.rate([(picture, None) for picture in read])
    prefix = assessor.llm_input(rated[0], "How is the quality of the image?", ())
    for _ in language.decode([prefix], max_new_tokens=2, ignore_eos=True):
        pass
    start = clock()
    decoded = sum(1 for _ in language.decode([prefix], max_new_tokens=TOKENS, ignore_eos=True))
    return {
        "weights": weight_bytes(language.model),
        "peak": peak(device),
        "load": load,
        "rate": decoded / (clock() - start),
        "answers": [said("".join(assessor.ask(p, "Why is the quality not higher?"))) for p in read],
    }


def said(answer: str) -> list[str]:
    """The level words and faults in an answer, which must not depend on its wording."""
    levels = {level for level in LEVELS if re.search(rf"\b{level}\b", answer)}
    return sorted(named_faults(answer) | levels)


def weight_bytes(model: nn.Module) -> int:
    """Bytes of the parameters in memory, with 4-bit scales, and tied ones counted once."""
    own = {p.data_ptr(): p for p in model.parameters()}.values()
    states = [getattr(p, "quant_state", None) for p in own]
    scales = sum(s.absmax.numel() * s.absmax.element_size() for s in states if s is not None)
    return sum(p.numel() * p.element_size() for p in own) + scales


def peak(device: str) -> int:
    """Peak memory in bytes: of the GPU, or of this process."""
    if device == "cuda":
        return torch.cuda.max_memory_allocated()
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def in_own_process(kept_as: Format, device: str) -> dict[str, Any]:
    task = json.dumps([kept_as.dtype, kept_as.quantization, device])
    command = [sys.executable, __file__, "--measure", task]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return json.loads(done.stdout.splitlines()[-1])


def computed_bytes(llm: nn.Module, kept_as: Format) -> float:
    """Bytes of the weights of an LLM on the meta device."""
    other = FP32_BYTES if kept_as.dtype == "float32" else BF16_BYTES
    head = llm.get_output_embeddings()  # type: ignore[operator]
    linear = sum(m.weight.numel() for m in llm.modules() if isinstance(m, nn.Linear) and m is not head)
    rest = sum(p.numel() for p in {id(p): p for p in llm.parameters()}.values()) - linear
    return linear * (LINEAR_BYTES[kept_as.quantization] or other) + rest * other


def cache_bytes(config: Any, tokens: int, kept_as: Format) -> float:
    """Bytes of the keys and values of `tokens` tokens."""
    heads = getattr(config, "num_key_value_heads", config.num_attention_heads)
    width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    each = FP32_BYTES if kept_as.dtype == "float32" else BF16_BYTES
    return 2 * config.num_hidden_layers * heads * width * tokens * each


def nano_table(device: str) -> list[str]:
    with torch.device("meta"):
        nano = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(part_folder("smollm2_135m")))
        nano.tie_weights()
    lines = [
        "| LLM kept as | weights | computed | peak of the process | load | tokens/s | same level, faults |",
        "|---|---|---|---|---|---|---|",
    ]
    first: list[list[str]] = []
    for kept_as in FORMATS:
        got = in_own_process(kept_as, device)
        first = first or got["answers"]
        lines.append(
            f"| {kept_as} | {got['weights'] / MB:.0f} MB | {computed_bytes(nano, kept_as) / MB:.0f} MB "
            f"| {got['peak'] / MB:.0f} MB | {got['load']:.1f} s | {got['rate']:.1f} "
            f"| {sum(map(list.__eq__, first, got['answers']))} of {len(first)} |"
        )
        print(lines[-1], file=sys.stderr, flush=True)
    return lines


def full_table() -> list[str]:
    dims = Dimensions(qformer_vocab=30523, llm_vocab=32001, llm_pad=32000)
    config = llm_config(dims)
    with torch.device("meta"):
        llm, model = AutoModelForCausalLM.from_config(config), MintIQAModel(model_config(dims, branch_at=22))
    sight = sum(p.numel() for p in model.parameters())
    tokens = QUERIES + QUESTION + ANSWER
    lines = [
        "| options | LLM | towers, Q-Formers, heads | KV cache, four answers | together |",
        "|---|---|---|---|---|",
    ]
    for kept_as in FORMATS:
        each = FP32_BYTES if kept_as.dtype == "float32" else BF16_BYTES
        parts = [computed_bytes(llm, kept_as), sight * each, cache_bytes(config, 4 * tokens, kept_as)]
        cells = [f"{part / GB:.1f} GB" if part > 1e8 else f"{part / MB:.0f} MB" for part in parts]
        lines.append(f"| {kept_as.option()} | {' | '.join(cells)} | {sum(parts) / GB:.1f} GB |")
    return lines


def report(device: str) -> str:
    name = torch.cuda.get_device_name() if device == "cuda" else f"one thread of an {platform.machine()} CPU"
    parts = [
        "# Memory and speed",
        "Written by `python benchmarks/memory.py`. `mint-iqa score` and `ask` take the options.",
        f"## nano's LLM (SmolLM2-135M), measured on {name}",
        "\n".join(nano_table(device)),
        "Tokens a second are those of one greedy answer. The last column: of three answers, how many name "
        "the level and the faults that float32 names, and no others, in whatever words. Where others use the "
        "machine, speeds vary by half from run to run. Beside a quantized LLM the LoRA "
        "weights stand by themselves: they are what was measured above what was computed. Embeddings stay as "
        "they are: a fifth of this small model, 2 % of one with 7 billion parameters.",
        "## The published sizes (EVA ViT-g, Vicuna-7B), computed",
        "\n".join(full_table()),
        f"Weights, and keys and values of four answers at once, {QUERIES} + {QUESTION} + {ANSWER} tokens "
        "each. Activations and the CUDA context come on top: have 1 to 2 GB to spare. Scores alone never "
        "load the LLM.",
    ]
    return "\n\n".join(parts) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[1])
    parser.add_argument("--computed", action="store_true", help="print what is computed; measure nothing")
    parser.add_argument("--measure", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        dtype, quantization, device = json.loads(options.measure)
        print(json.dumps(measure(Format(dtype, quantization), device)))
        return
    if options.computed:
        print("\n".join(full_table()))
        return
    print(report("cuda" if torch.cuda.is_available() else "cpu"))


if __name__ == "__main__":
    main()
