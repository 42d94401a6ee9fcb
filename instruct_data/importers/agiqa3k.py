"""AGIQA-3K (arXiv 2306.04717): quality and alignment, 0..5, of pictures of six generators.

Two layouts of the same table: the official `data.csv` (name, prompt, adj1, adj2, style and the four numbers;
`prompt` already contains the adjectives and the style), and `scores.csv` (image, prompt, generator, setting
and the four numbers), which leads to the pictures' folder.
"""

from pathlib import Path

from instruct_data.importers.scores import drop_conflicts
from instruct_data.records import RatedImage
from mint_iqa.tables.reading import Findings, csv_rows, read_text
from mint_iqa.tables.scales import number, percent

SOURCE = "agiqa3k"
HIGHEST = 5.0
NUMBERS = ("mos_quality", "std_quality", "mos_align", "std_align")
OFFICIAL = ("name", "prompt", "adj1", "adj2", "style", *NUMBERS)
LOCAL = ("image", "prompt", "generator", "setting", *NUMBERS)


def read_agiqa3k(path: Path, findings: Findings) -> list[RatedImage]:
    """Quality and correspondence ("alignment" there) on 0..100, and the raters' spread in the same points."""
    official = read_text(path).split("\n", 1)[0].strip().split(",")[0] == "name"
    image = "name" if official else "image"
    ratings = []
    for line, row in csv_rows(path, OFFICIAL if official else LOCAL, findings):
        with findings.at(line):
            ratings.append((line, _rating(row, row[image])))
    return drop_conflicts(ratings, findings)


def _rating(row: dict[str, str], image: str) -> RatedImage:
    values = {name: number(name, row[name]) for name in NUMBERS}
    return RatedImage(
        image=image,
        prompt=row["prompt"],
        source=SOURCE,
        # A file is called GENERATOR_SETTING_NUMBER.jpg.
        generator=row.get("generator") or Path(image).name.split("_")[0],
        mos={
            "quality": percent("mos_quality", values["mos_quality"], 0, HIGHEST),
            "correspondence": percent("mos_align", values["mos_align"], 0, HIGHEST),
        },
        mos_std={
            "quality": values["std_quality"] * 100 / HIGHEST,
            "correspondence": values["std_align"] * 100 / HIGHEST,
        },
    )
