"""A data set as pictures and one page; ``python -m neo_model.reports.dataset --help`` says how."""

import base64
import sys
from pathlib import Path

import numpy as np

from neo_model.data import DetectionData
from neo_model.data.coco import CocoInstances, read_coco
from neo_model.data.dataset import DetectionDataset
from neo_model.data.detection import SMALLEST_TRAINING_SIDE, check_same_classes
from neo_model.reports.dataset_statistics import SMALL_SIDES, SplitStatistics, split_statistics
from neo_model.reports.page import write_page
from neo_model.reports.steps import next_step, step_bar
from neo_model.utils import UserError
from neo_model.utils.files import telling_of_refusal
from neo_model.utils.secrets import redacted

HELP = """\
See a data set before training on it: classes, sizes of boxes at the chosen resolution, shapes, places,
sizes of images, and training images before and after augmentation.

usage: python -m neo_model.reports.dataset data=NAME [key=value ...]

  data=NAME, data.KEY=VALUE   as for train.py; see python train.py --help
  out=DIR                     where dataset.html and its pictures go (outputs/dataset/NAME)
  samples=N                   training images to show; 0 opens no image (6)

examples:
  python -m neo_model.reports.dataset data=custom data.root=/disk/mine data/resolution=1280x720
  python -m neo_model.reports.dataset data=coco samples=0 out=reports/coco
"""
PAGE = "dataset.html"
PICTURES = {
    "classes.png": "How many boxes each class has in training and validation",
    "sizes.png": "How large boxes are in the network's input, and what other input sizes would make of them",
    "shapes.png": "Shapes of boxes, and where their centres lie",
    "images.png": "Sizes of the image files, and objects in an image",
    "samples.png": "Training images as evaluation sees them and as augmentation shows them to training",
}
UNBALANCED = 10  # times as many boxes in the most frequent class as in the rarest
MANY_SMALL = 0.1


def write_dataset_report(data: DetectionData, out: Path, *, samples: int = 6) -> Path:
    """Write the pictures and the page.

    Args:
        data: a data set whose annotations exist; images are opened for samples only.
        out: the folder, created if need be.
        samples: training images to show.

    Returns:
        the page.

    Raises:
        UserError: the annotations are unusable, or the disk refuses.
    """
    from neo_model.reports import dataset_pictures as pictures  # matplotlib takes most of a second

    size_wh, fit = data.resolution.size, data.fit
    with telling_of_refusal(out):
        out.mkdir(parents=True, exist_ok=True)
    with step_bar(5, "reading annotations") as steps, telling_of_refusal(out):
        train_instances = next_step(steps, "counting", read_coco(data.train_annotations))
        train = next_step(steps, "reading validation annotations", split_statistics(train_instances, size_wh, fit))
        val_instances = read_coco(data.val_annotations)
        check_same_classes(data.train_annotations, train_instances.classes, data.val_annotations, val_instances.classes)
        val = next_step(steps, "drawing", split_statistics(val_instances, size_wh, fit))
        names = train_instances.classes.names
        pictures.draw_classes(train, val, names, out / "classes.png")
        pictures.draw_sizes(train, str(data.resolution), out / "sizes.png")
        pictures.draw_shapes(train, out / "shapes.png")
        pictures.draw_images(train, out / "images.png")
        missing = next_step(steps, "drawing samples", _draw_samples(data, train_instances, samples, out / "samples.png"))
        _write_page(data, train, val, names, out, missing)
    return out / PAGE


def _draw_samples(data: DetectionData, instances: CocoInstances, count: int, path: Path) -> str | None:
    """Draw, or say why there is no picture; one of an earlier report goes."""
    from neo_model.reports.dataset_pictures import draw_samples

    path.unlink(missing_ok=True)
    if not count:
        return "none were asked for"
    dataset = DetectionDataset(
        instances=instances,
        folder=data.train_images,
        size_wh=data.resolution.size,
        fit=data.fit,
        augment=data.augment,
        smallest_side=SMALLEST_TRAINING_SIDE,
    )
    try:
        return None if draw_samples(dataset, count, path) else "no image has a box"
    except UserError as error:
        return str(error)


def _write_page(
    data: DetectionData, train: SplitStatistics, val: SplitStatistics, names: list[str], out: Path, missing: str | None
) -> None:
    rows = [
        {"class": name, "boxes": int(train.boxes[k]), "images": int(train.images[k]), "val boxes": int(val.boxes[k]),
         "val images": int(val.images[k]), "share": train.boxes[k] / max(1, train.num_boxes)}
        for k, name in enumerate(names)
    ]  # fmt: skip
    shown = {name: text for name, text in PICTURES.items() if (out / name).is_file()}
    facts = {
        "training": f"{train.num_images:,} images, {train.num_boxes:,} boxes",
        "validation": f"{val.num_images:,} images, {val.num_boxes:,} boxes",
        "classes": str(len(names)),
        "input": f"{data.resolution}, {data.fit}",
        "annotations": f"{data.train_annotations}, {data.val_annotations}",
    }
    pictures = [(name, text, base64.b64encode((out / name).read_bytes()).decode()) for name, text in shown.items()]
    sentences = dataset_findings(train, val, names, str(data.resolution))
    if missing:
        sentences.append(f"No samples are shown: {missing}.")
    values = {"facts": facts, "pictures": pictures, "content": {"rows": rows, "findings": sentences}}
    write_page(out / PAGE, "dataset.html.j2", title=f"The data set {data.name}", **values)


def dataset_findings(train: SplitStatistics, val: SplitStatistics, names: list[str], size: str) -> list[str]:
    """What to know first, a sentence each."""
    parts = zip(SMALL_SIDES, train.small_parts(), strict=True)
    sentences = [
        f"At {size}, " + ", ".join(f"{part:.1%} of the boxes are under {side} px" for side, part in parts) + "."
    ]
    if train.small_parts()[0] > MANY_SMALL:
        better = next((w for w, small in train.small.items() if small[0] <= MANY_SMALL), None)
        advice = f"{better}x{better * 9 // 16} would be the smallest size with less" if better else "no size has less"
        sentences.append(f"Boxes under {SMALL_SIDES[0]} px are hard to find, and there are many: {advice} than a tenth.")
    used = np.flatnonzero(train.boxes)
    if len(used):
        most, least = used[np.argmax(train.boxes[used])], used[np.argmin(train.boxes[used])]
        if train.boxes[most] >= UNBALANCED * train.boxes[least]:
            sentences.append(
                f"Classes are uneven: {train.boxes[most]:,} boxes of {names[most]}, {train.boxes[least]:,} of {names[least]}."
            )
    for split, what in ((train, "training"), (val, "validation")):
        absent = [names[k] for k in np.flatnonzero(split.boxes == 0)]
        if absent:
            more = f" and {len(absent) - 5} more" if absent[5:] else ""
            sentences.append(f"No box in {what}: {', '.join(absent[:5])}{more}.")
    empty = int(np.count_nonzero(train.objects_an_image == 0))
    if empty:
        sentences.append(f"{empty:,} training images ({empty / train.num_images:.1%}) have no object.")
    most_objects = int(train.objects_an_image.max(initial=0))
    sentences.append(f"One training image has {most_objects} objects; a model finds at most num_queries of them.")
    return sentences


def main(arguments: list[str]) -> int:
    """The command; returns its exit code."""
    if not arguments or {"-h", "--help"} & set(arguments):
        print(HELP, end="")
        return 0
    from neo_model.config.build import build_data  # an entry point's need; the functions above do without Hydra

    own = dict(argument.split("=", 1) for argument in arguments if argument.startswith(("out=", "samples=")))
    others = [argument for argument in arguments if not argument.startswith(("out=", "samples="))]
    try:
        samples = own.get("samples", "6")
        if not samples.isdecimal():
            raise UserError("samples", f"{samples!r} is not a whole number", "write samples=6")
        data = build_data(others)
        if not (data.train_annotations.is_file() and data.val_annotations.is_file()):
            data.prepare()
        out = Path(own.get("out") or Path("outputs", "dataset", redacted(data.name)))
        page = write_dataset_report(data, out, samples=int(samples))
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
        return 130
    print(f"report: {page}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
