"""LIVE, CLIVE and KADID-10k as the published MINT-IQA code has them: [{id, prompt: "", img, moz1}, ...]."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict

from instruct_data.importers.scores import drop_conflicts
from instruct_data.records import RatedImage
from mint_iqa.tables.reading import Findings, json_records
from mint_iqa.tables.scales import percent

# Folder of LIVE Release 2 -> the distortion of its pictures.
LIVE_DISTORTIONS = {
    "fastfading": "fast_fading",
    "gblur": "gaussian_blur",
    "jp2k": "jpeg2000",
    "jpeg": "jpeg",
    "wn": "white_noise_rgb",
}
# KADID-10k's codes 01..25, in the order of its paper (Lin, Hosu and Saupe 2019).
KADID_DISTORTIONS = (
    "gaussian_blur", "lens_blur", "motion_blur", "color_diffusion", "color_shift", "color_quantization",
    "color_saturation_hsv", "color_saturation_lab", "jpeg2000", "jpeg", "white_noise_rgb",
    "white_noise_ycbcr", "impulse_noise", "multiplicative_noise", "denoise", "brighten", "darken",
    "mean_shift", "jitter", "non_eccentricity_patch", "pixelate", "quantization", "color_block",
    "high_sharpen", "contrast_change",
)  # fmt: skip
# KADID-10k has ratings from 1 to 5 (its "dmos" rises with quality); the file holds a fifth of them.
KADID_RANGE = (0.2, 1.0)
# LIVE publishes only difference scores (0: no visible difference); the file holds a hundredth of them.
LIVE_RANGE = (1.0, 0.0)
CLIVE_RANGE = (0.0, 1.0)

_KADID_NAME = re.compile(r"(I\d\d)_(\d\d)_0([1-5])(\.\w+)")


class _ScoreRow(BaseModel):
    model_config = ConfigDict(strict=True, extra="allow")
    prompt: str = ""
    img: str
    moz1: float


def read_live(path: Path, findings: Findings) -> list[RatedImage]:
    """LIVE Release 2: quality from difference scores, distortion from the folder; references are unknown."""
    return _read(path, findings, "live", LIVE_RANGE, _live_origin)


def read_clive(path: Path, findings: Findings) -> list[RatedImage]:
    """LIVE in the Wild: quality of photographs with real camera distortions."""
    return _read(path, findings, "clive", CLIVE_RANGE, lambda image: {})


def read_kadid(path: Path, findings: Findings) -> list[RatedImage]:
    """KADID-10k: quality; reference, distortion and level come from the name `I01_01_01.png`."""
    return _read(path, findings, "kadid", KADID_RANGE, _kadid_origin)


def _read(
    path: Path,
    findings: Findings,
    source: str,
    worst_to_best: tuple[float, float],
    origin: Callable[[str], dict[str, Any]],
) -> list[RatedImage]:
    ratings = []
    for line, value in json_records(path):
        with findings.at(line):
            row = _ScoreRow.model_validate(value)
            findings.ignored.update((row.model_extra or {}).keys() - {"id"})
            quality = percent("moz1", row.moz1, *worst_to_best)
            rating = RatedImage(
                image=row.img, prompt=row.prompt, source=source, mos={"quality": quality}, **origin(row.img)
            )
            ratings.append((line, rating))
    return drop_conflicts(ratings, findings)


def _live_origin(image: str) -> dict[str, Any]:
    folder = image.split("/")[0]
    if folder not in LIVE_DISTORTIONS:
        raise ValueError(f"{image!r:.80} is in none of LIVE's folders {', '.join(LIVE_DISTORTIONS)}")
    return {"distortion": LIVE_DISTORTIONS[folder]}


def _kadid_origin(image: str) -> dict[str, Any]:
    match = _KADID_NAME.fullmatch(Path(image).name)
    if not match or not 1 <= int(match[2]) <= len(KADID_DISTORTIONS):
        raise ValueError(f"{image!r:.80} is not named like KADID-10k's I01_01_01.png")
    return {
        "reference": str(Path(image).with_name(match[1] + match[4])),
        "distortion": KADID_DISTORTIONS[int(match[2]) - 1],
        "level": int(match[3]),
    }
