import numpy as np
import pytest

from neo_model.data.colors import ColorMatrix

NOTHING = {"brightness": 0.0, "contrast": 0.0, "saturation": 0.0, "hue": 0.0}


def picture(seed=0, low=60, high=180):
    return np.random.default_rng(seed).integers(low, high, (40, 60, 3), np.uint8)


def changed(image, seed=0, **options):
    transform = ColorMatrix(**{**NOTHING, **options})
    transform.set_random_seed(seed)
    return transform(image=image)["image"]


def luma(image):
    return image @ np.array([0.299, 0.587, 0.114])


def test_no_change_is_the_identity():
    np.testing.assert_array_equal(changed(picture()), picture())


def test_brightness_is_a_common_factor():
    result = changed(picture(), brightness=0.3)
    factors = result / picture()
    assert 0.7 <= factors.mean() <= 1.3 and factors.mean() != pytest.approx(1, abs=1e-3)
    assert factors.std() < 0.01


def test_contrast_scales_the_distance_from_the_mean_grey():
    image = picture()
    result = changed(image, contrast=0.5)
    grey = luma(image).mean()
    slope = ((result - grey) * (image - grey)).sum() / ((image - grey) ** 2).sum()
    assert 0.5 <= slope <= 1.5 and abs(slope - 1) > 1e-3
    np.testing.assert_allclose(result, np.clip(grey + slope * (image - grey), 0, 255), atol=1)


@pytest.mark.parametrize("options", [{"saturation": 0.5}, {"hue": 0.1}])
def test_saturation_and_hue_leave_grey_and_brightness_alone(options):
    image = picture(low=90, high=160)
    grey = np.repeat(image[..., :1], 3, axis=2)
    np.testing.assert_allclose(changed(grey, **options), grey, atol=1)
    result = changed(image, seed=1, **options)
    assert np.abs(result.astype(int) - image).max() > 2
    np.testing.assert_allclose(luma(result), luma(image), atol=1.5)


def test_a_third_of_a_turn_of_the_hue_makes_red_green_or_blue():
    red = np.full((8, 8, 3), (150, 90, 90), np.uint8)
    strongest = {int(changed(red, seed, hue=1 / 3)[0, 0].argmax()) for seed in range(40)}
    assert strongest == {0, 1, 2}


def test_a_channel_swap_permutes():
    image = picture()
    orders = set()
    for seed in range(40):
        result = changed(image, seed, swap_channels=True)
        order = tuple(int(np.abs(result[..., [c]].astype(int) - image).sum((0, 1)).argmin()) for c in range(3))
        np.testing.assert_array_equal(result, image[..., list(order)])
        orders.add(order)
    assert len(orders) == 6


def test_channels_are_swapped_after_early_and_late_contrast_alike():
    image = np.full((8, 8, 3), (150, 100, 60), np.uint8)
    grey, levels = luma(image).mean(), np.array([60, 100, 150])
    orders = set()
    for seed in range(40):
        result = changed(image, seed, contrast=0.5, swap_channels=True)[0, 0].astype(int)
        slope = (result.max() - result.min()) / 90
        np.testing.assert_allclose(np.sort(result), grey + slope * (levels - grey), atol=2)
        orders.add(tuple(result.argsort()))
    assert len(orders) == 6


def test_values_are_clipped():
    assert changed(picture(low=250, high=255), brightness=0.9, seed=3).max() <= 255
    bright = max(changed(np.full((4, 4, 3), 200, np.uint8), seed, brightness=0.9).max() for seed in range(20))
    assert bright == 255
