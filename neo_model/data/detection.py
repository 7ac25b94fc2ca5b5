"""A detection data set for training and validation: what ``data=coco`` and ``data=custom`` stand for."""

import logging
import math
from functools import cached_property
from pathlib import Path

import numpy as np

from neo_model.data.coco import Classes, CocoInstances, read_coco
from neo_model.data.dataset import DetectionDataset
from neo_model.data.findings import act_on
from neo_model.data.image_cache import CacheKind
from neo_model.data.image_files import check_images
from neo_model.data.image_inspection import examine_images
from neo_model.data.loader import EvaluationLoader, TrainLoader
from neo_model.data.resolution import Resolution
from neo_model.data.transforms import Augmentation, Fit
from neo_model.data.workers import LoaderKind
from neo_model.utils import Fraction, UserError
from neo_model.utils.files import check_present

logger = logging.getLogger(__name__)

# Objects that augmentation or a small input has shrunk below a pixel teach nothing.
SMALLEST_TRAINING_SIDE = 1.0


class DetectionData:
    """Images and COCO annotations for training and validation. Files are read on first use.

    Args:
        name: what to call the data set.
        train_images, val_images: folders of images.
        train_annotations, val_annotations: COCO instances files.
        resolution: input sizes.
        augment: what training does to its samples.
        fit: "letterbox" keeps shapes and adds black borders; "stretch" fills the input.
        fetch_hint: the command that fetches missing files, for the error message, see `check_present`.
        loader: whether batches are made by worker processes or by threads.
        max_bad_fraction: training replaces damaged images by others, until more than this part of them is damaged.
        cache: keep decoded training images in memory ("ram") or in a file for this and later runs ("disk").
    """

    def __init__(
        self,
        *,
        name: str,
        train_images: str,
        train_annotations: str,
        val_images: str,
        val_annotations: str,
        resolution: Resolution,
        augment: Augmentation,
        fit: Fit = "letterbox",
        fetch_hint: str | None = None,
        loader: LoaderKind = "process",
        max_bad_fraction: Fraction = 0.01,
        cache: CacheKind | None = None,
    ) -> None:
        self.name = name
        self.train_images, self.train_annotations = Path(train_images), Path(train_annotations)
        self.val_images, self.val_annotations = Path(val_images), Path(val_annotations)
        self.resolution, self.augment, self.fit = resolution, augment, fit
        self.fetch_hint = fetch_hint
        self.loader, self.max_bad_fraction, self.cache = loader, max_bad_fraction, cache

    def prepare(self, *, training: bool = True) -> None:
        """Check that the folders and files exist, without reading them.

        Args:
            training: whether those of the training set are needed too.

        Raises:
            UserError: naming all that are missing and how to get them.
        """
        check_present(
            self.name,
            files=[self.train_annotations] * training + [self.val_annotations],
            folders=[self.train_images] * training + [self.val_images],
            fetch_hint=self.fetch_hint,
        )

    @cached_property
    def _train(self) -> CocoInstances:
        instances = read_coco(self.train_annotations)
        check_images(self.train_images, instances)
        return instances

    @cached_property
    def _val(self) -> CocoInstances:
        instances = read_coco(self.val_annotations)
        refuse_without_boxes(instances)
        check_images(self.val_images, instances)
        return instances

    @property
    def classes(self) -> Classes:
        """The classes that the training annotations declare, in order of category id."""
        return self._train.classes

    @property
    def val_classes(self) -> Classes:
        """The classes that the validation annotations declare, in order of category id."""
        return self._val.classes

    def check_same_classes(self) -> None:
        """Refuse validation annotations that declare other classes than the training's.

        Raises:
            UserError: with both counts and the first differences.
        """
        check_same_classes(self.train_annotations, self.classes, self.val_annotations, self.val_classes)

    def warn_of_crowded_images(self, num_queries: int) -> None:
        """Say once a split which images hold more boxes than a model of so many queries can find."""
        for instances in (self._train, self._val):
            act_on(instances.crowded(num_queries))

    def inspect_val_images(self, overfit: int = 0) -> None:
        """Look at the headers and ends of the images to evaluate on, which must all be whole, before a run begins.

        Raises:
            UserError: images are damaged or have another size than their annotation says (how many, the first five).
        """
        dataset = self.val_dataset(overfit)
        act_on(examine_images(dataset.folder, dataset.instances, dataset.indices.tolist(), decoding=False))

    def findings(self) -> list[dict]:
        """What is not right with the annotations, and was repaired; plain values, by split and kind."""
        splits = {"train": self._train, "val": self._val}
        return [
            {"split": split, **finding.as_dict()}
            for split, instances in splits.items()
            for finding in instances.findings
        ]

    def fingerprints(self) -> dict[str, dict[str, int | str]]:
        """What tells these data from others, by split; see ``CocoInstances.fingerprint``."""
        return {"train": self._train.fingerprint(), "val": self._val.fingerprint()}

    def train_dataset(self, overfit: int = 0) -> DetectionDataset:
        """The training set; with ``overfit`` its first that many images with objects, and no augmentation."""
        indices = self._overfit_indices(overfit)
        if overfit and len(indices) < overfit:
            logger.warning("overfit=%d: there are only %d training images with boxes", overfit, len(indices))
        return DetectionDataset(
            instances=self._train,
            folder=self.train_images,
            size_wh=self.resolution.size,
            fit=self.fit,
            augment=Augmentation() if overfit else self.augment,
            smallest_side=SMALLEST_TRAINING_SIDE,
            indices=indices,
            cache=self.cache,
            largest_wh=self.resolution.largest_wh,
        )

    def val_dataset(self, overfit: int = 0) -> DetectionDataset:
        """The validation set; with ``overfit`` the same images as ``train_dataset``."""
        return DetectionDataset(
            instances=self._train if overfit else self._val,
            folder=self.train_images if overfit else self.val_images,
            size_wh=self.resolution.size,
            fit=self.fit,
            augment=Augmentation(),
            indices=self._overfit_indices(overfit),
        )

    def train_loader(
        self, *, batch_size: int, workers: int, prefetch: int, pin_memory: bool, seed: int, overfit: int = 0
    ) -> TrainLoader:
        """Training batches; see ``TrainLoader``."""
        resolution = self.resolution
        if overfit:
            resolution = Resolution(width=resolution.width, height=resolution.height, any_aspect=resolution.any_aspect)
        return TrainLoader(
            dataset=self.train_dataset(overfit),
            resolution=resolution,
            batch_size=batch_size,
            workers=workers,
            prefetch=prefetch,
            pin_memory=pin_memory,
            kind=self.loader,
            seed=seed,
            max_bad_fraction=self.max_bad_fraction,
        )

    def val_loader(
        self,
        *,
        batch_size: int,
        workers: int,
        prefetch: int,
        pin_memory: bool,
        overfit: int = 0,
        limit: int | None = None,
    ) -> EvaluationLoader:
        """Validation batches, ``limit`` of them at most; see ``EvaluationLoader``."""
        return EvaluationLoader(
            dataset=self.val_dataset(overfit),
            batch_size=batch_size,
            workers=workers,
            prefetch=prefetch,
            pin_memory=pin_memory,
            kind=self.loader,
            limit=limit,
        )

    def val_ground_truth(self, overfit: int = 0) -> dict:
        """The COCO dictionary of the validation images, crowds and all required fields in, for an evaluator."""
        return self._train.ground_truth(self._overfit_indices(overfit)) if overfit else self._val.ground_truth()

    def _overfit_indices(self, overfit: int) -> np.ndarray | None:
        if not overfit:
            return None
        indices = self._train.indices_with_objects(overfit)
        if not len(indices):
            raise UserError(self.train_annotations, "has no image with a box", "overfit needs at least one")
        return indices


def refuse_without_boxes(instances: CocoInstances) -> None:
    """Raise ``UserError`` if there is nothing to be found, so that AP is undefined."""
    if instances.crowd.all():
        remedy = "annotate some of its images, or give another file as data.val_annotations"
        raise UserError(instances.path, "holds no boxes to evaluate on", remedy)


def check_same_classes(train_path: Path, train: Classes, val_path: Path, val: Classes) -> None:
    """Raise ``UserError``, with both counts and the first differences, if two annotation files differ in classes."""
    if train == val:
        return
    train_pairs = dict(zip(train.category_ids, train.names, strict=True))
    val_pairs = dict(zip(val.category_ids, val.names, strict=True))
    ids = sorted(train_pairs.keys() | val_pairs.keys())
    differences = [
        f"id {category_id} is {train_pairs.get(category_id, 'absent')!r} and {val_pairs.get(category_id, 'absent')!r}"
        for category_id in ids
        if train_pairs.get(category_id) != val_pairs.get(category_id)
    ]
    cause = f"its {len(val)} classes are not the {len(train)} of {train_path}: {', '.join(differences[:5])}"
    raise UserError(val_path, cause, "give both files the same categories")
