"""AGIQA-3K (arXiv 2306.04717): quality and alignment, 0..5, of pictures by six generators.

The table has two layouts: the official `data.csv` (name, prompt, adj1, adj2, style and the four numbers;
`prompt` already contains the adjectives and the style), and `scores.csv` (image, prompt, generator, setting
and the four numbers), whose `image` is a path in the folder of pictures.
"""

from pathlib import Path

from instruct_data.importers.scores import drop_conflicts
from instruct_data.records import RatedImage
from mint_iqa.tables.reading import Findings, csv_rows, read_text
from mint_iqa.tables.scales import number, percent

SOURCE = "agiqa3k"
HIGHEST_SCORE = 5.0
NUMBER_COLUMNS = ("mos_quality", "std_quality", "mos_align", "std_align")
OFFICIAL_COLUMNS = ("name", "prompt", "adj1", "adj2", "style", *NUMBER_COLUMNS)
LOCAL_COLUMNS = ("image", "prompt", "generator", "setting", *NUMBER_COLUMNS)


def read_agiqa3k(path: Path, findings: Findings) -> list[RatedImage]:
    """Quality and correspondence (there "alignment") on 0..100, and the raters' spread in the same points."""
    official = read_text(path).split("\n", 1)[0].strip().split(",")[0] == "name"
    image = "name" if official else "image"
    ratings = []
    for line, row in csv_rows(path, OFFICIAL_COLUMNS if official else LOCAL_COLUMNS, findings):
        with findings.at(line):
            ratings.append((line, _rating(row, row[image])))
    return drop_conflicts(ratings, findings)


def _rating(row: dict[str, str], image: str) -> RatedImage:
    values = {name: number(name, row[name]) for name in NUMBER_COLUMNS}
    return RatedImage(
        image=image,
        prompt=row["prompt"],
        source=SOURCE,
        # File names have the form GENERATOR_SETTING_NUMBER.jpg.
        generator=row.get("generator") or Path(image).name.split("_")[0],
        mos={
            "quality": percent("mos_quality", values["mos_quality"], 0, HIGHEST_SCORE),
            "correspondence": percent("mos_align", values["mos_align"], 0, HIGHEST_SCORE),
        },
        mos_std={
            "quality": values["std_quality"] * 100 / HIGHEST_SCORE,
            "correspondence": values["std_align"] * 100 / HIGHEST_SCORE,
        },
    )
