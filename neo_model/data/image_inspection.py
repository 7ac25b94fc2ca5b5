"""Looks into many image files at once, for the audit of a data set and for the start of a training run."""

from collections import defaultdict
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import chain
from pathlib import Path

from tqdm import tqdm

from neo_model.data.coco import CocoInstances
from neo_model.data.findings import Finding, findings_of, raised_by
from neo_model.data.image_files import RESTORE, DamagedImage, WrongSize, inspect_image
from neo_model.data.replacement import refuse_too_many
from neo_model.utils import UserError
from neo_model.utils.cores import num_cores

FILES_A_TASK = 64
THREADS_A_CORE = 4  # most of their time is waiting for the disk


def examine_images(
    folder: Path,
    instances: CocoInstances,
    indices: list[int],
    *,
    max_bad_fraction: float | None = None,
    decoding: bool = True,
) -> list[Finding]:
    """What is wrong with image files that are there.

    Args:
        folder: where they are.
        instances: their annotations.
        indices: which of the annotated images to look at.
        max_bad_fraction: this part of them may be damaged, as in training; None of an evaluation's, which needs all.
        decoding: decode what the beginning and the end of a file do not prove sound.
    """
    damaged, unusable, findings = defaultdict(list), defaultdict(list), []
    for name, error in _problems(folder, instances, indices, decoding):
        if isinstance(error, DamagedImage):
            damaged[error.cause].append(name)
        elif isinstance(error, WrongSize):
            unusable[error.found, error.remedy].append(f"{name} {error.cause}")
        else:
            unusable[f"files of which each {error.cause}", error.remedy].append(name)
    for (what, remedy), names in unusable.items():
        findings += findings_of(folder, what, names, then=remedy, stops=True)
    then = RESTORE if max_bad_fraction is None else "another image is trained on instead"
    for cause, names in damaged.items():
        what = f"files of which each {cause}"
        findings += findings_of(folder, what, names, then=then, stops=max_bad_fraction is None)
    if max_bad_fraction is not None:
        names = list(chain(*damaged.values()))
        findings += raised_by(refuse_too_many, names, len(instances), max_bad_fraction)
    return findings


def _problems(
    folder: Path, instances: CocoInstances, indices: list[int], decoding: bool
) -> Iterator[tuple[str, UserError]]:
    """Names of the image files that cannot be used, and why."""
    tasks = [indices[first : first + FILES_A_TASK] for first in range(0, len(indices), FILES_A_TASK)]

    def look_at(task: list[int]) -> list[tuple[str, UserError]]:
        problems = []
        for index in task:
            name = instances.file_name(index)
            try:
                inspect_image(folder / name, tuple(instances.sizes_wh[index].tolist()), decoding=decoding)
            except UserError as error:
                problems.append((name, error))
        return problems

    bar = tqdm(total=len(indices), desc=f"looking at {folder}", unit="image", leave=False, disable=None)
    pool = ThreadPoolExecutor(THREADS_A_CORE * num_cores())
    with bar:
        try:
            for task, problems in zip(tasks, pool.map(look_at, tasks), strict=True):
                bar.update(len(task))
                yield from problems
        finally:
            pool.shutdown(cancel_futures=True)  # Ctrl-C need not wait for the rest
