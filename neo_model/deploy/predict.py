"""A trained detector on images: a checkpoint in, boxes in pixels of each image out."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn

from neo_model.data.image_files import decode
from neo_model.data.resolution import Resolution
from neo_model.data.transforms import FITS, Fit, render
from neo_model.engine.checkpoint import averaged_weights, read_checkpoint
from neo_model.engine.evaluation_loop import EvaluationPlan, detect, inference_form
from neo_model.engine.hardware import Hardware, compile_for_inference
from neo_model.utils import UserError
from neo_model.utils.memory import use_huge_pages

Image = np.ndarray | str | Path


@dataclass(frozen=True)
class Detections:
    """What was found in one image, the highest score first.

    Attributes:
        boxes: float32 [n, 4], xyxy in pixels of the source image, inside it.
        scores: float32 [n] in 0..1.
        labels: int64 [n], index of the class.
        class_names: the name of each detection's class [n].
    """

    boxes: Tensor
    scores: Tensor
    labels: Tensor
    class_names: list[str]

    def __len__(self) -> int:
        return len(self.scores)


def load_detector(
    path: str | Path,
    device: str = "cpu",
    *,
    precision: Literal["fp32", "bf16", "fp16"] = "fp32",
    compile: bool = False,
) -> "Detector":
    """A detector from a checkpoint of training, with the averaged weights where there are any.

    On a CPU the process keeps the memory that it frees from now on, which predictions need again and again.

    Args:
        path: ``best.pt`` or ``last.pt`` of a run.
        device: ``cpu``, ``cuda`` or ``cuda:N``.
        precision: of the network; evaluation uses that of its hardware configuration.
        compile: have torch compile the network, which takes a minute or more at the first image and again for each
            other number of images in a forward pass.

    Raises:
        UserError: the file is missing, damaged or no checkpoint of ours, or there is no such device.
    """
    hardware = Hardware(device=_checked_device(device), precision=precision, compile=compile)
    if hardware.device.type == "cpu":
        use_huge_pages()
    trained = load_trained(path)
    return Detector(
        model=trained.model,
        class_names=trained.class_names,
        size_wh=trained.size_wh,
        fit=trained.fit,
        plan=trained.plan,
        hardware=hardware,
    )


@dataclass(frozen=True)
class Trained:
    """What a checkpoint of training holds for those who use the model, see `Detector`."""

    model: nn.Module
    class_names: list[str]
    size_wh: tuple[int, int]
    fit: Fit
    plan: EvaluationPlan


def load_trained(path: str | Path) -> Trained:
    """The model of a checkpoint of training, with the averaged weights where there are any, and how it was evaluated.

    Raises:
        UserError: the file is missing, damaged or no checkpoint of ours.
    """
    # The configuration is the one part that needs Hydra: imported here, a `Detector` built by hand does without.
    from neo_model.config.build import build_model_from_config
    from neo_model.config.instantiate import instantiate

    checkpoint = read_checkpoint(path)
    names = checkpoint["classes"]["names"]
    try:
        config = _checked(checkpoint["config"])
        model = build_model_from_config(config["model"], num_classes=len(names))
        resolution = instantiate(config["data"]["resolution"], key="data.resolution")
        plan, fit = instantiate(config["evaluation"], key="evaluation"), config["data"]["fit"]
    except (KeyError, TypeError) as error:
        raise UserError(str(path), f"its configuration is incomplete ({error})", "give one of train.py") from error
    try:
        model.load_state_dict(averaged_weights(checkpoint))
    except RuntimeError as error:
        raise UserError(str(path), "its weights do not fit its configuration", "use an unchanged checkpoint") from error
    return Trained(model=model, class_names=names, size_wh=resolution.size, fit=fit, plan=plan)


class Detector:
    """A model with all that it takes to use it on images. Images are placed as in training, boxes mapped back.

    Args:
        model: a trained `RTDETR`; a copy made for inference is used.
        class_names: by label.
        size_wh: width and height of the network's input in pixels.
        fit: how an image of another shape fills the input.
        plan: NMS and number of detections of the evaluation.
        hardware: device and precision, and whether the network is compiled.
    """

    def __init__(
        self,
        *,
        model: nn.Module,
        class_names: list[str],
        size_wh: tuple[int, int],
        fit: Fit,
        plan: EvaluationPlan,
        hardware: Hardware,
    ) -> None:
        self.class_names, self.size_wh, self.fit = list(class_names), size_wh, fit
        self.plan, self.hardware = plan, hardware
        self.model = inference_form(model, hardware)
        if hardware.compile:
            compile_for_inference(self.model)

    def predict(
        self, images: Image | Sequence[Image], *, conf_threshold: float = 0.3, batch_size: int = 8
    ) -> Detections | list[Detections]:
        """Find objects.

        Args:
            images: one image or a list of them. An image is an RGB uint8 array [H, W, 3] (OpenCV reads BGR: turn it
                with ``image[..., ::-1]``) or the path of a file. A file's EXIF orientation is ignored, but for
                a TIFF's, which OpenCV follows.
            conf_threshold: detections with a lower score are left out, 0 to 1.
            batch_size: images in a forward pass.

        Returns:
            `Detections` for one image, a list of them in the same order for a list.

        Raises:
            UserError: a file is missing or no image, an array is not an RGB uint8 image, ``conf_threshold`` is not
                between 0 and 1, or the network's output is not finite.
        """
        if not 0 <= conf_threshold <= 1:
            raise UserError("conf_threshold", f"{conf_threshold} is not between 0 and 1", "give a score such as 0.3")
        plan = replace(self.plan, conf_threshold=conf_threshold)
        if isinstance(images, np.ndarray | str | Path):
            return self._predict_batch([images], first=0, plan=plan)[0]
        found: list[Detections] = []
        for first in range(0, len(images), batch_size):
            found += self._predict_batch(images[first : first + batch_size], first=first, plan=plan)
        return found

    def _predict_batch(self, images: Sequence[Image], *, first: int, plan: EvaluationPlan) -> list[Detections]:
        width, height = self.size_wh
        canvases = np.empty((len(images), height, width, 3), np.uint8)
        targets = []
        for index, (image, canvas) in enumerate(zip(images, canvases, strict=True), start=first):
            pixels = _pixels(image, name=f"image {index}")
            source_wh = pixels.shape[1], pixels.shape[0]
            placement = FITS[self.fit](source_wh, self.size_wh)
            render(pixels, placement, canvas)
            targets.append({"image_id": index, "affine": placement.affine, "source_wh": source_wh})
        found = detect(self.model, torch.from_numpy(canvases).permute(0, 3, 1, 2), targets, plan, self.hardware)
        for detections in found:
            if not (detections.scores.isfinite().all() and detections.boxes_xyxy.isfinite().all()):
                raise UserError(
                    f"image {detections.image_id}", "the network's output is not finite", "use precision='fp32'"
                )
        return [
            Detections(d.boxes_xyxy, d.scores, d.labels, [self.class_names[label] for label in d.labels.tolist()])
            for d in found
        ]


def _checked_device(device: str) -> str:
    """``device``, if this machine has it."""
    try:
        wanted = torch.device(device)
    except RuntimeError as error:
        raise UserError("device", f"{device!r} is no device", "use 'cpu' or 'cuda'") from error
    counts = {"cpu": 1, "cuda": torch.cuda.device_count()}
    if (wanted.index or 0) >= counts.get(wanted.type, 0):
        raise UserError("device", f"there is no {device!r} here", "use 'cpu'")
    return device


def _checked(config: dict) -> dict:
    """The configuration, checked and with references such as ``${model.encoder_dim}`` resolved where it is read here.

    All of it only where there are references: data paths from the environment of the training machine need not exist.
    """
    from neo_model.config.restore import restore_training_config
    from neo_model.config.validate import check_node
    from neo_model.config.values import mismatch

    model, data, evaluation = (config[key] for key in ("model", "data", "evaluation"))
    if "${" not in repr([model, data["resolution"], data["fit"], evaluation]):
        check_node("model", model, nn.Module)
        check_node("data.resolution", data["resolution"], Resolution)
        check_node("evaluation", evaluation, EvaluationPlan)
        if problem := mismatch(data["fit"], Fit):
            raise UserError("data.fit", *problem)
        return config
    return restore_training_config(config, training=False)


def _pixels(image: Image, *, name: str) -> np.ndarray:
    """RGB uint8 [H, W, 3] from an array or a file, decoded as in training."""
    if isinstance(image, str | Path):
        return decode(Path(image), remedy="give the path of a JPEG, PNG, BMP, TIFF or WebP file")
    if not isinstance(image, np.ndarray):
        raise UserError(name, f"is a {type(image).__name__}", "give a path or an RGB uint8 array [H, W, 3]")
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or not image.size:
        shown = f"{image.dtype} {list(image.shape)}"
        raise UserError(name, f"is an array of {shown}", "give an RGB uint8 array [H, W, 3]")
    return image
