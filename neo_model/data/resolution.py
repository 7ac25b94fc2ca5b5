"""The network's input size, 16:9 unless one asks otherwise."""

import math

from neo_model.utils import NonNegativeInt, PositiveInt, UserError

ASPECT_WIDTH, ASPECT_HEIGHT = 16, 9
SMALLEST = 64  # pixels, two cells of the coarsest map


class Resolution:
    """Input size in pixels, and the sizes that training may draw from.

    Args:
        width: width of the input in validation, and in training without ``train_sizes``.
        height: its height; ``width * 9 == height * 16``.
        train_sizes: ``[[width, height], ...]`` for multi-scale training; a size listed twice is drawn twice as often.
        multiscale_until: epoch from which training uses only ``width`` x ``height``; None for never.
        any_aspect: permit other shapes than 16:9.

    Raises:
        UserError: a size has a side under 64 pixels, or is not 16:9; the nearest valid ones are named. Or
            ``width`` x ``height`` lies outside ``train_sizes``, as after changing it alone.
    """

    def __init__(
        self,
        *,
        width: PositiveInt,
        height: PositiveInt,
        train_sizes: list[list[PositiveInt]] | None = None,
        multiscale_until: NonNegativeInt | None = None,
        any_aspect: bool = False,
    ) -> None:
        self.width, self.height = width, height
        self.any_aspect = any_aspect
        self.multiscale_until = multiscale_until
        sizes = [[width, height]] if train_sizes is None else train_sizes
        if not sizes or any(len(size) != 2 or min(size) < 1 for size in sizes):
            raise UserError("data/resolution", f"train_sizes is {train_sizes}", "give [[width, height], ...] in pixels")
        self.train_sizes = [(train_width, train_height) for train_width, train_height in sizes]
        for size in (self.size, *self.train_sizes):
            if not any_aspect:
                check_16_9(*size)
            if min(size) < SMALLEST:
                cause = f"has a side under {SMALLEST} pixels"
                raise UserError(f"data/resolution {_shown(size)}", cause, "use a larger one")
        smallest, largest = min(self.train_sizes), max(self.train_sizes)
        if not smallest <= self.size <= largest:
            cause = f"training would still use train_sizes, {_shown(smallest)} to {_shown(largest)}"
            raise UserError(f"data/resolution {self}", cause, "add data.resolution.train_sizes=null, or other sizes")

    @property
    def size(self) -> tuple[int, int]:
        """(width, height) of evaluation."""
        return self.width, self.height

    @property
    def largest_wh(self) -> tuple[int, int]:
        """(width, height) of the most pixels that a batch may have, in any epoch."""
        return max(self.size, *self.train_sizes, key=math.prod)

    def sizes_at(self, epoch: int) -> list[tuple[int, int]]:
        """(width, height) that a training batch of this epoch may have."""
        if self.multiscale_until is not None and epoch >= self.multiscale_until:
            return [self.size]
        return self.train_sizes

    def __str__(self) -> str:
        return _shown(self.size)


def _shown(size_wh: tuple[int, int]) -> str:
    return f"{size_wh[0]}x{size_wh[1]}"


def check_16_9(width: int, height: int) -> None:
    """Raise ``UserError`` with the nearest valid sizes unless ``width``:``height`` is exactly 16:9."""
    if width * ASPECT_HEIGHT == height * ASPECT_WIDTH:
        return
    fewest = -(-SMALLEST // ASPECT_HEIGHT)
    steps = sorted({max(fewest, round(width / ASPECT_WIDTH)), max(fewest, round(height / ASPECT_HEIGHT))})
    nearest = " or ".join(f"{ASPECT_WIDTH * step}x{ASPECT_HEIGHT * step}" for step in steps)
    remedy = f"use {nearest}, or set data.resolution.any_aspect=true"
    raise UserError(f"data/resolution {width}x{height}", "is not 16:9", remedy)
