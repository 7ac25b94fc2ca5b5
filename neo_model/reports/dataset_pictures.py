"""The pictures of a data set: what there is, how large, where, and what augmentation makes of it."""

from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter

from neo_model.data.dataset import DetectionDataset, SampleRequest
from neo_model.evaluation.pictures import draw_objects
from neo_model.ops.boxes import cxcywh_to_xyxy
from neo_model.reports.charts import BLUE, GREEN, GREY, SKY, VERMILION, figure, save, subplots
from neo_model.reports.dataset_statistics import SMALL_SIDES, SplitStatistics

MOST_CLASSES = 40
MOST_SIZES = 8
VARIANTS = 2  # of each sample, augmented
SAMPLE_WIDTH = 5.0  # inches


def draw_classes(train: SplitStatistics, val: SplitStatistics, names: list[str], path: Path) -> None:
    """Boxes a class, on a logarithmic scale, most frequent first."""
    order = np.argsort(-train.boxes, kind="stable")[:MOST_CLASSES]
    drawn, (axis,) = subplots(1, 1, width=9, height=1.2 + 0.27 * len(order))
    places = np.arange(len(order))
    axis.barh(places, train.boxes[order], color=BLUE, label="training")
    axis.plot(val.boxes[order], places, "D", color=VERMILION, ms=5, label="validation")
    axis.set_yticks(places, [names[k][:28] for k in order])
    axis.invert_yaxis()
    axis.set_xscale("symlog", linthresh=1)
    axis.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
    axis.set_xlabel("boxes")
    axis.grid(axis="y", visible=False)
    axis.legend(frameon=False)
    left_out = f", the first {MOST_CLASSES} of {len(names)}" if len(names) > MOST_CLASSES else ""
    axis.set_title(f"Boxes of each class{left_out}", loc="left")
    save(drawn, path)


def draw_sizes(train: SplitStatistics, size: str, path: Path) -> None:
    """How large boxes are in the input, and how that depends on it."""
    drawn, (histogram, curves) = subplots(1, 2, width=12, height=4.4)
    edges = 2 ** np.arange(0, 11.01, 0.25)
    histogram.stairs(np.histogram(np.clip(train.sizes, edges[0], edges[-1]), edges)[0], edges, fill=True, color=SKY)
    histogram.set_xscale("log", base=2)
    histogram.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    histogram.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
    for side, part in zip(SMALL_SIDES, train.small_parts(), strict=True):
        histogram.axvline(side, color=VERMILION, lw=1.2)
        histogram.annotate(f"{part:.0%} under", (side, 0.98), xycoords=("data", "axes fraction"), xytext=(-3, 0),
                           textcoords="offset points", rotation=90, ha="right", va="top", fontsize=10,
                           bbox={"facecolor": "white", "edgecolor": "none", "pad": 1})  # fmt: skip
    histogram.set_xlabel(f"square root of a box's area (pixels of the {size} input)")
    histogram.set_ylabel("boxes")
    histogram.set_title("Sizes of boxes as the network sees them", loc="left")
    widths = list(train.small)
    for number, (side, color) in enumerate(zip(SMALL_SIDES, (VERMILION, BLUE, GREEN), strict=True)):
        parts = [100 * train.small[width][number] for width in widths]
        curves.plot(widths, parts, "o-", color=color, label=f"under {side} px")
    curves.set_xticks(widths, [f"{width}x\n{width * 9 // 16}" for width in widths])
    curves.set_xlabel("input size (pixels)")
    curves.set_ylabel("boxes (%)")
    curves.set_ylim(bottom=0)
    curves.legend(frameon=False)
    curves.set_title("Small boxes at other input sizes", loc="left")
    save(drawn, path)


def draw_shapes(train: SplitStatistics, path: Path) -> None:
    """Aspect of the boxes, and where their centres are."""
    drawn, (aspects, places) = subplots(1, 2, width=12, height=4.2)
    edges = 2 ** np.arange(-4, 4.01, 0.25)
    aspects.stairs(np.histogram(np.clip(train.aspects, edges[0], edges[-1]), edges)[0], edges, fill=True, color=SKY)
    aspects.axvline(1, color=GREY, lw=1.2, ls="--")
    aspects.set_xscale("log", base=2)
    aspects.set_xticks([1 / 8, 1 / 4, 1 / 2, 1, 2, 4, 8], ["1:8", "1:4", "1:2", "1:1", "2:1", "4:1", "8:1"])
    aspects.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
    aspects.set_xlabel("width : height")
    aspects.set_ylabel("boxes")
    aspects.set_title("Shapes of boxes", loc="left")
    shown = places.imshow(train.places, extent=(0, 1, 1, 0), aspect=9 / 16, cmap="cividis", interpolation="nearest")
    drawn.colorbar(shown, ax=places, label="box centres in a cell")
    places.grid(visible=False)
    places.set_xlabel("part of the image's width")
    places.set_ylabel("part of the image's height")
    places.set_title("Where boxes are", loc="left")
    save(drawn, path)


def draw_images(train: SplitStatistics, path: Path) -> None:
    """Sizes of the images, and how many objects they have."""
    drawn, (sizes, objects) = subplots(1, 2, width=12, height=4.2)
    _bars_of_sizes(sizes, train)
    most = int(train.objects_an_image.max(initial=0))
    step = max(1, -(-most // 40))
    edges = np.arange(0, most + step + 1, step) - (0.5 if step == 1 else 0)
    objects.stairs(np.histogram(train.objects_an_image, edges)[0], edges, fill=True, color=SKY)
    objects.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
    objects.set_xlabel("objects in an image")
    objects.set_ylabel("images")
    objects.set_title(f"Objects in an image: {train.objects_an_image.mean():.1f} on average, {most} at most", loc="left")
    save(drawn, path)


def _bars_of_sizes(axis: Axes, train: SplitStatistics) -> None:
    shown = train.image_sizes[:MOST_SIZES]
    names, counts = [f"{w}x{h}" for (w, h), _ in shown], [count for _, count in shown]
    if rest := train.image_sizes[MOST_SIZES:]:
        names.append(f"{len(rest):,} others")
        counts.append(sum(count for _, count in rest))
    axis.barh(range(len(names)), counts, color=BLUE)
    axis.set_yticks(range(len(names)), names)
    axis.set_ylim(max(len(names), 4) - 0.5, -0.5)  # a single bar need not fill the picture
    axis.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
    axis.grid(axis="y", visible=False)
    axis.set_xlabel("images")
    axis.set_title("Sizes of the image files (pixels)", loc="left")


def draw_samples(dataset: DetectionDataset, count: int, path: Path) -> int:
    """Training images as evaluation would see them and, beside each, as training may.

    Args:
        dataset: the training set.
        count: at most so many, spread over the set.
        path: the picture.

    Returns:
        how many there are in it; without any there is no picture.

    Raises:
        UserError: an image cannot be read.
    """
    indices = dataset.instances.indices_with_objects(len(dataset))
    if not len(indices):
        return 0
    chosen = indices[np.linspace(0, len(indices) - 1, min(count, len(indices))).astype(int)]
    width, height = dataset.size_wh
    drawn = figure((1 + VARIANTS) * SAMPLE_WIDTH, len(chosen) * SAMPLE_WIDTH * height / width + 0.5)
    axes = drawn.subplots(len(chosen), 1 + VARIANTS, squeeze=False)
    for row, index in zip(axes, chosen.tolist(), strict=True):
        requests = [SampleRequest(index, width, height)]
        requests += [SampleRequest(index, width, height, 0, epoch, True) for epoch in range(VARIANTS)]
        for axis, request in zip(row, requests, strict=True):
            image, target = dataset[request]
            boxes_xyxy = cxcywh_to_xyxy(target["boxes"]).numpy() * (width, height, width, height)
            picture = image.permute(1, 2, 0).numpy()
            names = dataset.instances.classes.names
            axis.imshow(draw_objects(picture, boxes_xyxy, target["labels"].numpy(), names), interpolation="antialiased")
            axis.set_axis_off()
    axes[0, 0].set_title("as evaluation sees it", loc="left")
    for variant in range(VARIANTS):
        axes[0, 1 + variant].set_title(f"as training may see it in epoch {variant + 1}", loc="left")
    save(drawn, path)
    return len(chosen)
