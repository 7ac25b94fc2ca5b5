import pytest

from neo_model.data import Resolution
from neo_model.utils import UserError


@pytest.mark.parametrize("size", [(480, 270), (640, 360), (1600, 900), (1760, 990), (2080, 1170), (2240, 1260)])
def test_16_9_sizes_pass(size):
    assert Resolution(width=size[0], height=size[1]).size == size


@pytest.mark.parametrize(
    ("size", "nearest"),
    [
        ((1280, 704), "1248x702 or 1280x720"),
        ((1920, 1088), "1920x1080 or 1936x1089"),
        ((640, 640), "640x360 or 1136x639"),
        ((1081, 1920), "1088x612 or 3408x1917"),
        ((1, 1), "16x9"),
    ],
)
def test_other_shapes_are_refused_with_the_nearest_sizes(size, nearest):
    with pytest.raises(UserError, match=f"{size[0]}x{size[1]}: is not 16:9; use {nearest}"):
        Resolution(width=size[0], height=size[1])


def test_every_training_size_is_checked():
    with pytest.raises(UserError, match="1600x896: is not 16:9"):
        Resolution(width=1600, height=900, train_sizes=[[1600, 900], [1600, 896]])


@pytest.mark.parametrize("sizes", [[], [[480]], [[480, 270, 3]], [[0, 0]]])
def test_malformed_training_sizes(sizes):
    with pytest.raises(UserError, match="train_sizes"):
        Resolution(width=480, height=270, train_sizes=sizes)


def test_any_aspect_permits_squares():
    assert Resolution(width=640, height=640, any_aspect=True).size == (640, 640)


def test_training_sizes_until_an_epoch():
    sizes = [[480, 270], [640, 360], [640, 360]]
    resolution = Resolution(width=480, height=270, train_sizes=sizes, multiscale_until=3)
    assert resolution.sizes_at(2) == [(480, 270), (640, 360), (640, 360)]
    assert resolution.sizes_at(3) == [(480, 270)]
    assert len(Resolution(width=480, height=270, train_sizes=sizes).sizes_at(1000)) == 3
    assert Resolution(width=480, height=270).sizes_at(0) == [(480, 270)]
