"""``data=shapes``: the embedded data set, drawn on first use for the chosen resolution."""

import contextlib
import json
import os
import shutil
import tempfile
from pathlib import Path

from tqdm import tqdm

from neo_model.data.detection import DetectionData
from neo_model.data.image_cache import CacheKind
from neo_model.data.resolution import Resolution
from neo_model.data.scenes import GENERATOR_VERSION, write_scenes
from neo_model.data.transforms import Augmentation, Fit
from neo_model.data.workers import LoaderKind
from neo_model.utils import Fraction, NonNegativeInt, PositiveInt, UserError
from neo_model.utils.cores import num_cores
from neo_model.utils.quoting import typed

_STAMP = "stamp.json"


class ShapesData(DetectionData):
    """Generated scenes of balls, crates, stars, cones and leaves, the same for the same arguments.

    Args:
        root: folder that holds one folder for each size, seed and number of images.
        num_train, num_val: number of images.
        seed: which pictures are drawn; validation pictures differ from the training ones at every seed.
        resolution: its width and height are also the size of the pictures.
        augment, fit, loader, max_bad_fraction, cache: see ``DetectionData``.
    """

    def __init__(
        self,
        *,
        root: str,
        num_train: PositiveInt,
        num_val: PositiveInt,
        seed: NonNegativeInt = 0,
        resolution: Resolution,
        augment: Augmentation,
        fit: Fit = "letterbox",
        loader: LoaderKind = "process",
        max_bad_fraction: Fraction = 0.01,
        cache: CacheKind | None = None,
    ) -> None:
        width, height = resolution.width, resolution.height
        self.folder = Path(root) / f"{width}x{height}-seed{seed}-{num_train}+{num_val}"
        self.counts = {"train": num_train, "val": num_val}
        self.seed = seed
        super().__init__(
            name="shapes",
            train_images=str(self.folder / "train"),
            train_annotations=str(self.folder / "instances_train.json"),
            val_images=str(self.folder / "val"),
            val_annotations=str(self.folder / "instances_val.json"),
            resolution=resolution,
            augment=augment,
            fit=fit,
            loader=loader,
            max_bad_fraction=max_bad_fraction,
            cache=cache,
        )

    def prepare(self, *, training: bool = True) -> None:
        """Draw the pictures, of both splits always, unless a whole set by the present generator is there.

        Nothing half-done is ever seen under the final name, so processes that start together do no harm.

        Raises:
            UserError: the folder cannot be written.
        """
        if self._is_whole():
            return
        try:
            self._generate()
        except OSError as error:
            cause = f"cannot write the generated images ({error.strerror or error})"
            remedy = "free some space or choose another folder by data.root=DIR"
            raise UserError(str(self.folder), cause, remedy) from error

    def refuse_to_draw_more(self) -> None:
        """Refuse what would have as many pictures drawn as the root holds in no size yet.

        A checkpoint may come from a stranger: without the user's word it fills no folder.

        Raises:
            UserError: with the number, and what to add to have them drawn.
        """
        root, (train, val) = self.folder.parent, self.counts.values()
        if not any(root.glob(f"*x*-seed*-{train}+{val}/{_STAMP}")):
            cause = f"the checkpoint's data set of {train:,} + {val:,} pictures is not in {root}"
            remedy = f"add {typed('data.root', root)} to have it drawn there, or name another folder or data set"
            raise UserError("data=shapes", cause, remedy)

    def _stamp(self) -> dict:
        width, height = self.resolution.width, self.resolution.height
        return {"generator": GENERATOR_VERSION, "size": [width, height], "seed": self.seed, "images": self.counts}

    def _is_whole(self) -> bool:
        try:
            stamp = json.loads((self.folder / _STAMP).read_text(encoding="utf-8"))
            found = {split: len(os.listdir(self.folder / split)) for split in self.counts}
        except (OSError, ValueError):
            return False
        return stamp == self._stamp() and found == self.counts and self._annotations_exist()

    def _annotations_exist(self) -> bool:
        return self.train_annotations.is_file() and self.val_annotations.is_file()

    def _generate(self) -> None:
        self.folder.parent.mkdir(parents=True, exist_ok=True)
        with _scratch_folder(self.folder.parent) as scratch:
            fresh = scratch / "fresh"
            fresh.mkdir()
            pictures = write_scenes(
                fresh,
                width=self.resolution.width,
                height=self.resolution.height,
                counts=self.counts,
                seed=self.seed,
                workers=num_cores(),
            )
            # disable=None: a bar on a terminal, nothing in a log file.
            bar = {"desc": f"drawing {self.folder}", "unit": "image", "disable": None, "leave": False}
            for _ in tqdm(pictures, total=sum(self.counts.values()), **bar):
                pass
            (fresh / _STAMP).write_text(json.dumps(self._stamp()), encoding="utf-8")
            self._put_in_place(fresh, scratch / "replaced")

    def _put_in_place(self, fresh: Path, replaced: Path) -> None:
        if self._is_whole():  # another process was faster
            return
        if self.folder.exists():
            os.rename(self.folder, replaced)
        try:
            os.rename(fresh, self.folder)
        except OSError:
            if not self._is_whole():
                raise


@contextlib.contextmanager
def _scratch_folder(parent: Path):
    """A folder of our own on the same disk, removed at the end whatever happens."""
    scratch = Path(tempfile.mkdtemp(prefix=".unfinished-", dir=parent))
    try:
        yield scratch
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
