"""The augmentation of a sample as one albumentations pipeline: the frame with its colours, then the user's own.

``Frame`` does zoom-out, crop, flip and fit as a single resize straight into the batch's buffer. In a chain of
albumentations' own transforms each of them would interpolate or copy the whole image again.
"""

import copy
import difflib
import random
import threading
import warnings
from collections.abc import Sequence

import albumentations as A
import numpy as np
from albumentations.core.type_definitions import Targets

from neo_model.data.colors import color_transforms
from neo_model.data.transforms import FITS, Augmentation, Fit, place_objects, random_placement, render
from neo_model.ops.geometry import Placement
from neo_model.utils import UserError

# Any size will do to see whether a transform runs and keeps the size.
TRIAL_WH = (160, 96)


class Frame(A.DualTransform):
    """Zoom-out, IoU crop, flip and fit of an image and its boxes: one resize from the source into a kept canvas.

    It is called with ``canvas``, uint8 [height, width, 3], beside ``image`` and ``bboxes``, and returns the canvas.

    Args:
        augment: the probabilities.
        strong: whether more than the flip is on.
        fit: how an image of another shape fills the input.
        smallest_side: boxes with a visible side under this many input pixels go.
        colors: used on the visible part, at the source's or the canvas's resolution, whichever has fewer pixels.
    """

    _targets = (Targets.IMAGE, Targets.BBOXES)

    def __init__(
        self,
        *,
        augment: Augmentation,
        strong: bool,
        fit: Fit,
        smallest_side: float,
        colors: Sequence[A.ImageOnlyTransform] = (),
    ) -> None:
        super().__init__(p=1.0)
        self.augment, self.strong, self.fit, self.smallest_side = augment, strong, fit, smallest_side
        self.colors = colors

    def set_random_state(self, random_generator: np.random.Generator, py_random: random.Random) -> None:
        """Draw from these from now on, the colours too."""
        super().set_random_state(random_generator, py_random)
        for transform in self.colors:
            transform.set_random_state(random_generator, py_random)

    def get_params_dependent_on_data(self, params: dict, data: dict) -> dict:
        """Draw where the image goes."""
        height, width = params["shape"][:2]
        canvas = data["canvas"]
        target_wh = canvas.shape[1], canvas.shape[0]
        boxes_xyxy = data["bboxes"][:, :4] * (width, height, width, height)
        whole = FITS[self.fit]((width, height), target_wh)
        placement = random_placement(
            self.random_generator, self.augment, self.strong, boxes_xyxy, whole, target_wh, self.fit
        )
        return {"placement": placement, "canvas": canvas, "boxes_xyxy": boxes_xyxy}

    def apply(self, img: np.ndarray, placement: Placement, canvas: np.ndarray, **params) -> np.ndarray:
        """The image uint8 [h, w, 3] on the canvas."""
        render(img, placement, canvas, self._recolor if self.colors else None)
        return canvas

    def apply_to_bboxes(
        self, bboxes: np.ndarray, placement: Placement, canvas: np.ndarray, boxes_xyxy: np.ndarray, **params
    ) -> np.ndarray:
        """Boxes [n, 4 + k], xyxy as fractions of the image, as fractions of the canvas; fewer where some are lost."""
        target_wh = canvas.shape[1], canvas.shape[0]
        placed_xyxy, kept = place_objects(boxes_xyxy, placement, self.smallest_side)
        return np.concatenate([placed_xyxy / np.tile(target_wh, 2), bboxes[kept, 4:]], axis=1)

    def _recolor(self, image: np.ndarray) -> np.ndarray:
        for transform in self.colors:
            image = transform(image=image)["image"]
        return image


class Augmenter:
    """Draws training samples of an ``Augmentation``, reproducible from each sample's own generator, in any thread.

    Args:
        augment: what may happen.
        fit: how an image of another shape fills the input.
        smallest_side: boxes with a side under this many input pixels go.
    """

    def __init__(self, augment: Augmentation, *, fit: Fit, smallest_side: float) -> None:
        frame = {"augment": augment, "fit": fit, "smallest_side": smallest_side}
        extra = extra_transforms(augment.extra)
        self._transforms = {
            True: [Frame(**frame, strong=True, colors=color_transforms(augment)), *extra],
            False: [Frame(**frame, strong=False)],
        }
        self._extra_names = ", ".join(augment.extra)
        self._boxes = {"min_width": smallest_side, "min_height": smallest_side}
        self._of_thread = threading.local()

    def __call__(
        self,
        image: np.ndarray,
        boxes_xyxy: np.ndarray,
        canvas: np.ndarray,
        *,
        generator: np.random.Generator,
        strong: bool,
    ) -> tuple[np.ndarray, np.ndarray, Placement]:
        """Write an augmented image into ``canvas``.

        Args:
            image: uint8 [h, w, 3].
            boxes_xyxy: objects [n, 4] in pixels of the image.
            canvas: uint8 [height, width, 3]; all of it is written.
            generator: the sample's own.
            strong: whether more than the flip is on.

        Returns:
            boxes_xyxy [m, 4] of the objects that stay, in pixels of the canvas; which ones they are, int64
            [m]; and where the frame put the image.
        """
        frame, pipeline = self._pipeline(strong)
        # albumentations would go on with one stream of its own in every worker.
        pipeline.set_random_state(generator, random.Random(int(generator.integers(2**63))))
        source_whwh, target_whwh = np.tile(image.shape[1::-1], 2), np.tile(canvas.shape[1::-1], 2)
        numbered = np.column_stack([boxes_xyxy / source_whwh, np.arange(len(boxes_xyxy))])
        result = pipeline(image=image, bboxes=numbered, canvas=canvas)
        picture, placed = result["image"], result["bboxes"].reshape(-1, 5)
        if picture is not canvas:
            if picture.shape != canvas.shape or picture.dtype != canvas.dtype:
                raise UserError(
                    "data.augment.extra",
                    f"one of {self._extra_names} made {picture.dtype} {picture.shape} of {canvas.dtype} {canvas.shape}",
                    "use transforms that keep size and type",
                )
            np.copyto(canvas, picture)
        return placed[:, :4] * target_whwh, placed[:, 4].astype(np.int64), frame.params["placement"]

    def _pipeline(self, strong: bool) -> tuple[Frame, Frame | A.Compose]:
        """The thread's own frame, and all that is called: transforms keep what they drew in themselves."""
        pipelines = self._of_thread.__dict__
        if strong not in pipelines:
            transforms = copy.deepcopy(self._transforms[strong])
            pipeline = transforms[0]
            if len(transforms) > 1:  # a compose checks boxes after every step, 0.6 ms an image: only where it is needed
                boxes = A.BboxParams("albumentations", clip=True, filter_invalid_bboxes=True, **self._boxes)
                pipeline = A.Compose(transforms, bbox_params=boxes)
            pipelines[strong] = transforms[0], pipeline
        return pipelines[strong]


def extra_transforms(extra: dict[str, dict]) -> list[A.BasicTransform]:
    """Build albumentations transforms by name, and try each on a small picture with a box.

    Args:
        extra: from the name of a class of albumentations to its arguments.

    Raises:
        UserError: there is no such transform, it refuses its arguments, or it changes the picture's size or type.
    """
    return [_tried(_built(name, arguments), name) for name, arguments in extra.items()]


def _built(name: str, arguments: dict) -> A.BasicTransform:
    where = f"data.augment.extra.{name}"
    bases = A.ImageOnlyTransform, A.DualTransform
    known = {key for key, kind in vars(A).items() if isinstance(kind, type) and issubclass(kind, bases)}
    known -= {base.__name__ for base in bases}
    if name not in known:
        near = difflib.get_close_matches(name, known, n=2)
        remedy = f"did you mean {' or '.join(near)}?" if near else "its documentation lists what there is"
        raise UserError(where, "albumentations has no such transform for images", remedy)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # how it tells of arguments that it does not know
            return getattr(A, name)(**arguments)
    except (TypeError, ValueError, UserWarning) as error:
        raise UserError(where, _reason(error), f"see the arguments of albumentations.{name}") from error


def _tried(transform: A.BasicTransform, name: str) -> A.BasicTransform:
    where = f"data.augment.extra.{name}"
    trial = copy.deepcopy(transform)
    trial.p = 1.0
    image = np.random.default_rng(0).integers(0, 255, (TRIAL_WH[1], TRIAL_WH[0], 3), np.uint8)
    boxes = np.array([[40, 30, 120, 80, 0]], np.float32)
    boxed = {"bbox_params": A.BboxParams("pascal_voc")} if isinstance(trial, A.DualTransform) else {}
    try:
        result = A.Compose([trial], **boxed)(image=image, bboxes=boxes)["image"]
    except Exception as error:  # anything may be wrong in a transform for other kinds of data
        raise UserError(where, f"does not run here: {_reason(error)}", "take it out") from error
    if result.shape != image.shape or result.dtype != image.dtype:
        raise UserError(
            where,
            f"makes {result.dtype} {result.shape} of {image.dtype} {image.shape}",
            "use transforms that keep size and type; data.resolution sets the size",
        )
    return transform


def _reason(error: Exception) -> str:
    """What the library says; of a list of refused arguments, each name and what is wrong with it."""
    # pydantic's errors can be listed, in whichever error they come wrapped.
    cause = error if hasattr(error, "errors") else error.__cause__
    if hasattr(cause, "errors"):
        return ", ".join(f"{'.'.join(map(str, entry['loc']))}: {entry['msg']}" for entry in cause.errors())
    return str(error) or type(error).__name__
