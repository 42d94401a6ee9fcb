"""Vision towers: pixel_values float[B, 3, H, W] -> image_embeds float[B, P, Dv].

DINOv2, CLIP and InstructBLIP's EVA-CLIP are transformers' own modules; what is ours is which blocks feed the
Q-Formers (`taps`) and which blocks both stages share (`branch_at`).
"""

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import avg_pool2d, layer_norm
from transformers import (
    CLIPVisionConfig,
    CLIPVisionModel,
    Dinov2Config,
    Dinov2Model,
    InstructBlipVisionConfig,
    InstructBlipVisionModel,
    PreTrainedModel,
)
from transformers.models.clip.modeling_clip import CLIPEncoderLayer

from mint_iqa.errors import MintIQAError

BACKBONES: dict[str, tuple[type, type]] = {
    "dinov2": (Dinov2Config, Dinov2Model),
    "clip_vision_model": (CLIPVisionConfig, CLIPVisionModel),
    "instructblip_vision_model": (InstructBlipVisionConfig, InstructBlipVisionModel),
}
PIXEL_STATISTICS = 12  # what `pixel_statistics` measures
# Keys of MintIQAConfig.vision that the backbone's own config does not have.
TAP_KEYS = ("taps", "branch_at", "embeds_width", "final_norm_eps")


def build_backbone(vision: dict[str, Any]) -> PreTrainedModel:
    """An untrained tower of the kind `vision["model_type"]`; MintIQAError for an unknown kind."""
    kind = vision.get("model_type")
    if kind not in BACKBONES:
        raise MintIQAError(
            "unknown_vision_tower", f"Vision tower {kind!r} is unknown: use one of {', '.join(BACKBONES)}."
        )
    config_class, model_class = BACKBONES[kind]
    settings = {k: v for k, v in vision.items() if k not in (*TAP_KEYS, "model_type")}
    # Eager attention trains twice as fast as SDPA on CPU at these lengths (257 tokens).
    backbone = model_class(config_class(**settings, attn_implementation="eager"))
    if "final_norm_eps" in vision:
        _stem_blocks_norm(backbone)[2].eps = vision["final_norm_eps"]
    return backbone


def _stem_blocks_norm(backbone: PreTrainedModel) -> tuple[nn.Module, nn.ModuleList, nn.Module]:
    if isinstance(backbone, Dinov2Model):
        return backbone.embeddings, backbone.encoder.layer, backbone.layernorm
    if isinstance(backbone, CLIPVisionModel):
        inner = getattr(backbone, "vision_model", backbone)
        return nn.Sequential(inner.embeddings, inner.pre_layrnorm), inner.encoder.layers, inner.post_layernorm
    return backbone.embeddings, backbone.encoder.layers, backbone.post_layernorm


class VisionTower(nn.Module):
    """All blocks of one backbone: `forward` for stage 1, and the shared trunk that stage 2 continues from."""

    def __init__(self, vision: dict[str, Any]) -> None:
        super().__init__()
        self.backbone = build_backbone(vision)
        _, blocks, _ = _stem_blocks_norm(self.backbone)
        self.taps = check_taps(vision.get("taps", [len(blocks)]), len(blocks))
        self.branch_at = int(vision.get("branch_at", len(blocks)))
        self.readout = TapReadout(vision, self.backbone.config.hidden_size, self.taps, len(blocks))

    def blocks(self) -> nn.ModuleList:
        return _stem_blocks_norm(self.backbone)[1]

    def trunk(self, pixel_values: Tensor, end: int) -> tuple[Tensor, list[Tensor]]:
        """Blocks 0..end: (hidden float[B, P, D], outputs of the taps passed so far)."""
        stem, blocks, _ = _stem_blocks_norm(self.backbone)
        return run_blocks(stem(pixel_values), blocks[:end], 0, self.taps)

    def remaining(self, hidden: Tensor, begin: int) -> list[Tensor]:
        """Blocks begin.. on what `trunk` gave: outputs of the remaining taps."""
        return run_blocks(hidden, self.blocks()[begin:], begin, self.taps)[1]

    def fuse(self, tapped: list[Tensor]) -> Tensor:
        """Outputs of all taps -> image_embeds float[B, P, Dv]."""
        image_embeds: Tensor = self.readout(tapped, _stem_blocks_norm(self.backbone)[2])
        return image_embeds

    def shared(self, pixel_values: Tensor) -> tuple[Tensor, list[Tensor]]:
        """What `VisionBranch` starts from: the trunk's state at `branch_at`, or the picture if that is 0."""
        return self.trunk(pixel_values, self.branch_at) if self.branch_at else (pixel_values, [])

    def forward(self, pixel_values: Tensor) -> tuple[Tensor, Tensor, tuple[Tensor, list[Tensor]]]:
        """Stage 1's image_embeds float[B, P, Dv] and statistics, and `shared` for stage 2.

        statistics float[B, PIXEL_STATISTICS + 3 * taps * D]: of the pixels, then `TapReadout.statistics`.
        """
        shared = self.shared(pixel_values)
        hidden, tapped = shared if self.branch_at else self.trunk(pixel_values, 0)
        everything = [*tapped, *self.remaining(hidden, self.branch_at)]
        statistics = torch.cat([pixel_statistics(pixel_values), self.readout.statistics(everything)], dim=-1)
        return self.fuse(everything), statistics, shared


class VisionBranch(nn.Module):
    """Stage 2's own blocks after `branch_at` (MINT-IQA has two ViTs whose first blocks are equal).

    At 0 nothing is equal, and the patch embedding is stage 2's own as well.
    """

    def __init__(self, vision: dict[str, Any]) -> None:
        super().__init__()
        tower = VisionTower(vision)
        stem, blocks, norm = _stem_blocks_norm(tower.backbone)
        self.taps, self.branch_at = tower.taps, tower.branch_at
        self.stem = None if self.branch_at else stem
        self.blocks, self.norm, self.readout = blocks[tower.branch_at :], norm, tower.readout

    def forward(self, shared: tuple[Tensor, list[Tensor]]) -> Tensor:
        """What `VisionTower.shared` gave -> image_embeds float[B, P, Dv]."""
        hidden, tapped = shared
        hidden = hidden if self.stem is None else self.stem(hidden)
        _, rest = run_blocks(hidden, self.blocks, self.branch_at, self.taps)
        image_embeds: Tensor = self.readout([*tapped, *rest], self.norm)
        return image_embeds


class TapReadout(nn.Module):
    """One tap at the end: the tower's final LayerNorm (published). Several: normalized, fused, and one token.

    Faults of a whole picture show in how features vary over it, so the last token carries each tap's standard
    deviation over the patches: the statistic that made frozen features predict quality best.
    """

    def __init__(self, vision: dict[str, Any], width: int, taps: Sequence[int], depth: int) -> None:
        super().__init__()
        self.published = list(taps) == [depth]
        self.width = width if self.published else int(vision.get("embeds_width", width))
        if not self.published:
            self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in taps)
            self.fuse = nn.Linear(width * len(taps), self.width)
            self.spread = nn.Linear(width * len(taps), self.width)

    @staticmethod
    def statistics(tapped: list[Tensor]) -> Tensor:
        """float[B, 3 * taps * D]: each tap's class token, mean and deviation over its patches, normalized."""
        even = [layer_norm(t.float(), t.shape[-1:]) for t in tapped]
        return torch.cat(
            [s for t in even for s in (t[:, 0], t[:, 1:].mean(dim=1), _spread(t[:, 1:]))], dim=-1
        )

    def forward(self, tapped: list[Tensor], final_norm: nn.Module) -> Tensor:
        if self.published:
            image_embeds: Tensor = final_norm(tapped[-1])
            return image_embeds
        tokens = torch.cat([norm(t) for norm, t in zip(self.norms, tapped, strict=True)], dim=-1)
        spread = self.spread(_spread(tokens[:, 1:]).unsqueeze(1))
        return torch.cat([self.fuse(tokens), spread], dim=1)  # [B, P + 1, Dv]


def _spread(tokens: Tensor) -> Tensor:
    """Standard deviation over the tokens, float[B, D]. Over a middle axis torch.std is six times slower."""
    centerd = tokens - tokens.mean(dim=1, keepdim=True)
    return (centerd.square().sum(dim=1) / (tokens.shape[1] - 1)).sqrt()


def pixel_statistics(pixel_values: Tensor) -> Tensor:
    """Brightness, contrast, color and detail of pixel_values: float[B, PIXEL_STATISTICS].

    The tower's LayerNorms keep little of a picture's brightness: without these a dark picture goes unnoticed.
    """
    pixels = pixel_values.float()
    light = pixels.mean(dim=1)  # [B, H, W]
    coarse = avg_pool2d(light, 2)
    levels = torch.tensor([0.02, 0.1, 0.25, 0.5, 0.75, 0.9, 0.98], device=light.device)
    quantiles = coarse.flatten(1).quantile(levels, dim=1).T
    others = [light.std(dim=(1, 2)), pixels.std(dim=1).mean(dim=(1, 2)), _change(light), _change(coarse)]
    middle = light[:, 1:-1, 1:-1] * 4 - light[:, :-2, 1:-1] - light[:, 2:, 1:-1]
    curvature = (middle - light[:, 1:-1, :-2] - light[:, 1:-1, 2:]).abs().mean(dim=(1, 2))
    return torch.cat([quantiles, torch.stack([*others, curvature], dim=1)], dim=1)


def _change(light: Tensor) -> Tensor:
    """Mean step from a pixel to its neighbors, float[B]."""
    return light.diff(dim=1).abs().mean(dim=(1, 2)) + light.diff(dim=2).abs().mean(dim=(1, 2))


def run_blocks(
    hidden: Tensor, blocks: Iterable[nn.Module], first: int, taps: Sequence[int]
) -> tuple[Tensor, list[Tensor]]:
    """Run `blocks`, of which the first is block number `first`; collect the outputs that `taps` names."""
    tapped = []
    for number, block in enumerate(blocks, first + 1):
        # CLIP's blocks require an attention mask, InstructBLIP's take none.
        output = block(hidden, None) if isinstance(block, CLIPEncoderLayer) else block(hidden)
        hidden = output[0] if isinstance(output, tuple) else output
        if number in taps:
            tapped.append(hidden)
    return hidden, tapped


def check_taps(taps: Sequence[int], depth: int) -> list[int]:
    if list(taps) != sorted(set(taps)) or not taps or taps[0] < 1 or taps[-1] > depth:
        raise MintIQAError(
            "bad_config", f"Vision taps {list(taps)} must be ascending block numbers between 1 and {depth}."
        )
    return list(taps)
