"""A Q-Former made from a BERT."""

from typing import Any

import torch
from transformers import BertConfig, BertModel, InstructBlipQFormerConfig, InstructBlipQFormerModel

from mint_iqa.model.qformer import qformer_state


def bert() -> BertModel:
    torch.manual_seed(0)
    sizes: dict[str, Any] = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = BertConfig(**sizes, intermediate_size=48, vocab_size=50)
    model = BertModel(config, add_pooling_layer=False).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape) * 0.2)
    return model


def qformer_of(text: BertModel) -> InstructBlipQFormerModel:
    sizes = {k: getattr(text.config, k) for k in ("hidden_size", "num_hidden_layers", "num_attention_heads")}
    sizes |= {k: getattr(text.config, k) for k in ("vocab_size", "intermediate_size", "layer_norm_eps")}
    config = InstructBlipQFormerConfig(**sizes, encoder_hidden_size=24, attn_implementation="eager")
    return InstructBlipQFormerModel(config).eval()


@torch.no_grad()
def test_a_qformer_made_from_bert_reads_text_as_bert_does() -> None:
    text = bert()
    qformer = qformer_of(text)
    missing, unknown = qformer.load_state_dict(qformer_state(text.state_dict()), strict=False)
    assert unknown == [] and all("crossattention" in name for name in missing)
    ids, mask = torch.randint(0, 50, (2, 7)), torch.tensor([[1] * 7, [1] * 4 + [0] * 3])
    expected = text(input_ids=ids, attention_mask=mask).last_hidden_state
    given = qformer(input_ids=ids, attention_mask=mask).last_hidden_state
    torch.testing.assert_close(given[mask == 1], expected[mask == 1], atol=1e-5, rtol=0)


def test_the_query_layers_start_as_copies_of_the_text_layers() -> None:
    state = qformer_state(bert().state_dict())
    for end in ("weight", "bias"):
        for layer in ("intermediate{}.dense", "output{}.dense", "output{}.LayerNorm"):
            own, text = (f"encoder.layer.1.{layer.format(kind)}.{end}" for kind in ("_query", ""))
            assert torch.equal(state[own], state[text])
