import numpy as np
import pytest
import torch

from neo_model.ops.geometry import Placement, Rectangle, letterbox, stretch, view

SIZES = [(1920, 1080), (640, 480), (480, 640), (333, 777), (4000, 31), (1, 1), (1919, 1079)]
TARGETS = [(1920, 1080), (480, 270), (640, 640)]


def random_boxes(source_wh, seed=0):
    corners = np.random.default_rng(seed).uniform(0, 1, (50, 2, 2)) * source_wh
    return np.concatenate([corners.min(1), corners.max(1)], axis=1)


@pytest.mark.parametrize("fit", [letterbox, stretch])
@pytest.mark.parametrize("source_wh", SIZES)
@pytest.mark.parametrize("target_wh", TARGETS)
def test_boxes_come_back_to_a_hundredth_of_a_pixel(fit, source_wh, target_wh):
    affine = fit(source_wh, target_wh).affine
    boxes = random_boxes(source_wh)
    for there in (boxes, boxes.astype(np.float32), torch.tensor(boxes, dtype=torch.float32)):
        mapped = affine.apply(there)
        assert mapped.dtype == there.dtype
        np.testing.assert_allclose(np.asarray(affine.invert(mapped)), boxes, atol=0.01)


@pytest.mark.parametrize("source_wh", SIZES)
@pytest.mark.parametrize("target_wh", TARGETS)
def test_the_image_edges_land_on_the_edges_of_the_pasted_rectangle(source_wh, target_wh):
    placement = letterbox(source_wh, target_wh)
    corners = placement.affine.apply(np.array([0.0, 0.0, *source_wh]))
    x, y, width, height = placement.target
    np.testing.assert_allclose(corners, [x, y, x + width, y + height], atol=1e-9)
    assert x >= 0 and y >= 0 and x + width <= target_wh[0] and y + height <= target_wh[1]


def test_letterbox_centres_a_4_3_image_and_keeps_its_shape():
    placement = letterbox((640, 480), (1920, 1080))
    assert placement.target == Rectangle(240, 0, 1440, 1080)
    assert placement.affine.scale_x == placement.affine.scale_y == 2.25


def test_a_16_9_image_fills_a_16_9_input():
    assert letterbox((1920, 1080), (480, 270)).target == Rectangle(0, 0, 480, 270)


def test_letterbox_never_distorts_by_more_than_the_rounding():
    placement = letterbox((333, 777), (480, 270))
    assert abs(placement.target.width - 333 * 270 / 777) <= 0.5
    assert placement.target.height == 270


def test_stretch_scales_each_axis_on_its_own():
    affine = stretch((640, 480), (320, 320)).affine
    assert (affine.scale_x, affine.offset_x) == (0.5, 0)
    assert affine.scale_y == pytest.approx(2 / 3)


def test_mirroring_maps_left_to_right_and_back():
    placement = Placement(Rectangle(0, 0, 100, 50), Rectangle(10, 0, 200, 100), canvas_width=250, mirrored=True)
    box = np.array([[0.0, 0.0, 10.0, 5.0]])
    mapped = placement.affine.apply(box)
    np.testing.assert_allclose(mapped, [[220.0, 0.0, 240.0, 10.0]])
    np.testing.assert_allclose(placement.affine.invert(mapped), box)


def test_a_window_inside_the_image_fills_the_input():
    placement = view((1920, 1080), (480.0, 270.0, 1440.0, 810.0), (480, 270))
    assert placement.source == Rectangle(480, 270, 960, 540)
    assert placement.target == Rectangle(0, 0, 480, 270)


def test_a_window_larger_than_the_image_leaves_a_border():
    placement = view((1920, 1080), (-1920.0, 0.0, 1920.0, 2160.0), (480, 270))
    assert placement.source == Rectangle(0, 0, 1920, 1080)
    assert placement.target == Rectangle(240, 0, 240, 135)


def test_any_overlapping_window_gives_whole_pixels_inside_image_and_input():
    generator = np.random.default_rng(1)
    for _ in range(300):
        source_wh = tuple(int(size) for size in generator.integers(1, 2000, 2))
        centre = generator.uniform(0, 1, 2) * source_wh
        half = np.exp(generator.uniform(0, 8, 2))
        placement = view(source_wh, (*(centre - half), *(centre + half)), (480, 270))
        for rectangle, limits in ((placement.source, source_wh), (placement.target, (480, 270))):
            assert rectangle.x >= 0 and rectangle.width >= 1 and rectangle.x + rectangle.width <= limits[0]
            assert rectangle.y >= 0 and rectangle.height >= 1 and rectangle.y + rectangle.height <= limits[1]
