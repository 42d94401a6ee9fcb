"""What reads the quality vectors: scores, faults, and two helpers that the published model lacks.

Axes are those of `modeling`.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import linear, normalize
from transformers import BertConfig, BertModel


class Shortcut(nn.Module):
    """Statistics of the whole picture, added to every quality vector beside what the queries found.

    Statistics of frozen features predict quality well by themselves; queries learn that slowly from few
    scores. The statistics are standardized by those of the training pictures (`center`, `scale`);
    `query_gain` weighs what the queries found.
    """

    center: Tensor
    scale: Tensor

    def __init__(self, statistics: int, width: int, hidden: int) -> None:
        super().__init__()
        self.register_buffer("center", torch.zeros(statistics))
        self.register_buffer("scale", torch.ones(statistics))
        self.layers = nn.Sequential(nn.Linear(statistics, hidden), nn.GELU(), nn.Linear(hidden, width))
        self.query_gain = nn.Parameter(torch.full((width,), 0.1))

    def forward(self, quality_vectors: Tensor, statistics: Tensor) -> Tensor:
        """quality_vectors float[B, Q, Dq] and statistics float[B, S] -> float[B, Q, Dq]."""
        even = ((statistics.float() - self.center) / self.scale).to(quality_vectors.dtype)
        vectors: Tensor = quality_vectors * self.query_gain + self.layers(even).unsqueeze(1)
        return vectors


class ScoreHead(nn.Module):
    """Two linear layers without activation, one output kept, mean over the queries (section 3.2)."""

    def __init__(self, width: int, hidden: int, outputs: int, index: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(width, hidden), nn.Linear(hidden, outputs))
        self.index = index

    def forward(self, quality_vectors: Tensor) -> Tensor:
        scores: Tensor = self.layers(quality_vectors)[..., self.index].mean(dim=1)  # [B]
        return scores


class FaultHead(nn.Module):
    """Logit of each named fault's severity, from the same vectors as the scores."""

    def __init__(self, width: int, faults: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(width, width), nn.GELU(), nn.Linear(width, faults))

    def forward(self, quality_vectors: Tensor) -> Tensor:
        logits: Tensor = self.layers(quality_vectors.mean(dim=1))  # [B, F]
        return logits


class Alignment(nn.Module):
    """Image and prompt in the space of a frozen sentence encoder; the projection is learned from captions."""

    knee: Tensor
    slope: Tensor

    def __init__(self, text: dict[str, Any], embeds_width: int, matching: bool = False) -> None:
        """matching: with the weights that train.match learns last; until then they change nothing."""
        super().__init__()
        # Frozen, so without the dropout that BertConfig brings by itself.
        still = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
        self.text_encoder = BertModel(BertConfig(**{**text, **still}), add_pooling_layer=False)
        self.text_encoder.requires_grad_(False)
        width = self.text_encoder.config.hidden_size
        self.image_projection = nn.Sequential(
            nn.Linear(2 * embeds_width, 2 * width), nn.GELU(), nn.Linear(2 * width, width)
        )
        self.logit_scale = nn.Parameter(torch.tensor(3.0))
        self.gain = nn.Parameter(torch.tensor(0.5))  # what a cosine of 1 adds to correspondence (0..1)
        self.prompt_map = nn.Linear(width, width, bias=False) if matching else None
        if self.prompt_map is not None:
            # A cosine below `knee` suggests a wrong prompt: correspondence drops by `slope` per unit.
            self.register_buffer("knee", torch.tensor(0.0))
            self.register_buffer("slope", torch.tensor(0.0))

    def image_vector(self, image_embeds: Tensor) -> Tensor:
        """Unit vectors float[B, Dt] from the class token and the mean token."""
        pooled = torch.cat([image_embeds[:, 0], image_embeds[:, 1:].mean(dim=1)], dim=-1)
        return normalize(self.image_projection(pooled).float(), dim=-1)

    @torch.no_grad()
    def encode_text(self, ids: Tensor, mask: Tensor) -> Tensor:
        """Unit vectors float[B, Dt]: mean of the token states, as the sentence encoder was trained."""
        hidden = self.text_encoder(input_ids=ids, attention_mask=mask).last_hidden_state.float()
        weights = mask.unsqueeze(-1).float()
        return normalize((hidden * weights).sum(dim=1) / weights.sum(dim=1), dim=-1)

    def map_prompt(self, sentences: Tensor) -> Tensor:
        """What `encode_text` gave -> unit vectors to compare with pictures', float[..., Dt]."""
        if self.prompt_map is None:
            return sentences
        return mapped(sentences, self.prompt_map.weight)

    def bonus(self, similarity: Tensor) -> Tensor:
        """What each cosine adds to correspondence (0..1), float[B]."""
        bonus = self.gain * similarity
        if self.prompt_map is None:
            return bonus
        return bonus - self.slope * (self.knee - similarity).clamp(min=0)


def mapped(sentences: Tensor, weight: Tensor) -> Tensor:
    """Unit sentence vectors float[..., Dt], moved by the map float[Dt, Dt]: unit vectors again, float32."""
    return normalize(sentences + linear(sentences.to(weight.dtype), weight).float(), dim=-1)
