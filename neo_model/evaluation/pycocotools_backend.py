"""pycocotools on the arrays of ``average_precision``: the reference, which takes many times as long."""

import contextlib
import io

import numpy as np

from neo_model.evaluation.matching import FoundArrays, TruthArrays


def precision_and_recall(
    truth: TruthArrays, found: FoundArrays, *, num_images: int, num_classes: int
) -> tuple[np.ndarray, np.ndarray]:
    """As ``average_precision.precision_and_recall``, by pycocotools itself."""
    from pycocotools.cocoeval import COCOeval

    # Ids from 1, because 0 means "unmatched" to pycocotools.
    objects = [
        {"id": i, "image_id": image, "category_id": of_class, "bbox": box_xywh, "area": area, "iscrowd": int(crowd)}
        for i, (image, of_class, box_xywh, area, crowd) in enumerate(_rows(truth), start=1)
    ]
    results = [
        {"id": i, "image_id": image, "category_id": of_class, "bbox": box_xywh, "score": score,
         "area": box_xywh[2] * box_xywh[3], "iscrowd": 0}
        for i, (image, of_class, box_xywh, score) in enumerate(_rows(found), start=1)
    ]  # fmt: skip
    with contextlib.redirect_stdout(io.StringIO()):
        evaluation = COCOeval(*(_index(rows, num_images, num_classes) for rows in (objects, results)), "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
    # Precision [T, R, K, A, M] and recall [T, K, A, M]; -1 is "undefined".
    precision, recall = evaluation.eval["precision"][..., -1], evaluation.eval["recall"]
    return np.where(precision < 0, np.nan, precision), np.where(recall < 0, np.nan, recall)


def _rows(arrays: TruthArrays | FoundArrays) -> zip:
    return zip(*(values.tolist() for values in vars(arrays).values()), strict=True)


def _index(annotations: list[dict], num_images: int, num_classes: int):
    """A pycocotools data set of these annotations."""
    from pycocotools.coco import COCO

    coco = COCO()
    coco.dataset = {
        "images": [{"id": image} for image in range(num_images)],
        "categories": [{"id": of_class} for of_class in range(num_classes)],
        "annotations": annotations,
    }
    coco.createIndex()
    return coco
