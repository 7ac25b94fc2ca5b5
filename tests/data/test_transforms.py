"""Augmentation, judged by what is in the picture: objects painted in plain colours must be where their boxes say."""

from dataclasses import replace

import cv2
import numpy as np
import pytest
import torch

from neo_model.data.transforms import (
    FITS,
    Augmentation,
    as_targets,
    cropped,
    place_objects,
    random_placement,
    render,
    zoomed_out,
)

BACKGROUND, OBJECT = (60, 60, 60), (230, 40, 200)


def scene(source_wh, box_xyxy):
    image = np.full((source_wh[1], source_wh[0], 3), BACKGROUND, np.uint8)
    x0, y0, x1, y1 = box_xyxy
    image[y0:y1, x0:x1] = OBJECT
    return image, np.array([box_xyxy], np.float32)


def painted_xyxy(canvas):
    """Extent of the object's colour in a [3, H, W] picture."""
    distance = np.abs(canvas.numpy().astype(int) - np.reshape(OBJECT, (3, 1, 1))).max(axis=0)
    rows, columns = np.nonzero(distance < 90)
    return np.array([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1])


def drawn(image, placement, target_wh, recolor=None):
    """A [3, H, W] picture, on a canvas that held something else before."""
    canvas = np.full((target_wh[1], target_wh[0], 3), 77, np.uint8)
    render(image, placement, canvas, recolor)
    return torch.from_numpy(canvas).permute(2, 0, 1)


def sample(image, boxes, augment, seed, target_wh, fit, strong=True):
    source_wh = image.shape[1], image.shape[0]
    whole = FITS[fit](source_wh, target_wh)
    generator = np.random.default_rng(seed)
    placement = random_placement(generator, augment, strong, boxes, whole, target_wh, fit)
    placed_xyxy, kept = place_objects(boxes, placement, smallest_side=1.0)
    return drawn(image, placement, target_wh), as_targets(placed_xyxy, target_wh), kept, placement


def to_pixels(box_cxcywh, target_wh):
    centre, half = box_cxcywh[:2] * target_wh, box_cxcywh[2:] * target_wh / 2
    return np.concatenate([centre - half, centre + half])


@pytest.mark.parametrize("fit", ["letterbox", "stretch"])
@pytest.mark.parametrize("source_wh", [(320, 180), (240, 180), (101, 203)])
def test_boxes_stay_on_their_objects_through_every_augmentation(fit, source_wh):
    target_wh = (256, 144)
    augment = Augmentation(zoom_out=0.5, iou_crop=0.8, flip=0.5)
    generator = np.random.default_rng(0)
    seen = 0
    for seed in range(150):
        corner = generator.integers(0, np.array(source_wh) - 41)
        side = generator.integers(20, 40, 2)
        image, boxes = scene(source_wh, (*corner.tolist(), *(corner + side).tolist()))
        canvas, boxes_cxcywh, kept, _ = sample(image, boxes, augment, seed, target_wh, fit)
        assert canvas.shape == (3, 144, 256)
        if kept[0]:
            np.testing.assert_allclose(painted_xyxy(canvas), to_pixels(boxes_cxcywh[0], target_wh), atol=1.5)
            seen += 1
    assert seen == 150  # the only object is never cropped away


def test_letterbox_keeps_a_square_square_in_every_crop():
    augment = Augmentation(zoom_out=0.5, iou_crop=1, flip=0.5)
    image, boxes = scene((400, 300), (150, 100, 250, 200))
    for seed in range(100):
        affine = sample(image, boxes, augment, seed, (640, 360), "letterbox")[3].affine
        assert abs(affine.scale_x) == pytest.approx(affine.scale_y, rel=0.02)


def test_without_augmentation_the_picture_is_the_letterboxed_image():
    image, boxes = scene((240, 180), (60, 60, 120, 120))
    canvas, boxes_cxcywh, _, placement = sample(image, boxes, Augmentation(), 0, (320, 180), "letterbox")
    assert not placement.mirrored
    np.testing.assert_array_equal(canvas[:, :, 40:280].permute(1, 2, 0).numpy(), image)
    assert not canvas[:, :, :40].any() and not canvas[:, :, 280:].any()
    np.testing.assert_allclose(boxes_cxcywh, [[130 / 320, 90 / 180, 60 / 320, 60 / 180]], rtol=1e-6)


def test_flip_mirrors_the_picture_including_its_borders():
    image, boxes = scene((240, 180), (0, 60, 120, 120))
    plain = sample(image, boxes, Augmentation(), 0, (321, 180), "letterbox")[0]
    flipped = sample(image, boxes, Augmentation(flip=1), 0, (321, 180), "letterbox")[0]
    np.testing.assert_array_equal(flipped, plain.flip(2))


def test_only_the_flip_stays_when_augmentation_is_weak():
    image, boxes = scene((320, 180), (10, 20, 100, 120))
    augment = Augmentation(zoom_out=1, iou_crop=1, flip=1)
    weak = sample(image, boxes, augment, 0, (320, 180), "letterbox", strong=False)[0]
    np.testing.assert_array_equal(weak.permute(1, 2, 0).numpy(), image[:, ::-1])
    assert not Augmentation(until=3).is_strong_at(3) and Augmentation(until=3).is_strong_at(2)
    assert Augmentation().is_strong_at(10**6)


def test_zoom_out_shows_the_whole_image_at_1_to_a_quarter_of_its_size():
    generator = np.random.default_rng(0)
    window = np.array([-40.0, 0.0, 280.0, 180.0])
    ratios = []
    for _ in range(200):
        low, high = np.split(zoomed_out(generator, window), 2)
        assert (low <= window[:2]).all() and (high >= window[2:]).all()
        ratio = (high - low) / (320, 180)
        assert ratio[0] == pytest.approx(ratio[1])
        ratios.append(ratio[0])
    assert 1 <= min(ratios) < 1.1 and 3.9 < max(ratios) <= 4


@pytest.mark.parametrize("keep_shape", [True, False])
def test_a_crop_is_part_of_the_window_and_holds_the_centre_of_an_object(keep_shape):
    generator = np.random.default_rng(0)
    window = np.array([0.0, 0.0, 320.0, 180.0])
    boxes = np.array([[10, 10, 50, 50], [200, 100, 300, 170]], np.float32)
    centres = (boxes[:, :2] + boxes[:, 2:]) / 2
    untouched = 0
    for _ in range(200):
        crop = cropped(generator, window, boxes, keep_shape)
        untouched += (crop == window).all()
        assert (crop[:2] >= 0).all() and (crop[2:] <= window[2:]).all()
        assert ((centres > crop[:2]) & (centres < crop[2:])).all(axis=1).any()
        width, height = crop[2:] - crop[:2]
        assert width >= 0.3 * 320 and height >= 0.3 * 180
        assert width / height == pytest.approx(16 / 9) if keep_shape else 0.5 <= width / height <= 2
    assert 0 < untouched < 150


def test_a_crop_of_an_image_without_objects_is_the_image():
    window = np.array([0.0, 0.0, 320.0, 180.0])
    assert cropped(np.random.default_rng(0), window, np.empty((0, 4), np.float32), True) is window


def test_objects_whose_centre_is_cropped_away_and_slivers_are_dropped():
    whole = FITS["stretch"]((100, 100), (10, 10))
    boxes = np.array([[0, 0, 50, 50], [10, 10, 15, 90], [90, 90, 100, 100]], np.float32)
    placed_xyxy, kept = place_objects(boxes, whole, smallest_side=1.0)
    assert kept.tolist() == [True, False, True]
    np.testing.assert_allclose(as_targets(placed_xyxy, (10, 10)), [[0.25, 0.25, 0.5, 0.5], [0.95, 0.95, 0.1, 0.1]], atol=1e-6)
    assert place_objects(boxes, whole, smallest_side=0.0)[1].all()


def test_shrinking_to_a_quarter_averages_instead_of_skipping_pixels():
    image = np.zeros((180, 320, 3), np.uint8)
    image[::4, ::4] = 160
    canvas = drawn(image, FITS["letterbox"]((320, 180), (80, 45)), (80, 45))
    np.testing.assert_array_equal(canvas, np.full((3, 45, 80), 10, np.uint8))


def test_recolouring_leaves_the_border_black():
    image, _ = scene((240, 180), (60, 60, 120, 120))
    canvas = drawn(image, FITS["letterbox"]((240, 180), (320, 180)), (320, 180), recolor=cv2.bitwise_not)
    assert not canvas[:, :, :40].any()
    np.testing.assert_array_equal(canvas[:, :, 40:280].permute(1, 2, 0).numpy(), 255 - image)


@pytest.mark.parametrize("mirrored", [False, True])
@pytest.mark.parametrize("recolor", [None, cv2.bitwise_not])
@pytest.mark.parametrize("source_wh", [(64, 48), (321, 180), (500, 300), (900, 400), (320, 180)])
def test_the_order_of_resizing_colouring_and_mirroring_is_only_a_matter_of_time(source_wh, recolor, mirrored):
    target_wh = (320, 180)
    noise = np.random.default_rng(0).integers(0, 255, (source_wh[1] // 4, source_wh[0] // 4, 3), np.uint8)
    image = cv2.resize(noise, source_wh)
    placement = replace(FITS["letterbox"](source_wh, target_wh), mirrored=mirrored)
    target = placement.target
    shrinks = source_wh[0] > 2 * target.width
    resized = cv2.resize(
        image, (target.width, target.height), interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
    )
    expected = np.zeros((180, 320, 3), np.uint8)
    expected[target.rows, target.columns] = resized if recolor is None else recolor(resized)
    expected = expected[:, ::-1] if mirrored else expected
    result = drawn(image, placement, target_wh, recolor).permute(1, 2, 0).numpy()
    np.testing.assert_allclose(result.astype(int), expected, atol=1)
