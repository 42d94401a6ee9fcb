"""Random checkpoints in the published format, and what the published forward passes give for them.

The reference reads the checkpoint by its own names and is written out in plain functions, so that it shares
neither modules nor renaming with what it is compared to.
"""

import json
from pathlib import Path

import torch
from torch import Tensor
from torch.nn.functional import conv2d, cross_entropy, embedding, gelu, layer_norm, linear
from transformers import LlamaConfig, LlamaForCausalLM

GOLDEN = Path(__file__).parent / "golden" / "mint_iqa"
DIMS = json.loads((GOLDEN / "dims.json").read_text(encoding="utf-8"))

State = dict[str, Tensor]


def random_state(dims: dict, seed: int = 0, shared: int = 0) -> State:
    """A state dict of these dimensions; the second tower equals the first up to block `shared`."""
    generator = torch.Generator().manual_seed(seed)
    shapes = {**_stage("qformer1", dims), **_stage("qformer2", dims), **_tops(dims)}
    state = {}
    for name, shape in shapes.items():
        values = torch.randn(shape, generator=generator) * (
            0.7 * shape[-1] ** -0.5 if len(shape) > 1 else 0.2
        )
        is_norm = name.endswith("norm.weight") or ("norm" in name.lower() and name.endswith(".weight"))
        state[name] = values + 1 if is_norm else values
    tower = "visual_encoder."
    equal = [f"{tower}{part}" for part in ("cls_token", "pos_embed", "patch_embed.")] if shared else []
    equal += [f"{tower}blocks.{i}." for i in range(shared)]
    equal += ["ln_vision."] if shared == dims["vision_layers"] else []
    for name in shapes:
        if name.startswith(tuple(f"qformer2.{part}" for part in equal)):
            state[name] = state[name.replace("qformer2", "qformer1", 1)].clone()
    return state


def _linear(name: str, out: int, into: int) -> dict[str, tuple[int, ...]]:
    return {f"{name}.weight": (out, into), f"{name}.bias": (out,)}


def _norm(name: str, width: int) -> dict[str, tuple[int, ...]]:
    return {f"{name}.weight": (width,), f"{name}.bias": (width,)}


def _stage(stage: str, d: dict) -> dict[str, tuple[int, ...]]:
    width, patch = d["vision_width"], d["patch_size"]
    tower = f"{stage}.visual_encoder"
    shapes: dict[str, tuple[int, ...]] = {
        f"{stage}.query_tokens": (1, d["query_tokens"], d["qformer_width"]),
        f"{tower}.cls_token": (1, 1, width),
        f"{tower}.pos_embed": (1, (d["image_size"] // patch) ** 2 + 1, width),
        f"{tower}.patch_embed.proj.weight": (width, 3, patch, patch),
        f"{tower}.patch_embed.proj.bias": (width,),
    }
    for i in range(d["vision_layers"]):
        block = f"{tower}.blocks.{i}"
        shapes |= _norm(f"{block}.norm1", width) | _norm(f"{block}.norm2", width)
        shapes |= {f"{block}.attn.{kind}_bias": (width,) for kind in "qv"}
        shapes |= {f"{block}.attn.qkv.weight": (3 * width, width)}
        shapes |= _linear(f"{block}.attn.proj", width, width)
        shapes |= _linear(f"{block}.mlp.fc1", d["vision_mlp"], width)
        shapes |= _linear(f"{block}.mlp.fc2", width, d["vision_mlp"])
    return shapes | _norm(f"{stage}.ln_vision", width) | _qformer(f"{stage}.Qformer.bert", d)


def _qformer(bert: str, d: dict) -> dict[str, tuple[int, ...]]:
    width, mlp = d["qformer_width"], d["qformer_mlp"]
    shapes: dict[str, tuple[int, ...]] = {
        f"{bert}.embeddings.word_embeddings.weight": (d["qformer_vocab"], width),
        f"{bert}.embeddings.position_embeddings.weight": (d["qformer_positions"], width),
        **_norm(f"{bert}.embeddings.LayerNorm", width),
    }
    for i in range(d["qformer_layers"]):
        layer = f"{bert}.encoder.layer.{i}"
        crossing = ["crossattention"] if i % d["cross_attention_every"] == 0 else []
        for attention in ("attention", *crossing):
            into = d["vision_width"] if attention == "crossattention" else width
            shapes |= _linear(f"{layer}.{attention}.self.query", width, width)
            shapes |= _linear(f"{layer}.{attention}.self.key", width, into)
            shapes |= _linear(f"{layer}.{attention}.self.value", width, into)
            shapes |= _linear(f"{layer}.{attention}.output.dense", width, width)
            shapes |= _norm(f"{layer}.{attention}.output.LayerNorm", width)
        for end in ("", "_query"):
            shapes |= _linear(f"{layer}.intermediate{end}.dense", mlp, width)
            shapes |= _linear(f"{layer}.output{end}.dense", width, mlp)
            shapes |= _norm(f"{layer}.output{end}.LayerNorm", width)
    return shapes


def _tops(d: dict) -> dict[str, tuple[int, ...]]:
    """Heads, bridge, projection, LLM, and keys that nothing reads."""
    width, queries = d["qformer_width"], d["query_tokens"]
    shapes: dict[str, tuple[int, ...]] = {}
    for head in ("quality1", "quality2", "quality3"):
        shapes |= _linear(f"qformer1.{head}.0", d["head_hidden"], width)
        shapes |= _linear(f"qformer1.{head}.1", d["head_outputs"], d["head_hidden"])
    shapes |= {
        "qformer2.zero_forward.weight": (queries, queries, 1),
        "qformer2.zero_forward.bias": (queries,),
    }
    shapes |= _linear("qformer2.llm_proj", d["llm_width"], width)
    with torch.device("meta"):
        llm = LlamaForCausalLM(llama_config(d))
    shapes |= {f"qformer2.llm_model.{name}": tuple(tensor.shape) for name, tensor in llm.state_dict().items()}
    for stage in ("qformer1", "qformer2"):
        shapes |= {f"{stage}.temp": (), **_linear(f"{stage}.vision_proj", 256, width)}
        shapes |= _linear(f"{stage}.text_proj", 256, width)
    return {name: shape or (1,) for name, shape in shapes.items()}


def llama_config(d: dict) -> LlamaConfig:
    return LlamaConfig(
        vocab_size=d["llm_vocab"], hidden_size=d["llm_width"], num_hidden_layers=d["llm_layers"],
        num_attention_heads=d["llm_heads"], intermediate_size=d["llm_mlp"], bos_token_id=d["llm_bos"],
        max_position_embeddings=d["llm_positions"], rms_norm_eps=d["llm_rms_norm_eps"],
        eos_token_id=d["llm_eos"], pad_token_id=d["llm_pad"], attn_implementation="eager",
    )  # fmt: skip


def random_inputs(d: dict, seed: int = 0, batch: int = 2) -> State:
    """What the published forward passes take, under the names of the golden file; the last item is padded."""
    generator = torch.Generator().manual_seed(1000 + seed)

    def ids(vocabulary: int, length: int) -> Tensor:
        return torch.randint(3, vocabulary, (batch, length), generator=generator)

    def mask(length: int, padded: int) -> Tensor:
        kept = torch.ones(batch, length, dtype=torch.long)
        kept[-1, length - padded :] = 0
        return kept

    size = d["image_size"]
    inputs = {"pixel_values": torch.randn(batch, 3, size, size, generator=generator)}
    inputs |= {"prompt_ids": ids(d["qformer_vocab"], 7), "prompt_mask": mask(7, 3)}
    inputs |= {"instruction_qformer_ids": ids(d["qformer_vocab"], 5), "instruction_qformer_mask": mask(5, 2)}
    inputs |= {"instruction_llm_ids": ids(d["llm_vocab"], 6), "instruction_llm_mask": mask(6, 1)}
    inputs |= {"answer_llm_ids": ids(d["llm_vocab"], 8), "answer_llm_mask": mask(8, 3)}
    for name in ("instruction_llm_ids", "answer_llm_ids"):
        inputs[name][:, 0] = d["llm_bos"]
    return inputs


def joined(inputs: State, pad: int) -> tuple[Tensor, Tensor, Tensor]:
    """input_ids, attention_mask, labels: per item instruction, answer without its BOS, padding."""
    rows, labels = [], []
    for i in range(len(inputs["pixel_values"])):
        question, answer = (
            inputs[f"{part}_llm_ids"][i][inputs[f"{part}_llm_mask"][i].bool()]
            for part in ("instruction", "answer")
        )
        rows.append(torch.cat([question, answer[1:]]))
        labels.append(torch.cat([torch.full_like(question, -100), answer[1:]]))
    fill = torch.nn.utils.rnn.pad_sequence
    mask = fill([torch.ones_like(row) for row in rows], batch_first=True)
    return fill(rows, True, pad), mask, fill(labels, True, -100)


@torch.no_grad()
def reference(state: State, d: dict, inputs: State) -> State:
    """Scores, vectors, soft tokens and loss of the published passes."""
    pixels = inputs["pixel_values"]
    prompt = inputs["prompt_ids"], inputs["prompt_mask"]
    question = inputs["instruction_qformer_ids"], inputs["instruction_qformer_mask"]
    vectors = _read(state, "qformer1", d, _see(state, "qformer1", d, pixels), *prompt)
    heads = [vectors for _ in range(3)]
    for i in range(3):
        for layer in (0, 1):
            heads[i] = _apply(linear, state, f"qformer1.quality{i + 1}.{layer}", heads[i])
    weight, bias = state["qformer2.zero_forward.weight"][..., 0], state["qformer2.zero_forward.bias"]
    shift = torch.einsum("qr,brd->bqd", weight, vectors) + bias.view(1, -1, 1)
    output = _read(state, "qformer2", d, _see(state, "qformer2", d, pixels), *question, shift)
    soft = _apply(linear, state, "qformer2.llm_proj", output)
    return {
        "quality_vectors": vectors,
        "scores": torch.stack([head[..., 1].mean(dim=1) for head in heads], dim=1),
        "query_output": output,
        "soft_prompt": soft,
        "lm_loss": _loss(state, d, soft, *joined(inputs, d["llm_pad"])),
    }


def _apply(function, state: State, name: str, x: Tensor) -> Tensor:
    return function(x, state[f"{name}.weight"], state[f"{name}.bias"])


def _normalized(state: State, name: str, x: Tensor, eps: float) -> Tensor:
    return layer_norm(x, x.shape[-1:], state[f"{name}.weight"], state[f"{name}.bias"], eps)


def _attend(query: Tensor, key: Tensor, value: Tensor, heads: int, bias: Tensor | float = 0.0) -> Tensor:
    query, key, value = (t.unflatten(-1, (heads, -1)).transpose(1, 2) for t in (query, key, value))
    weights = (query @ key.transpose(-1, -2) * query.shape[-1] ** -0.5 + bias).softmax(dim=-1)
    return (weights @ value).transpose(1, 2).flatten(2)


def _see(state: State, stage: str, d: dict, pixels: Tensor) -> Tensor:
    """EVA-CLIP's ViT, then `ln_vision`."""
    tower = f"{stage}.visual_encoder"
    own = {n.removeprefix(f"{tower}."): t for n, t in state.items() if n.startswith(f"{tower}.")}
    patches = conv2d(pixels, own["patch_embed.proj.weight"], own["patch_embed.proj.bias"], d["patch_size"])
    patches = patches.flatten(2).transpose(1, 2)
    x = torch.cat([own["cls_token"].expand(len(pixels), -1, -1), patches], dim=1) + own["pos_embed"]
    for i in range(d["vision_layers"]):
        block = f"blocks.{i}"
        normed = _normalized(own, f"{block}.norm1", x, d["vision_norm_eps"])
        query, value = own[f"{block}.attn.q_bias"], own[f"{block}.attn.v_bias"]
        bias = torch.cat([query, torch.zeros_like(value), value])
        qkv = linear(normed, own[f"{block}.attn.qkv.weight"], bias).chunk(3, dim=-1)
        x = x + _apply(linear, own, f"{block}.attn.proj", _attend(*qkv, d["vision_heads"]))
        hidden = _normalized(own, f"{block}.norm2", x, d["vision_norm_eps"])
        x = x + _apply(linear, own, f"{block}.mlp.fc2", gelu(_apply(linear, own, f"{block}.mlp.fc1", hidden)))
    return _normalized(state, f"{stage}.ln_vision", x, d["ln_vision_eps"])


def _read(
    state: State, stage: str, d: dict, embeds: Tensor, ids: Tensor, mask: Tensor, shift: Tensor | float = 0.0
) -> Tensor:
    """The Q-Former: the query positions of its output."""
    bert = f"{stage}.Qformer.bert"
    queries = (state[f"{stage}.query_tokens"] + shift).expand(len(ids), -1, -1)
    count, eps, heads = queries.shape[1], d["qformer_norm_eps"], d["qformer_heads"]
    words = embedding(ids, state[f"{bert}.embeddings.word_embeddings.weight"])
    words = words + state[f"{bert}.embeddings.position_embeddings.weight"][: ids.shape[1]]
    x = _normalized(state, f"{bert}.embeddings.LayerNorm", torch.cat([queries, words], dim=1), eps)
    seen = torch.cat([mask.new_ones(len(ids), count), mask], dim=1)
    bias = (1.0 - seen.float())[:, None, None] * -10000.0  # BERT's additive mask

    def attention(name: str, x: Tensor, context: Tensor, bias: Tensor | float) -> Tensor:
        parts = [_apply(linear, state, f"{name}.self.query", x)]
        parts += [_apply(linear, state, f"{name}.self.{part}", context) for part in ("key", "value")]
        added = _apply(linear, state, f"{name}.output.dense", _attend(*parts, heads, bias))
        return _normalized(state, f"{name}.output.LayerNorm", added + x, eps)

    def feed_forward(layer: str, end: str, x: Tensor) -> Tensor:
        hidden = gelu(_apply(linear, state, f"{layer}.intermediate{end}.dense", x))
        added = _apply(linear, state, f"{layer}.output{end}.dense", hidden)
        return _normalized(state, f"{layer}.output{end}.LayerNorm", added + x, eps)

    for i in range(d["qformer_layers"]):
        layer = f"{bert}.encoder.layer.{i}"
        x = attention(f"{layer}.attention", x, x, bias)
        asking, text = x[:, :count], x[:, count:]
        if i % d["cross_attention_every"] == 0:
            asking = attention(f"{layer}.crossattention", asking, embeds, 0.0)
        x = torch.cat([feed_forward(layer, "_query", asking), feed_forward(layer, "", text)], dim=1)
    return x[:, :count]


def language(state: State, d: dict) -> LlamaForCausalLM:
    llm = LlamaForCausalLM(llama_config(d)).eval()
    prefix = "qformer2.llm_model."
    llm.load_state_dict({n.removeprefix(prefix): t for n, t in state.items() if n.startswith(prefix)})
    return llm


def _loss(state: State, d: dict, soft: Tensor, ids: Tensor, mask: Tensor, labels: Tensor) -> Tensor:
    llm = language(state, d)
    embeds = torch.cat([soft, llm.get_input_embeddings()(ids)], dim=1)
    logits = llm(
        inputs_embeds=embeds, attention_mask=torch.cat([mask.new_ones(soft.shape[:2]), mask], dim=1)
    ).logits
    targets = torch.cat([labels.new_full(soft.shape[:2], -100), labels], dim=1)
    return cross_entropy(logits[:, :-1].flatten(0, 1), targets[:, 1:].flatten())
