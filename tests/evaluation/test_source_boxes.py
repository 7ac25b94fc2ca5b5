import math

import pytest
import torch

from neo_model.evaluation import source_boxes_xyxy
from neo_model.ops.boxes import xyxy_to_cxcywh
from neo_model.ops.geometry import letterbox, stretch


@pytest.mark.parametrize("place", [letterbox, stretch])
@pytest.mark.parametrize("source_wh", [(640, 480), (1280, 719), (333, 777)])
def test_boxes_come_back_to_a_hundredth_of_a_pixel(place, source_wh):
    network_wh = (1920, 1080)
    affine = place(source_wh, network_wh).affine
    boxes_xyxy = torch.tensor([[0.0, 0.0, *map(float, source_wh)], [10.25, 20.5, 200.75, 300.0]])
    normalised = xyxy_to_cxcywh(affine.apply(boxes_xyxy)) / torch.tensor(network_wh).repeat(2)
    back = source_boxes_xyxy(normalised, affine, network_wh, source_wh)
    torch.testing.assert_close(back, boxes_xyxy, atol=0.01, rtol=0)


def test_boxes_reaching_into_the_border_are_clipped_to_the_image_and_nan_stays():
    affine = letterbox((100, 100), (160, 90)).affine
    boxes = torch.tensor([[0.5, 0.5, 1.0, 1.0], [math.nan, 0.5, 0.1, 0.1]])
    back = source_boxes_xyxy(boxes, affine, (160, 90), (100, 100))
    torch.testing.assert_close(back[0], torch.tensor([0.0, 0.0, 100.0, 100.0]))
    assert back[1].isnan().any()
