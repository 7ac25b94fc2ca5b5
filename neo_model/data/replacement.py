"""Another image in the place of a damaged one, so that one bad file among many does not end a training run."""

import logging
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np

from neo_model.data.dataset import DetectionDataset, SampleRequest
from neo_model.data.findings import first_of
from neo_model.data.image_files import RESTORE, UNCHANGED, DamagedImage, decode
from neo_model.utils import UserError

logger = logging.getLogger(__name__)

# The third number of the seed; see `SAMPLE_STREAM`.
REPLACEMENT_STREAM = 4
MOST_REPLACEMENTS = 8


def load_or_replace(
    dataset: DetectionDataset, request: SampleRequest, canvas: np.ndarray
) -> tuple[dict, list[DamagedImage]]:
    """``dataset.load``, with another image where training meets a damaged one.

    Which one depends on the request's seed, epoch and index, and so neither on the number of workers nor on what was
    loaded before. A request without a seed is evaluation's, whose score must not change silently: its error is raised.

    Returns:
        the target, and the damaged images that were passed over (mostly none).

    Raises:
        DamagedImage: of an evaluation, or of a training set where ``MOST_REPLACEMENTS`` others are damaged as well.
        UserError: as ``dataset.load``.
    """
    damaged = []
    for candidate in _candidates(request, len(dataset)):
        try:
            return dataset.load(candidate, canvas), damaged
        except DamagedImage as error:
            damaged.append(error)
        except UserError:
            raise
        except Exception as error:  # a fault of ours, which keeps its traceback; without the file it cannot be repeated
            raise RuntimeError(f"{dataset.path(candidate.index)} could not be made a sample") from error
    raise damaged[0]


def _candidates(request: SampleRequest, num_images: int) -> Iterator[SampleRequest]:
    yield request
    if request.seed is None:
        return
    generator = np.random.default_rng([request.seed, request.epoch, REPLACEMENT_STREAM, request.index])
    for index in generator.integers(num_images, size=MOST_REPLACEMENTS):
        yield request._replace(index=int(index))


class DamageCount:
    """The damaged images that this process has heard of; each counts once, however often it is met.

    Args:
        num_images: images of the training set.
        max_fraction: the part of them that may be damaged.
        folder: where they are.
    """

    def __init__(self, num_images: int, max_fraction: float, folder: Path) -> None:
        self.num_images, self.max_fraction, self._folder = num_images, max_fraction, folder
        self._files: dict[str, None] = {}  # a set in order of discovery

    def __len__(self) -> int:
        return len(self._files)

    def add(self, damaged: list[DamagedImage]) -> None:
        """Note and log images that were replaced.

        Raises:
            UserError: they are too many by now.
        """
        for error in damaged:
            if error.where not in self._files:
                self._files[error.where] = None
                logger.warning("%s: %s; another image is trained on in its place", error.where, error.cause)
        refuse_too_many(list(self._files), self.num_images, self.max_fraction)

    def file_names(self) -> list[str]:
        """The files in order of discovery, relative to the image folder, which may have moved when a run is resumed."""
        return [Path(path).relative_to(self._folder).as_posix() for path in self._files]

    def restore(self, file_names: list[str], files: Iterable[Path]) -> None:
        """Take up the count of a run that is resumed, without the images that have been made whole since.

        Args:
            file_names: what ``file_names`` gave; from a checkpoint, which may hold anything.
            files: the training images, the only files that are opened.

        Raises:
            ValueError: there are others among them, or things that are no names.
        """
        if not (isinstance(file_names, list) and all(isinstance(name, str) for name in file_names)):
            raise ValueError("it is no list of file names")
        paths = [self._folder / name for name in file_names]
        if strangers := set(paths).difference(files if paths else []):
            raise ValueError(f"{str(min(strangers))!r} is no training image")
        self._files = {str(path): None for path in paths if _is_damaged(path)}


def _is_damaged(path: Path) -> bool:
    try:
        decode(path, remedy=RESTORE)
    except UserError as error:  # another one is for whoever trains on the image
        return isinstance(error, DamagedImage)
    return False


def refuse_too_many(damaged: list[str], num_images: int, max_fraction: float) -> None:
    """Raise ``UserError`` if more than ``max_fraction`` of the ``num_images`` training images are damaged."""
    if len(damaged) > max_fraction * num_images:
        counts = f"{len(damaged)} of {num_images} training images are damaged"
        raise UserError(
            "data.max_bad_fraction",
            f"{counts}, more than the fraction {max_fraction:g}: {first_of(damaged)}",
            f"restore them, allow more, or take them out of the annotations {UNCHANGED}",
        )
