import numpy as np
import pytest

from neo_model.evaluation import draw_detections

NOTHING = np.zeros((0, 4)), np.zeros(0), np.zeros(0)


@pytest.mark.parametrize("size", [(64, 64), (1080, 1920)])
def test_a_box_is_drawn_where_it_is_and_the_input_is_kept(size):
    height, width = size
    image = np.full((height, width, 3), 128, np.uint8)
    box = np.array([[width * 0.25, height * 0.5, width * 0.75, height * 0.9]])
    picture = draw_detections(image, box, [0], [0.9], ["car"])
    assert picture.shape == image.shape and picture.dtype == np.uint8
    assert (image == 128).all()
    changed = (picture != 128).any(-1)
    for x, y in ((0.25, 0.7), (0.75, 0.7), (0.5, 0.5), (0.5, 0.9)):
        assert changed[round(y * height), round(x * width)]
    assert not changed[round(0.7 * height), round(0.5 * width)]


def test_classes_have_their_own_colors_and_ground_truth_is_told_apart():
    image = np.full((200, 300, 3), 128, np.uint8)
    box = np.array([[50.0, 80.0, 250.0, 160.0]])
    pictures = [draw_detections(image, box, [label], [0.5], ["a", "b"]) for label in (0, 1)]
    edges = {tuple(picture[120, 50]) for picture in pictures}
    truth = draw_detections(image, *NOTHING, ["a", "b"], ground_truth=(box, [1]))
    assert len(edges) == 2
    assert (truth != 128).any()
    assert set(np.unique(truth[100:140, 50])) == {0, 255}


def test_boxes_outside_of_the_picture_and_other_scripts_do_no_harm():
    image = np.zeros((90, 160, 3), np.uint8)
    boxes = np.array([[-50.0, -50.0, 1000.0, 1000.0], [155.0, 85.0, 159.0, 89.0], [1e7, 1e7, 2e7, 2e7]])
    picture = draw_detections(image, boxes, [0, 0, 0], [0.1, 0.2, 0.3], ["größer 車"], ground_truth=(boxes, [0, 0, 0]))
    assert picture.shape == image.shape


def test_nothing_to_draw_gives_the_image_back():
    image = np.random.default_rng(0).integers(0, 255, (48, 64, 3)).astype(np.uint8)
    np.testing.assert_array_equal(draw_detections(image, *NOTHING, []), image)


def test_a_mirrored_view_of_an_image_can_be_drawn_on():
    image = np.zeros((48, 64, 3), np.uint8)[:, ::-1]
    assert draw_detections(image, [[4, 4, 40, 40]], [0], [1.0], ["a"]).any()
