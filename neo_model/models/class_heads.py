"""The layers that count classes, started from those of other classes: row by row, by the classes' names."""

import re
from collections.abc import Sequence

from torch import Tensor

# The parameters whose first dimension counts classes; the embedding has a row more, for padding.
CLASS_KEYS = re.compile(r"^decoder\.(enc_score_head|dec_score_head\.\d+|denoising_class_embed)\.(weight|bias)$")

# Of the published files, which carry no names: COCO's classes in the order of their category ids.
COCO_NAMES = (
    "person, bicycle, car, motorcycle, airplane, bus, train, truck, boat, traffic light, fire hydrant, stop sign, "
    "parking meter, bench, bird, cat, dog, horse, sheep, cow, elephant, bear, zebra, giraffe, backpack, umbrella, "
    "handbag, tie, suitcase, frisbee, skis, snowboard, sports ball, kite, baseball bat, baseball glove, skateboard, "
    "surfboard, tennis racket, bottle, wine glass, cup, fork, knife, spoon, bowl, banana, apple, sandwich, orange, "
    "broccoli, carrot, hot dog, pizza, donut, cake, chair, couch, potted plant, bed, dining table, toilet, tv, laptop, "
    "mouse, remote, keyboard, cell phone, microwave, oven, toaster, sink, refrigerator, book, clock, vase, scissors, "
    "teddy bear, hair drier, toothbrush"
).split(", ")


def same_classes(theirs: Sequence[str], ours: Sequence[str]) -> dict[int, int]:
    """Index of ours -> index of theirs, for the names that both have; case, ``_`` and ``-`` make no difference.

    A name that one side has twice is left out: nothing says which of the two is meant.
    """
    positions = [_positions(names) for names in (theirs, ours)]
    return {positions[1][name]: positions[0][name] for name in positions[1] if name in positions[0]}


def _positions(names: Sequence[str]) -> dict[str, int]:
    plain = [" ".join(re.split(r"[\s_-]+", name.casefold().strip())) for name in names]
    return {name: i for i, name in enumerate(plain) if plain.count(name) == 1}


def with_rows_of(fresh: Tensor, loaded: Tensor, rows: dict[int, int]) -> Tensor:
    """A copy of ``fresh`` [C, ...] whose rows named by ``rows`` are those of ``loaded`` [C', ...]."""
    result = fresh.clone()
    result[list(rows)] = loaded[list(rows.values())].to(fresh)
    return result
