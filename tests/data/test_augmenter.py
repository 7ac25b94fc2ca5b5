"""The pipeline as a whole: what a seed decides, what the user's own transforms may do, and what is refused."""

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from neo_model.data.augmenter import Augmenter
from neo_model.data.transforms import FITS, Augmentation, place_objects, random_placement, render
from neo_model.utils import UserError

SOURCE_WH, TARGET_WH = (240, 135), (320, 180)
BOXES = np.array([[100, 40, 140, 90], [5, 5, 30, 25]], np.float32)
RTDETR = {"photometric": 0.5, "zoom_out": 0.5, "iou_crop": 0.8, "flip": 0.5}


def picture(seed=0):
    return np.random.default_rng(seed).integers(60, 180, (SOURCE_WH[1], SOURCE_WH[0], 3), np.uint8)


def augmented(augmenter, seed=0, strong=True, boxes=BOXES):
    canvas = np.full((TARGET_WH[1], TARGET_WH[0], 3), 77, np.uint8)
    generator = np.random.default_rng(seed)
    placed_xyxy, kept, _ = augmenter(picture(), boxes, canvas, generator=generator, strong=strong)
    return canvas, placed_xyxy, kept


def make(fit="letterbox", **augment):
    return Augmenter(Augmentation(**augment), fit=fit, smallest_side=1.0)


@pytest.mark.parametrize("augment", [RTDETR, {"color": 0.8}, {"flip": 0.5, "extra": {"Rotate": {"p": 0.5}}}])
def test_a_sample_depends_on_its_generator_only_in_any_thread(augment):
    first, second = make(**augment), make(**augment)
    augmented(second, seed=99)
    samples = [augmented(first, seed) for seed in range(12)]
    with ThreadPoolExecutor(3) as pool:
        again = list(pool.map(lambda seed: augmented(second, seed), range(12)))
    for sample, other in zip(samples, again, strict=True):
        for value, other_value in zip(sample, other, strict=True):
            np.testing.assert_array_equal(value, other_value)
    assert len({canvas.tobytes() for canvas, *_ in samples}) > 6


@pytest.mark.parametrize("fit", ["letterbox", "stretch"])
def test_the_frame_is_what_its_plain_functions_give(fit):
    augment = Augmentation(zoom_out=0.5, iou_crop=0.8, flip=0.5)
    for seed in range(30):
        canvas, placed_xyxy, kept = augmented(make(fit, zoom_out=0.5, iou_crop=0.8, flip=0.5), seed)
        generator = np.random.default_rng(seed)
        generator.integers(2**63)
        whole = FITS[fit](SOURCE_WH, TARGET_WH)
        placement = random_placement(generator, augment, True, BOXES, whole, TARGET_WH, fit)
        expected = np.empty_like(canvas)
        render(picture(), placement, expected)
        np.testing.assert_array_equal(canvas, expected)
        expected_xyxy, mask = place_objects(BOXES, placement, smallest_side=1.0)
        np.testing.assert_array_equal(kept, np.flatnonzero(mask))
        np.testing.assert_allclose(placed_xyxy, expected_xyxy, atol=1e-3)


def test_images_without_objects_are_augmented_too():
    canvas, placed_xyxy, kept = augmented(make(**RTDETR), boxes=np.empty((0, 4), np.float32))
    assert placed_xyxy.shape == (0, 4) and kept.shape == (0,) and kept.dtype == np.int64
    assert (canvas != 77).any()


def test_a_transform_of_albumentations_changes_picture_and_boxes_while_augmentation_is_strong():
    plain, upside_down = make(), make(extra={"VerticalFlip": {"p": 1.0}})
    canvas, placed_xyxy, kept = augmented(plain)
    turned, turned_xyxy, turned_kept = augmented(upside_down)
    np.testing.assert_array_equal(turned, canvas[::-1])
    np.testing.assert_array_equal(turned_kept, kept)
    np.testing.assert_allclose(turned_xyxy[:, [0, 2]], placed_xyxy[:, [0, 2]], atol=1e-3)
    np.testing.assert_allclose(turned_xyxy[:, [1, 3]], TARGET_WH[1] - placed_xyxy[:, [3, 1]], atol=1e-3)
    np.testing.assert_array_equal(augmented(upside_down, strong=False)[0], canvas)


def test_objects_that_a_transform_moves_out_of_the_picture_are_dropped():
    moved = make(extra={"Affine": {"translate_px": {"x": -90, "y": 0}, "p": 1.0}})
    canvas, placed_xyxy, kept = augmented(moved)
    assert kept.tolist() == [0]
    np.testing.assert_allclose(placed_xyxy, BOXES[:1] * 4 / 3 - [90, 0, 90, 0], atol=1e-3)


@pytest.mark.parametrize(
    ("extra", "where", "words"),
    [
        ({"Blurr": {}}, "data.augment.extra.Blurr", "no such transform"),
        ({"Compose": {"transforms": []}}, "data.augment.extra.Compose", "no such transform"),
        ({"Blur": {"radius": 3}}, "data.augment.extra.Blur", "'radius'"),
        ({"Blur": {"p": 7}}, "data.augment.extra.Blur", "p: Input should be less than or equal to 1"),
        ({"RandomCrop": {"height": 32, "width": 32}}, "data.augment.extra.RandomCrop", "keep size and type"),
        ({"ToFloat": {}}, "data.augment.extra.ToFloat", "keep size and type"),
        ({"Lambda": {"image": "os.system"}}, "data.augment.extra.Lambda", "does not run here"),
    ],
)
def test_a_transform_that_cannot_be_used_is_refused_by_name(extra, where, words):
    with pytest.raises(UserError) as error:
        Augmentation(extra=extra)
    assert error.value.where == where and words in str(error.value)


def test_the_nearest_transform_is_suggested():
    with pytest.raises(UserError, match="did you mean GaussianBlur"):
        Augmentation(extra={"GausianBlur": {}})


def test_albumentations_is_imported_only_where_it_is_used(tmp_path):
    code = "import sys, neo_model.data as d; d.Augmentation(flip=0.5); sys.exit('albumentations' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=tmp_path, env=os.environ)
