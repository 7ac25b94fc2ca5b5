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


# What some sets, Hugging Face's RT-DETR among them, call COCO's classes; in the form of `_plain`.
OTHER_NAMES = {"motorbike": "motorcycle", "aeroplane": "airplane", "sofa": "couch", "tvmonitor": "tv"}


def same_classes(theirs: Sequence[str], ours: Sequence[str]) -> dict[int, int]:
    """Index of ours -> index of theirs, for the names that both have; case, spaces, ``_`` and ``-`` make no difference.

    A name that one side has twice is left out: nothing says which of the two is meant.
    """
    positions = [_positions(names) for names in (theirs, ours)]
    return {positions[1][name]: positions[0][name] for name in positions[1] if name in positions[0]}


def first_difference(theirs: Sequence[str], ours: Sequence[str]) -> int | None:
    """The first index at which two lists of as many classes name another class, compared as by `same_classes`."""
    pairs = enumerate(zip(theirs, ours, strict=True))
    return next((i for i, (mine, other) in pairs if _plain(mine) != _plain(other)), None)


def _positions(names: Sequence[str]) -> dict[str, int]:
    plain = [_plain(name) for name in names]
    return {name: i for i, name in enumerate(plain) if plain.count(name) == 1}


def _plain(name: str) -> str:
    joined = re.sub(r"[\s_-]+", "", name.casefold())
    return OTHER_NAMES.get(joined, joined)


def with_rows_of(fresh: Tensor, loaded: Tensor, rows: dict[int, int]) -> Tensor:
    """A copy of ``fresh`` [C, ...] whose rows named by ``rows`` are those of ``loaded`` [C', ...]."""
    result = fresh.clone()
    result[list(rows)] = loaded[list(rows.values())].to(fresh)
    return result
