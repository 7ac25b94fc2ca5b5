"""Decoding, augmenting and collating images, beside torchvision's and albumentations' way and beside decoding alone.

Two cases: frames of a camera at the input's own size with flips and a little colour (``light``), and small photos with
the full augmentation (``rtdetr``). A sample is an epoch, from asking for its first batch to receiving the last; the
workers have been started before. Every loader has the same files, boxes, batches and number of workers.
"""

import argparse
import json
import tempfile
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import count, product
from pathlib import Path
from typing import get_args

import cv2
import numpy as np
import torch

from neo_model.benchmark.ceiling import copying
from neo_model.benchmark.loader_peers import Albumentations, BoxedFiles, Torchvision, peer_loader
from neo_model.benchmark.measure import interleaved
from neo_model.benchmark.table import Report, Row, Table
from neo_model.data import Augmentation, DetectionData, Resolution
from neo_model.data.dataset import SampleRequest
from neo_model.data.image_cache import CacheKind
from neo_model.data.scenes import write_scenes
from neo_model.data.workers import LoaderKind
from neo_model.utils import UserError

PEER, FAST_PEER = "torchvision, the official chain", "cv2 + albumentations, float32"
DECODING, COPYING = "ceiling: decoding alone", "ceiling of a cache: copying alone"
AUGMENTS = {
    "light": {"flip": 0.5, "color": 0.5},
    "rtdetr": {"photometric": 0.5, "zoom_out": 0.5, "iou_crop": 0.8, "flip": 0.5},
}
BOXES_OF_AN_IMAGE = 10


@dataclass(frozen=True)
class Files:
    """Images of a folder, their sizes and made-up boxes.

    Args:
        paths: JPEG files, all in one folder.
        sizes_wh: pixels, of each.
        boxes_xyxy: float32 pixels [n, 4], of each.
        annotations: the same as a COCO file.
    """

    paths: list[Path]
    sizes_wh: list[tuple[int, int]]
    boxes_xyxy: list[np.ndarray]
    annotations: Path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of this benchmark."""
    parser.add_argument("--frames", type=Path, metavar="DIR", help="JPEGs for light (1920x1080 ones are made)")
    parser.add_argument("--photos", type=Path, metavar="DIR", help="JPEGs for rtdetr (640x480 ones are made)")
    parser.add_argument("--images", type=int, default=64, help="of each folder, at most (64)")
    parser.add_argument("--size", type=int, nargs=2, default=[1920, 1080], metavar=("W", "H"), help="input (1920 1080)")
    parser.add_argument("--batch", type=int, default=4, help="images (4)")
    parser.add_argument("--workers", type=int, default=2, help="of each loader (2)")
    parser.add_argument(
        "--loader", nargs="+", choices=get_args(LoaderKind), default=["process"], help="data.loader of ours (process)"
    )
    parser.add_argument("--cases", nargs="+", choices=AUGMENTS, default=list(AUGMENTS), help="(both)")


def run(arguments: argparse.Namespace) -> Report:
    """Measure the cases asked for."""
    tables = []
    with tempfile.TemporaryDirectory() as scratch:
        for case in arguments.cases:
            given, made_wh = (arguments.frames, (1920, 1080)) if case == "light" else (arguments.photos, (640, 480))
            folder = given or make_images(Path(scratch) / case, made_wh, arguments.images)
            annotations = Path(scratch) / f"{case}.json"
            files = find_files(folder, annotations, least=arguments.batch, most=arguments.images)
            tables.append(measure(case, files, arguments))
    notes = [
        "The first ceiling decodes the files in as many threads, as small as ours may for this input, and does nothing "
        "else; the second copies the pixels of the batches once. Ratios are to the fastest peer."
    ]
    return Report("loader", tables, notes)


def measure(case: str, files: Files, arguments: argparse.Namespace) -> Table:
    """One table of images a second."""
    target_wh = tuple(arguments.size)
    batches = {"batch_size": arguments.batch, "workers": arguments.workers}
    ours = {}
    for kind, cache in product(arguments.loader, (None, "ram")):
        data = our_data(case, files, target_wh, kind, cache)
        name = "ours" + f", data.loader={kind}" * (kind != "process") + f", data.cache={cache}" * (cache is not None)
        ours[name] = data.train_loader(prefetch=2, pin_memory=False, seed=0, **batches)
    epochs = count()
    peers = {PEER: Torchvision(target_wh, case)}
    if case == "light":
        peers[FAST_PEER] = Albumentations(target_wh)
    candidates = {name: lambda loader=loader: exhaust(loader.epoch(next(epochs))) for name, loader in ours.items()}
    for name, transform in peers.items():
        loader = peer_loader(BoxedFiles(files.paths, files.boxes_xyxy, transform), **batches)
        candidates[name] = lambda loader=loader: exhaust(loader)
    copies = copying(torch.device("cpu"))
    with ThreadPoolExecutor(max(1, arguments.workers)) as threads:
        candidates |= {DECODING: decoding(case, files, target_wh, threads), COPYING: copies.call}
        timings = interleaved(candidates, rounds=arguments.rounds, warmup=arguments.warmup)
    for loader in ours.values():
        loader.close()
    images = len(loader) * arguments.batch
    sizes = " ".join(sorted({f"{width}x{height}" for width, height in files.sizes_wh})[:3])
    title = f"{case}: {len(files.paths)} of {sizes} to {target_wh[0]}x{target_wh[1]}, {arguments.workers} workers"
    timings[COPYING] = copies.time_of(images * 2 * 3 * target_wh[0] * target_wh[1], timings[COPYING])
    items = {name: len(files.paths) if name == DECODING else images for name in timings}
    return Table(title, [Row(name, timing, "images/s", items[name]) for name, timing in timings.items()], [*peers])


def our_data(
    case: str, files: Files, target_wh: tuple[int, int], kind: LoaderKind, cache: CacheKind | None
) -> DetectionData:
    """The files as a data set of ours."""
    folder = str(files.paths[0].parent)
    return DetectionData(
        name="benchmark",
        train_images=folder,
        train_annotations=str(files.annotations),
        val_images=folder,
        val_annotations=str(files.annotations),
        resolution=Resolution(width=target_wh[0], height=target_wh[1], any_aspect=True),
        augment=Augmentation(**AUGMENTS[case]),
        loader=kind,
        cache=cache,
    )


def decoding(case: str, files: Files, target_wh: tuple[int, int], threads: ThreadPoolExecutor) -> Callable[[], None]:
    """Every file decoded as our data set does it, nothing kept."""
    dataset = our_data(case, files, target_wh, "thread", cache=None).train_dataset()

    def work(index: int) -> None:
        dataset.image(SampleRequest(index, *target_wh, seed=0, strong=True), files.sizes_wh[index])

    return lambda: exhaust(threads.map(work, range(len(files.paths))))


def exhaust(batches: Iterable) -> None:
    """Take everything that comes and keep none of it."""
    for _ in batches:
        pass


def make_images(folder: Path, size_wh: tuple[int, int], number: int) -> Path:
    """Write drawn scenes with the detail and the file size of a camera's; returns their folder."""
    folder.mkdir()
    exhaust(write_scenes(folder, width=size_wh[0], height=size_wh[1], counts={"train": number}, seed=0, workers=2))
    return folder / "train"


def find_files(folder: Path, annotations: Path, *, least: int, most: int) -> Files:
    """The first JPEGs of a folder with boxes made up for them, written as annotations too.

    Raises:
        UserError: the folder, or ``most``, has less than ``least``, the images of a batch.
    """
    paths = sorted(path for path in folder.glob("*") if path.suffix.lower() in (".jpg", ".jpeg"))[:most]
    if len(paths) < least:
        remedy = "add files, raise --images, or lower --batch"
        raise UserError(folder, f"{len(paths)} JPEG files make no batch of {least}", remedy)
    sizes_wh = [cv2.imread(str(path)).shape[1::-1] for path in paths]
    boxes_xyxy = [random_boxes(np.random.default_rng(index), size) for index, size in enumerate(sizes_wh)]
    images = [
        {"id": index, "file_name": path.name, "width": width, "height": height}
        for index, (path, (width, height)) in enumerate(zip(paths, sizes_wh, strict=True))
    ]
    boxes_xywh = [
        (index, [float(x0), float(y0), float(x1 - x0), float(y1 - y0)])
        for index, boxes in enumerate(boxes_xyxy)
        for x0, y0, x1, y1 in boxes
    ]
    objects = [
        {"id": number, "image_id": index, "category_id": 1, "bbox": box, "area": box[2] * box[3], "iscrowd": 0}
        for number, (index, box) in enumerate(boxes_xywh, start=1)
    ]
    categories = [{"id": 1, "name": "thing"}]
    annotations.write_text(json.dumps({"images": images, "annotations": objects, "categories": categories}))
    return Files(paths, sizes_wh, boxes_xyxy, annotations)


def random_boxes(generator: np.random.Generator, size_wh: tuple[int, int]) -> np.ndarray:
    """Boxes [n, 4] xyxy of 5 to 35% of each side."""
    sides = generator.uniform(0.05, 0.35, (BOXES_OF_AN_IMAGE, 2))
    corners = generator.uniform(0, 1, (BOXES_OF_AN_IMAGE, 2)) * (1 - sides)
    return (np.concatenate([corners, corners + sides], axis=1) * np.tile(size_wh, 2)).astype(np.float32)
