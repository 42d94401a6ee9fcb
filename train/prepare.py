"""Decodes and faults the training pictures once.

python -m train.prepare            # $MINT_IQA_DATA, default ../shared; 3 minutes on 2 cores, 11 GB
"""

import argparse
import json
import sys
from pathlib import Path

from mint_iqa.model.configuration import MintIQAConfig
from mint_iqa.tables.reading import read_bytes
from train.data.pictures import build
from train.data.sets import paths_of
from train.engine.commands import ends_in_a_sentence

NANO_SIZE = 336  # pixels that nano sees


def build_all(image_size: int) -> None:
    """AGIQA-3K and Flickr8k with their faulted twins, for a model that sees `image_size` pixels."""
    build("agiqa3k", image_size, paths_of("agiqa3k"), ("small", "kadid", "kadid", "malformation"))
    build("flickr8k", image_size, paths_of("flickr8k"), ("kadid", "malformation"))


def image_size_of(model: str) -> int:
    """The image size of a config file, or nano's."""
    if Path(model).suffix != ".json":
        return NANO_SIZE
    return int(MintIQAConfig(**json.loads(read_bytes(Path(model)))).processor["image_size"])


@ends_in_a_sentence
def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--image-size", type=int, default=NANO_SIZE, help="pixels that the model to be trained sees"
    )
    build_all(parser.parse_args().image_size)


if __name__ == "__main__":
    sys.exit(main())
