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
        ((1, 1), "128x72"),
    ],
)
def test_other_shapes_are_refused_with_the_nearest_sizes(size, nearest):
    with pytest.raises(UserError, match=f"{size[0]}x{size[1]}: is not 16:9; use {nearest}, or set data") as caught:
        Resolution(width=size[0], height=size[1])
    assert str(caught.value).endswith("or set data.resolution.any_aspect=true")


def test_sides_under_64_pixels_are_refused():
    assert Resolution(width=128, height=72).size == (128, 72)
    with pytest.raises(UserError, match="112x63: has a side under 64 pixels; use a larger one"):
        Resolution(width=112, height=63)
    with pytest.raises(UserError, match="64x63: has a side under 64"):
        Resolution(width=640, height=640, any_aspect=True, train_sizes=[[64, 63], [640, 640]])


def test_every_training_size_is_checked():
    with pytest.raises(UserError, match="1600x896: is not 16:9"):
        Resolution(width=1600, height=900, train_sizes=[[1600, 900], [1600, 896]])


@pytest.mark.parametrize("sizes", [[], [[480]], [[480, 270, 3]], [[0, 0]]])
def test_malformed_training_sizes(sizes):
    with pytest.raises(UserError, match="train_sizes"):
        Resolution(width=480, height=270, train_sizes=sizes)


@pytest.mark.parametrize("size", [(480, 270), (2400, 1350)])
def test_a_size_outside_the_training_sizes_is_refused(size):
    sizes = [[1600, 900], [2240, 1260], [1920, 1080]]
    wanted = "train_sizes, 1600x900 to 2240x1260; add data.resolution.train_sizes=null"
    with pytest.raises(UserError, match=f"data/resolution {size[0]}x{size[1]}: .* {wanted}"):
        Resolution(width=size[0], height=size[1], train_sizes=sizes)
    assert Resolution(width=1760, height=990, train_sizes=sizes).size == (1760, 990)


def test_any_aspect_permits_squares():
    assert Resolution(width=640, height=640, any_aspect=True).size == (640, 640)


def test_training_sizes_until_an_epoch():
    sizes = [[480, 270], [640, 360], [640, 360]]
    resolution = Resolution(width=480, height=270, train_sizes=sizes, multiscale_until=3)
    assert resolution.sizes_at(2) == [(480, 270), (640, 360), (640, 360)]
    assert resolution.sizes_at(3) == [(480, 270)]
    assert len(Resolution(width=480, height=270, train_sizes=sizes).sizes_at(1000)) == 3
    assert Resolution(width=480, height=270).sizes_at(0) == [(480, 270)]


def test_the_largest_size_is_the_one_of_most_pixels():
    sizes = [[320, 320], [400, 100]]
    assert Resolution(width=350, height=350, train_sizes=sizes, any_aspect=True).largest_wh == (350, 350)
    assert Resolution(width=330, height=80, train_sizes=sizes, any_aspect=True).largest_wh == (320, 320)
    assert Resolution(width=480, height=270).largest_wh == (480, 270)
