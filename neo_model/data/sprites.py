"""The five kinds of object in the generated scenes, each an outline and a way of painting it.

Kinds differ in shape and texture; their colours only lean apart and overlap, so that colour alone does not tell them.
An object is designed in its own plane (x to the right, y down, a unit of about its half extent) and scaled and turned
into the image afterwards. Colours are float32 RGB in 0..1 and colour planes come first ([3, n, n]): numpy spreads a
map over planes several times faster than over interleaved pixels.
"""

import colorsys
import math
from collections.abc import Callable
from dataclasses import dataclass

import cv2
import numpy as np

CLASS_NAMES = ("ball", "crate", "star", "cone", "leaf")


@dataclass(frozen=True)
class Surface:
    """What a painter knows about each pixel of its patch.

    Args:
        x, y: float32 [n, n], position in the object's own plane.
        grain: float32 [n, n], smooth noise in 0..1.
        light: unit vector towards the light in the object's own plane (the third component towards the viewer).
    """

    x: np.ndarray
    y: np.ndarray
    grain: np.ndarray
    light: tuple[float, float, float]


@dataclass(frozen=True)
class Design:
    """One object: its outline, how far it may be turned, and its painter.

    Args:
        outline: float64 [k, 2], corner points in the object's own plane.
        max_turn: greatest rotation either way, radians.
        paint: Surface -> float32 [3, n, n].
    """

    outline: np.ndarray
    max_turn: float
    paint: Callable[[Surface], np.ndarray]


@dataclass(frozen=True)
class Sprite:
    """A rendered object on a square patch.

    Args:
        color: float32 [3, n, n].
        alpha: float32 [n, n], the share of each pixel that the object covers.
    """

    color: np.ndarray
    alpha: np.ndarray


def smooth_noise(rng: np.random.Generator, height: int, width: int, cell: float) -> np.ndarray:
    """float32 [height, width] in about 0..1: random values on a coarse grid, one every `cell` pixels, interpolated."""
    rows, columns = math.ceil(height / cell) + 2, math.ceil(width / cell) + 2
    grid = rng.random((rows, columns), dtype=np.float32)
    whole = cv2.resize(grid, (round(columns * cell), round(rows * cell)), interpolation=cv2.INTER_CUBIC)
    top, left = (whole.shape[0] - height) // 2, (whole.shape[1] - width) // 2
    return whole[top : top + height, left : left + width]


def hsv(hue_degrees: float, saturation: float, value: float) -> np.ndarray:
    """float32 [3] RGB from a hue on the circle and saturation and value in 0..1."""
    return np.array(colorsys.hsv_to_rgb((hue_degrees / 360) % 1, saturation, value), np.float32)


def draw_sprite(rng: np.random.Generator, label: int, size: float, light_angle: float) -> Sprite:
    """Draw a new object of class `label` whose tight box is `size` pixels on its long side.

    Args:
        light_angle: direction the light comes from in the image, radians (0: right, pi/2: below).
    """
    design = _DESIGNERS[label](rng)
    turn = rng.uniform(-design.max_turn, design.max_turn)
    cos, sin = math.cos(turn), math.sin(turn)
    turned = design.outline @ np.array([[cos, sin], [-sin, cos]])
    low, high = turned.min(axis=0), turned.max(axis=0)
    scale = size / (high - low).max()
    side = math.ceil(size) + 4
    center = (low + high) / 2
    alpha = _fill((turned - center) * scale + side / 2, side)

    axis = (np.arange(side, dtype=np.float32) + 0.5 - side / 2) / scale
    image_x, image_y = axis[None, :] + center[0], axis[:, None] + center[1]
    light = np.array([math.cos(light_angle), math.sin(light_angle)])
    surface = Surface(
        x=(image_x * cos + image_y * sin).astype(np.float32),
        y=(image_y * cos - image_x * sin).astype(np.float32),
        grain=smooth_noise(rng, side, side, max(2.0, side / 12)),
        light=(
            float(light @ [cos, sin]) * 0.6,
            float(light @ [-sin, cos]) * 0.6,
            0.8,
        ),
    )
    return Sprite(color=np.clip(design.paint(surface), 0.0, 1.0), alpha=alpha)


def _fill(points: np.ndarray, side: int) -> np.ndarray:
    """Coverage float32 [side, side] of the polygon `points` (continuous pixel coordinates), by finer sampling."""
    finer = 4 if side <= 192 else 2
    fixed = np.round((points * finer - 0.5) * 16).astype(np.int32)  # cv2 puts a pixel's centre at whole numbers
    mask = np.zeros((side * finer, side * finer), np.uint8)
    cv2.fillPoly(mask, [fixed], 255, lineType=cv2.LINE_8, shift=4)
    return cv2.resize(mask, (side, side), interpolation=cv2.INTER_AREA).astype(np.float32) / 255


def _mix(first: np.ndarray, second: np.ndarray, share: np.ndarray) -> np.ndarray:
    return first[:, None, None] + (second - first)[:, None, None] * share


def _ball(rng: np.random.Generator) -> Design:
    """A shaded sphere with a band round it and a highlight."""
    angles = np.linspace(0, 2 * math.pi, 96, endpoint=False)
    body = hsv(rng.uniform(190, 370), rng.uniform(0.55, 0.95), rng.uniform(0.6, 1.0))
    band = hsv(rng.uniform(0, 360), rng.uniform(0.0, 0.5), rng.uniform(0.8, 1.0))
    width, bend = rng.uniform(0.12, 0.28), rng.uniform(-0.5, 0.5)

    def paint(surface: Surface) -> np.ndarray:
        x, y = surface.x, surface.y
        z = np.sqrt(np.maximum(0.0, 1 - x * x - y * y))
        facing = np.maximum(0.0, x * surface.light[0] + y * surface.light[1] + z * surface.light[2])
        on_band = np.clip((width - np.abs(y - bend * z)) * 12, 0, 1)
        color = _mix(body, band, on_band) * (0.3 + 0.8 * facing + 0.12 * surface.grain)
        return color + 0.75 * facing**24

    return Design(np.stack([np.cos(angles), np.sin(angles)], axis=1), math.pi, paint)


def _crate(rng: np.random.Generator) -> Design:
    """A wooden box seen from the front: planks, a frame and one brace."""
    half = rng.uniform(0.72, 1.0)
    wood = hsv(rng.uniform(12, 48), rng.uniform(0.35, 0.75), rng.uniform(0.45, 0.85))
    planks, tones = int(rng.integers(3, 6)), rng.uniform(0.7, 1.1, 8).astype(np.float32)
    lean = float(rng.choice([-1, 1]))

    def paint(surface: Surface) -> np.ndarray:
        x, y = surface.x, surface.y
        row = (y / half + 1) / 2 * planks
        plank = np.clip(row.astype(np.int32), 0, planks - 1)
        gap = np.abs(row - np.round(row)) < 0.07
        fibre = 0.06 * np.sin(y * 45 + 5 * surface.grain + plank * 3 + x * 3)
        shade = tones[plank] * (0.85 + fibre + 0.2 * surface.grain) - 0.35 * gap
        edge = np.minimum(1 - np.abs(x), half - np.abs(y))
        across = np.abs(x * half * lean + y) / math.hypot(1, half)
        frame = (edge < 0.2) | (across < 0.11)
        rim = (np.abs(edge - 0.2) < 0.025) | ((np.abs(across - 0.11) < 0.025) & (edge > 0.2))
        toward_light = 0.12 * (x * surface.light[0] + y * surface.light[1])
        shade = np.where(frame, 1.15 + fibre, shade) - 0.4 * rim + toward_light
        return wood[:, None, None] * shade.astype(np.float32)

    return Design(np.array([[-1, -half], [1, -half], [1, half], [-1, half]]), 0.5, paint)


def _star(rng: np.random.Generator) -> Design:
    """A five-pointed star of ten facets, each lit by its own slope."""
    inner = rng.uniform(0.42, 0.52)
    angles = np.arange(10) * math.pi / 5 - math.pi / 2
    radii = np.where(np.arange(10) % 2 == 0, 1.0, inner)
    metal = hsv(rng.uniform(30, 75), rng.uniform(0.45, 0.9), rng.uniform(0.8, 1.0))

    def paint(surface: Surface) -> np.ndarray:
        sector = (np.arctan2(surface.y, surface.x) + math.pi / 2) % (2 * math.pi) / (math.pi / 5)
        middle = (np.floor(sector) + 0.5) * math.pi / 5 - math.pi / 2
        side = np.where(np.floor(sector) % 2 == 0, 1.0, -1.0) * 0.9  # facets slope away from the ridge to the tip
        slope = middle + side
        facing = np.cos(slope) * surface.light[0] + np.sin(slope) * surface.light[1]
        glow = 0.15 * np.maximum(0.0, 1 - 2 * np.hypot(surface.x, surface.y))
        shade = 0.72 + 0.5 * facing + 0.15 * surface.grain + glow
        return metal[:, None, None] * shade.astype(np.float32)

    return Design(np.stack([radii * np.cos(angles), radii * np.sin(angles)], axis=1), math.pi, paint)


def _cone(rng: np.random.Generator) -> Design:
    """A traffic cone with pale bands on a base plate, more or less upright."""
    orange = hsv(rng.uniform(-12, 32), rng.uniform(0.75, 1.0), rng.uniform(0.75, 1.0))
    pale = hsv(rng.uniform(0, 360), rng.uniform(0.0, 0.12), rng.uniform(0.85, 1.0))
    foot, plate = rng.uniform(0.5, 0.62), rng.uniform(0.72, 0.85)
    bands = [(-0.55, -0.25), (0.1, 0.42)] if rng.random() < 0.6 else [(-0.25, 0.25)]
    points = [(-0.1, -1), (0.1, -1), (foot, 0.8), (plate, 0.8), (plate, 1), (-plate, 1), (-plate, 0.8), (-foot, 0.8)]

    def paint(surface: Surface) -> np.ndarray:
        x, y = surface.x, surface.y
        radius = 0.1 + (foot - 0.1) * np.clip((y + 1) / 1.8, 0, 1)
        across = np.clip(x / radius, -1, 1)
        bent = y - 0.1 * np.sqrt(1 - across * across)  # bands curve round the cone
        on_band = sum(np.clip((bent - low) * 25, 0, 1) * np.clip((high - bent) * 25, 0, 1) for low, high in bands)
        facing = across * surface.light[0] + np.sqrt(1 - across * across) * surface.light[2]
        shade = np.where(y > 0.8, 0.62 + 0.2 * surface.grain, 0.35 + 0.75 * facing + 0.12 * surface.grain)
        return _mix(orange, pale, on_band * (y < 0.8)) * shade.astype(np.float32)

    return Design(np.array(points), 0.4, paint)


def _leaf(rng: np.random.Generator) -> Design:
    """A pointed leaf on a short stalk, with a midrib and side veins."""
    width, belly = rng.uniform(0.4, 0.6), rng.uniform(0.7, 0.95)
    along = np.linspace(0, 1, 40)
    half = width * np.sin(math.pi * along**belly) ** 0.9 + 0.035 * (along < 0.2)
    upper = np.stack([2 * along - 1, -half], axis=1)
    green = hsv(rng.uniform(65, 165), rng.uniform(0.4, 0.9), rng.uniform(0.35, 0.8))
    vein = hsv(rng.uniform(50, 110), rng.uniform(0.2, 0.5), rng.uniform(0.75, 0.95))
    stalk = np.array([[-1.2, -0.045], [-1.2, 0.045]])

    def paint(surface: Surface) -> np.ndarray:
        x, y = surface.x, surface.y
        ribs = np.abs((x * 3.2 - 2.4 * np.abs(y)) % 1 - 0.5)
        on_vein = np.maximum(np.clip((0.05 - np.abs(y)) * 30, 0, 1), 0.55 * np.clip((0.12 - ribs) * 12, 0, 1))
        fold = np.where(y < 0, -1.0, 1.0) * surface.light[1]
        shade = 0.8 + 0.3 * fold + 0.35 * (surface.grain - 0.5)
        return _mix(green, vein, on_vein) * shade.astype(np.float32)

    outline = np.concatenate([stalk[:1], upper, (upper * [1, -1])[::-1], stalk[1:]])
    return Design(outline, math.pi, paint)


_DESIGNERS = (_ball, _crate, _star, _cone, _leaf)
