"""Train a detector; ``python train.py --help`` is the manual."""

import sys

from neo_model.config.command_line import main

if __name__ == "__main__":
    sys.exit(main("train"))
