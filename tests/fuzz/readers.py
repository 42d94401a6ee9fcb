"""The readers of untrusted files, and the valid files from which mutation starts."""

import io
import struct
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from PIL import Image

from instruct_data.build import Build
from instruct_data.importers.agiqa3k import read_agiqa3k
from instruct_data.importers.aigciqa2023 import read_aigciqa2023, read_aigciqa2023_raw
from instruct_data.importers.distortions import read_clive, read_kadid, read_live
from instruct_data.importers.llava import read_llava
from instruct_data.importers.table import ScoreColumn, TableColumns, read_table
from instruct_data.recipes import read_settings
from instruct_data.records import InstructionSample, RatedImage, read_any_jsonl
from mint_iqa.errors import MintIQAError
from mint_iqa.images import MAX_PIXELS, read_image
from mint_iqa.scoring.manifest import read_manifest
from mint_iqa.tables.reading import Findings
from tests.fuzz import checkpoints
from tests.textures import hills

REPOSITORY = Path(__file__).resolve().parents[2]
LABELS = REPOSITORY / "tests/labels"
KEPT = Path(__file__).parent / "corpus"
# Mutation often enlarges pictures, which only tests Pillow's speed: one in 64 gets the real limit.
USUAL_PIXELS = 250_000


@dataclass(frozen=True)
class Reader:
    """read: takes the bytes of a file and a folder for it; share: its part of the campaign's inputs."""

    read: Callable[[bytes, Path], object]
    seeds: Callable[[], list[bytes]]
    share: int


def seeds_of(name: str) -> list[bytes]:
    """Valid files, and those that once broke a rule."""
    return [*READERS[name].seeds(), *(path.read_bytes() for path in sorted((KEPT / name).glob("*")))]


def _image(data: bytes, folder: Path) -> None:
    read_image(data, max_pixels=MAX_PIXELS if zlib.crc32(data) % 64 == 0 else USUAL_PIXELS)


def _png(data: bytes, folder: Path) -> None:
    """Checksums are corrected in three of four files: a reader that stops at the first one tests nothing."""
    _image(_right_checksums(data) if zlib.crc32(data) % 4 else data, folder)


def _right_checksums(data: bytes) -> bytes:
    parts, position = [data[:8]], 8
    while position + 8 <= len(data):
        (length,) = struct.unpack_from(">I", data, position)
        body = data[position + 4 : position + 8 + length]
        parts += [data[position : position + 4], body, struct.pack(">I", zlib.crc32(body))]
        position += 12 + length
    return b"".join(parts)


def _pictures(format: str) -> list[bytes]:
    plain = hills().resize((24, 16))
    modes = {"JPEG": ["RGB", "L", "CMYK"], "WEBP": ["RGB", "RGBA"], "GIF": ["P"], "BMP": ["RGB", "P", "1"]}
    deep = {"PNG": ["I;16"], "TIFF": ["I;16", "I", "F", "CMYK"]}.get(format, [])
    files = [_encoded(plain.convert(mode), format) for mode in modes.get(format, ["RGB", "RGBA", "P", "LA"])]
    files += [_encoded(plain.convert("L").convert(mode), format) for mode in deep]
    exif = Image.Exif()
    exif[0x0112] = 6
    extras: dict[str, list[dict[str, object]]] = {
        "JPEG": [{"progressive": True, "exif": exif, "comment": "x"}],
        "PNG": [{"exif": exif, "dpi": (72, 72)}, {"save_all": True, "append_images": [plain]}],
        "WEBP": [{"lossless": True, "exif": exif}, {"save_all": True, "append_images": [plain]}],
        "GIF": [{"comment": "x", "save_all": True, "append_images": [plain.convert("L")]}],
        "TIFF": [{"compression": kind} for kind in ("tiff_lzw", "tiff_adobe_deflate", "jpeg", "packbits")],
    }
    return files + [_encoded(plain, format, **options) for options in extras.get(format, [])]


def _encoded(image: Image.Image, format: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format, **options)
    return buffer.getvalue()


def _as_file(name: str, read: Callable[[Path], object], data: bytes, folder: Path) -> None:
    path = folder / name
    path.write_bytes(data)
    read(path)


def _each(readers: Sequence[Callable[[Path], object]], path: Path) -> None:
    """Give the file to every reader; it counts as refused if all refuse it."""
    refusals = []
    for read in readers:
        try:
            read(path)
        except MintIQAError as error:
            refusals.append(error)
    if len(refusals) == len(readers):
        raise refusals[0]


def _manifest_of_questions(path: Path) -> None:
    read_manifest(path, required=("image", "question"))


def _records(path: Path) -> None:
    read_any_jsonl(path)


def _labels(read: Callable[[Path, Findings], object], path: Path) -> None:
    findings = Findings(path)
    read(path, findings)
    findings.summary()


_COLUMNS = TableColumns({"quality": ScoreColumn("dmos", 100, 0)}, image="file", prompt="text")


def _table(path: Path, findings: Findings) -> object:
    return read_table(path, _COLUMNS, findings)


_JSON = [partial(_labels, read) for read in (read_aigciqa2023, read_live, read_clive, read_kadid, read_llava)]
_CSV = [partial(_labels, read) for read in (read_agiqa3k, read_aigciqa2023_raw, _table)]
_MANIFESTS = [read_manifest, _manifest_of_questions]


def _label_files(pattern: str) -> list[bytes]:
    return [path.read_bytes() for path in sorted(LABELS.glob(pattern))]


def _manifests() -> list[bytes]:
    return [
        (REPOSITORY / "examples/demo.csv").read_bytes(),
        b'image,question,prompt,place\r\na.png,"What, where?",a fox,\xc3\x84\r\n,,"",\r\n',
    ]


def _record_files() -> list[bytes]:
    rating = RatedImage(image="a.png", source="x", mos={"quality": 50.0}, mos_std={"quality": 3.0})
    sample = InstructionSample(
        image="a.png", source="x", question="Why?", answer="So.", dimension="quality", mos=5.0,
        scores={"quality": 5.0}, region=(0.0, 0.0, 0.5, 0.5),
    )  # fmt: skip
    lines = [record.model_dump_json(exclude_defaults=True).encode() for record in (rating, sample)]
    return [lines[0] + b"\n\n" + lines[0], lines[1] + b"\n" + lines[1], lines[0], lines[1]]


def _recipes() -> list[bytes]:
    return [path.read_bytes() for path in sorted((REPOSITORY / "configs").glob("instructions/*.yaml"))]


def _headers() -> list[bytes]:
    """Complete weights, and their header alone: most changes of the complete file hit a number."""
    (whole,) = checkpoints.stored("model.safetensors")()
    return [whole, whole[: 8 + int.from_bytes(whole[:8], "little")]]


READERS = {
    **{
        name.lower(): Reader(_png if name == "PNG" else _image, partial(_pictures, name), share)
        for name, share in {"PNG": 100, "JPEG": 100, "WEBP": 80, "GIF": 80, "BMP": 60, "TIFF": 140}.items()
    },
    "manifest": Reader(partial(_as_file, "m.csv", partial(_each, _MANIFESTS)), _manifests, 110),
    "jsonl": Reader(partial(_as_file, "r.jsonl", _records), _record_files, 110),
    "json_labels": Reader(
        partial(_as_file, "l.json", partial(_each, _JSON)), partial(_label_files, "*.json"), 60
    ),
    "csv_labels": Reader(
        partial(_as_file, "l.csv", partial(_each, _CSV)), partial(_label_files, "*.csv"), 80
    ),
    "recipe": Reader(partial(_as_file, "r.yaml", partial(read_settings, Build)), _recipes, 20),
    "model_config": Reader(checkpoints.model("config.json"), checkpoints.stored("config.json"), 3),
    "model_weights": Reader(checkpoints.model("model.safetensors"), _headers, 3),
    "tokenizer": Reader(checkpoints.tokenizer, checkpoints.stored("tokenizer.json"), 3),
    "state_dict": Reader(checkpoints.state, checkpoints.states, 16),
    "dimensions": Reader(checkpoints.dimensions, checkpoints.dimension_files, 15),
    "clip_config": Reader(checkpoints.clip_config, checkpoints.clip_configs, 10),
    "clip_weights": Reader(checkpoints.clip_weights, checkpoints.weight_files, 10),
}
