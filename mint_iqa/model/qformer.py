"""The Q-Former: learned queries that read a picture, given a text."""

import torch
from torch import Tensor, nn
from transformers import InstructBlipQFormerConfig, InstructBlipQFormerModel

from mint_iqa.model.configuration import MintIQAConfig


class QFormer(nn.Module):
    """Learned query tokens read image_embeds while sharing self-attention with a text (section 3.2)."""

    def __init__(self, config: MintIQAConfig, embeds_width: int) -> None:
        super().__init__()
        settings = {**config.qformer, "encoder_hidden_size": embeds_width, "attn_implementation": "eager"}
        self.encoder = InstructBlipQFormerModel(InstructBlipQFormerConfig(**settings))
        self.query_tokens = nn.Parameter(torch.zeros(1, config.query_tokens, self.encoder.config.hidden_size))

    def forward(
        self, image_embeds: Tensor, text_ids: Tensor, text_mask: Tensor, shift: Tensor | None = None
    ) -> Tensor:
        """query_output float[B, Q, Dq]; `shift` float[B, Q, Dq] is added to the query tokens (the bridge)."""
        queries = self.query_tokens.expand(len(image_embeds), -1, -1)
        if shift is not None:
            queries = queries + shift
        mask = torch.cat([text_mask.new_ones(queries.shape[:2]), text_mask], dim=1)
        output = self.encoder(
            input_ids=text_ids, attention_mask=mask, query_embeds=queries, encoder_hidden_states=image_embeds
        )
        query_output: Tensor = output.last_hidden_state[:, : queries.shape[1]]
        return query_output


def qformer_state(bert: dict[str, Tensor]) -> dict[str, Tensor]:
    """BERT names -> InstructBlipQFormerModel names. The token type that BERT adds joins the positions."""
    state = {}
    for name, tensor in bert.items():
        if name.startswith("encoder."):
            name = name.replace("attention.self.", "attention.attention.")
            state[name] = tensor
            for part in ("intermediate", "output"):
                if f".{part}." in name and ".attention." not in name:
                    state[name.replace(f".{part}.", f".{part}_query.")] = tensor
    state["embeddings.word_embeddings.weight"] = bert["embeddings.word_embeddings.weight"]
    state["embeddings.position_embeddings.weight"] = (
        bert["embeddings.position_embeddings.weight"] + bert["embeddings.token_type_embeddings.weight"][0]
    )
    for end in ("weight", "bias"):
        state[f"embeddings.layernorm.{end}"] = bert[f"embeddings.LayerNorm.{end}"]
    return state
