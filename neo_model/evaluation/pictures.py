"""Detections drawn into an image."""

import cv2
import numpy as np

# Okabe and Ito (2008): eight colours that people with any colour vision tell apart; black is left to the outlines.
PALETTE_RGB = (
    (230, 159, 0),
    (86, 180, 233),
    (0, 158, 115),
    (240, 228, 66),
    (0, 114, 178),
    (213, 94, 0),
    (204, 121, 167),
)
WHITE, BLACK = (255, 255, 255), (0, 0, 0)
FONT = cv2.FONT_HERSHEY_SIMPLEX
# The font's capitals are about 22 pixels high at scale 1.
FONT_HEIGHT = 22


def draw_detections(
    image: np.ndarray, boxes_xyxy, labels, scores, class_names: list[str], ground_truth: tuple | None = None
) -> np.ndarray:
    """Draw detections as labelled boxes in the colour of their class, and ground truth as dashed white boxes.

    Lines and text grow with the image, so that a 1080p picture reads like a small one. The best detection lies on top.

    Args:
        image: uint8 [H, W, 3] RGB; it is not changed.
        boxes_xyxy: [n, 4] in pixels of the image.
        labels: [n], indices into ``class_names``.
        scores: [n].
        class_names: name of each class.
        ground_truth: (boxes_xyxy [m, 4], labels [m]) or None.

    Returns:
        uint8 [H, W, 3] RGB.
    """
    canvas = np.ascontiguousarray(image).copy()
    boxes, scores = np.asarray(boxes_xyxy, float).reshape(-1, 4), np.asarray(scores, float)
    labels = np.asarray(labels, int)
    thickness = _thickness(canvas)
    if ground_truth is not None:
        true_boxes, true_labels = ground_truth
        for box, label in zip(np.asarray(true_boxes, float).reshape(-1, 4), np.asarray(true_labels, int), strict=True):
            _dashed_box(canvas, box, thickness)
            # Below the box, where no detection writes.
            _text(canvas, class_names[label], (box[0], box[3]), WHITE, thickness, above=False)
    order = np.argsort(scores, kind="stable")
    captions = [f"{class_names[labels[i]]} {scores[i]:.2f}" for i in order]
    _labelled_boxes(canvas, boxes[order], labels[order], captions, thickness)
    return canvas


def draw_objects(image: np.ndarray, boxes_xyxy, labels, class_names: list[str]) -> np.ndarray:
    """Draw objects that are known, without scores, as labelled boxes; arguments and result as `draw_detections`."""
    canvas = np.ascontiguousarray(image).copy()
    boxes, labels = np.asarray(boxes_xyxy, float).reshape(-1, 4), np.asarray(labels, int)
    _labelled_boxes(canvas, boxes, labels, [class_names[label] for label in labels], _thickness(canvas))
    return canvas


def _thickness(canvas: np.ndarray) -> int:
    return max(2, round(max(canvas.shape[:2]) / 640))


def _labelled_boxes(
    canvas: np.ndarray, boxes: np.ndarray, labels: np.ndarray, captions: list[str], thickness: int
) -> None:
    """Boxes in the colours of their classes, then all captions, so that no box crosses one."""
    for box, label in zip(boxes, labels, strict=True):
        corners = _corners(canvas, box)
        cv2.rectangle(canvas, *corners, BLACK, thickness + 1)
        cv2.rectangle(canvas, *corners, _color(label), thickness)
    for box, label, caption in zip(boxes, labels, captions, strict=True):
        _text(canvas, caption, (box[0], box[1]), _color(label), thickness, above=True)


def _color(label: int) -> tuple[int, int, int]:
    return PALETTE_RGB[label % len(PALETTE_RGB)]


def _corners(canvas: np.ndarray, box_xyxy: np.ndarray) -> tuple[tuple[int, int], tuple[int, int]]:
    """Corners as whole pixels inside the picture."""
    height, width = canvas.shape[:2]
    limits = np.array((width, height, width, height)) - 1
    x1, y1, x2, y2 = np.clip(np.round(box_xyxy), 0, limits).astype(int).tolist()
    return (x1, y1), (x2, y2)


def _dashed_box(canvas: np.ndarray, box_xyxy: np.ndarray, thickness: int) -> None:
    (x1, y1), (x2, y2) = _corners(canvas, box_xyxy)
    for start, stop in (((x1, y1), (x2, y1)), ((x1, y2), (x2, y2)), ((x1, y1), (x1, y2)), ((x2, y1), (x2, y2))):
        _dashed_line(canvas, np.array(start), np.array(stop), thickness)


def _dashed_line(canvas: np.ndarray, start: np.ndarray, stop: np.ndarray, thickness: int) -> None:
    """White dashes on a black line, seen on any background."""
    dash = 5 * thickness
    length = float(np.abs(stop - start).sum())
    cv2.line(canvas, start.tolist(), stop.tolist(), BLACK, thickness)
    for begin in np.arange(0, length, 2 * dash):
        ends = [start + (stop - start) * min(at / length, 1.0) for at in (begin, begin + dash)]
        cv2.line(canvas, *(np.round(end).astype(int).tolist() for end in ends), WHITE, thickness)


def _text(
    canvas: np.ndarray, text: str, corner: tuple[float, float], color: tuple[int, int, int], thickness: int, above: bool
) -> None:
    """Black text on a filled rectangle that touches ``corner`` from above or below, moved into the picture."""
    # The font has no other characters; a mark says that one is missing.
    text = text.encode("ascii", "replace").decode()
    scale = max(9, max(canvas.shape[:2]) / 110) / FONT_HEIGHT
    stroke = max(1, thickness // 2)
    (width, height), below_line = cv2.getTextSize(text, FONT, scale, stroke)
    margin = thickness + 1
    box_width, box_height = width + 2 * margin, height + below_line + margin
    x = int(np.clip(corner[0], 0, max(0, canvas.shape[1] - box_width)))
    top = corner[1] - box_height if above else corner[1]
    y = int(np.clip(top, 0, max(0, canvas.shape[0] - box_height)))
    cv2.rectangle(canvas, (x, y), (x + box_width, y + box_height), color, cv2.FILLED)
    luminance = float(np.dot(color, (0.299, 0.587, 0.114)))
    ink = BLACK if luminance > 110 else WHITE
    cv2.putText(canvas, text, (x + margin, y + height + margin // 2), FONT, scale, ink, stroke, cv2.LINE_AA)
