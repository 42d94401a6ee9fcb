"""Twenty assessments by nano that guard its scores: tests/golden/nano/assessments.jsonl.

    python -m tests.golden_assessments    # a minute; writes them anew, once new weights are released

The pictures are those in examples/, each with its prompt and without, and six made here. They have no
explanations: where two words are about equally likely, another processor's rounding may choose the other.
"""

import csv
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image, ImageFilter

from mint_iqa import Assessor
from mint_iqa.images import Source
from mint_iqa.records import Assessment
from tests.textures import hills

ROOT = Path(__file__).resolve().parents[1]
GOLDEN = ROOT / "tests" / "golden" / "nano" / "assessments.jsonl"
EXAMPLES = ROOT / "examples"


def pictures() -> Iterator[tuple[str, Source, str | None]]:
    """Name, picture and prompt of each of the twenty."""
    with (EXAMPLES / "demo.csv").open(encoding="utf-8", newline="") as file:
        prompts = {row["image"]: row["prompt"] for row in csv.DictReader(file)}
    for name in sorted(prompts):
        for prompt in (None, prompts[name]):
            yield name, EXAMPLES / name, prompt
    texture = hills()
    yield "hills", texture, None
    yield "hills, prompted", texture, "rolling hills under a bright sky, oil on canvas"
    yield "hills, blurred", texture.filter(ImageFilter.GaussianBlur(3)), None
    yield "hills, grey and dark", texture.convert("L").point(lambda value: value // 4), None
    yield "hills, elongated", texture.resize((640, 64)), "hills"
    alpha = Image.fromarray(np.linspace(0, 255, texture.width * texture.height).astype(np.uint8))
    see_through = texture.convert("RGBA")
    see_through.putalpha(Image.frombytes("L", texture.size, alpha.tobytes()))
    yield "hills, fading", see_through, None


def assess(assessor: Assessor, batch_size: int) -> list[Assessment]:
    """The twenty, in batches of `batch_size`, under their names."""
    names, images, prompts = zip(*pictures(), strict=True)
    results = assessor.assess_many(zip(images, prompts, strict=True), batch_size=batch_size)
    return [Assessment.model_validate(r.with_origin(n, None)) for n, r in zip(names, results, strict=True)]


def main() -> None:
    records = assess(Assessor.from_pretrained("nano", device="cpu"), batch_size=1)
    GOLDEN.parent.mkdir(parents=True, exist_ok=True)
    GOLDEN.write_text("".join(r.model_dump_json() + "\n" for r in records), encoding="utf-8", newline="\n")
    print(f"Wrote {len(records)} assessments by nano {records[0].model.revision} to {GOLDEN}.")


if __name__ == "__main__":
    main()
