"""Decodes and faults the training pictures once.

python -m train.prepare            # $MINT_IQA_DATA, default ../shared; 3 minutes on 2 cores, 11 GB
"""

import argparse
import sys

from train.data.pictures import build
from train.data.sets import paths_of
from train.engine.commands import ends_in_a_sentence

NANO = 336  # pixels that nano sees


def build_all(image_size: int) -> None:
    build("agiqa3k", image_size, paths_of("agiqa3k"), ("small", "kadid", "kadid", "malformation"))
    build("flickr8k", image_size, paths_of("flickr8k"), ("kadid", "malformation"))


@ends_in_a_sentence
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--image-size", type=int, default=NANO, help="what the model to be trained sees")
    build_all(parser.parse_args().image_size)


if __name__ == "__main__":
    sys.exit(main())
