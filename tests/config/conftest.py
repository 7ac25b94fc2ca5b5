"""The commands, run within the test's process, and data small enough for them."""

import errno
import json
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from neo_model.config.command_line import main

SIZE = ["data.resolution.width=256", "data.resolution.height=144"]
CPU = ["hardware=cpu", "hardware.workers=0", "hardware.batch_size=4", "hardware.precision=fp32"]


@dataclass(frozen=True)
class Outcome:
    """How a command ended: exit code, standard output, standard error."""

    code: int
    out: str
    err: str

    @property
    def error(self) -> str:
        """The one line that a user error prints."""
        assert self.code == 2, self.err
        assert self.err.count("\n") == 1 and self.err.startswith("error: "), self.err
        return self.err


@pytest.fixture(scope="package")
def shapes_root(tmp_path_factory) -> Path:
    """Where the generated pictures of all these tests lie."""
    return tmp_path_factory.mktemp("shapes")


@pytest.fixture(scope="package")
def tiny(shapes_root) -> list[str]:
    """Overrides of a run of seconds, without loggers; what the tests below count on is not left to defaults."""
    data = [f"data.root={shapes_root}", "data.num_train=12", "data.num_val=4"]
    plan = ["evaluation.every=1", "evaluation.conf_threshold=0.01", "evaluation.nms_threshold=null"]
    return ["model=tiny", *data, *SIZE, *CPU, *plan, "logger=none", "epochs=1"]


@pytest.fixture(scope="package", autouse=True)
def one_thread():
    """The order of sums, and so their last bits, depends on the number of threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(autouse=True)
def few_latency_samples(monkeypatch):
    """A sweep's jobs are timed for two seconds each, which says nothing here."""
    monkeypatch.setattr("neo_model.engine.latency.BUDGET_SECONDS", 0)


@pytest.fixture(scope="package")
def trained(tmp_path_factory, tiny) -> Path:
    """A run that has learnt two pictures well enough for its AP to say something."""
    run_dir = tmp_path_factory.mktemp("trained") / "run"
    longer = ["overfit=2", "hardware.batch_size=1", "epochs=24", "evaluation.every=24"]
    rate = ["optim.lr=2e-3", "schedule=constant", "schedule.warmup_steps=5", "seed=1"]
    assert main("train", [*tiny, *longer, *rate, f"hydra.run.dir={run_dir}"]) == 0
    return run_dir


@pytest.fixture
def close(monkeypatch):
    """Has the system refuse to look into a folder, which root may always."""

    def refuse_to_look_into(folder: str) -> None:
        look = Path.stat

        def look_or_refuse(path, **options):
            if path.parent == Path(folder):
                raise PermissionError(errno.EACCES, "Permission denied", str(path))
            return look(path, **options)

        monkeypatch.setattr(Path, "stat", look_or_refuse)

    return refuse_to_look_into


@pytest.fixture
def command(tmp_path, monkeypatch, capfd):
    """Runs ``command("train", "epochs=1", ...)`` in ``tmp_path``."""
    monkeypatch.chdir(tmp_path)

    def run(job: str, *arguments: str) -> Outcome:
        capfd.readouterr()
        code = main(job, list(arguments))
        return Outcome(code, *capfd.readouterr())

    return run


@pytest.fixture
def make_coco(tmp_path):
    """Writes a data set of ``data=custom`` with rectangles of the given classes and returns its folder."""

    def make(name: str, classes: list[str], num_images: int = 4) -> Path:
        root = tmp_path / name
        (root / "images").mkdir(parents=True)
        generator = np.random.default_rng(0)
        for number in range(num_images):
            picture = generator.integers(0, 60, (144, 256, 3), dtype=np.uint8)
            picture[40:100, 50:150] = 200
            cv2.imwrite(str(root / "images" / f"{number}.png"), picture)
        images = [{"id": n + 1, "file_name": f"{n}.png", "width": 256, "height": 144} for n in range(num_images)]
        box = {"bbox": [50, 40, 100, 60], "area": 6000, "iscrowd": 0, "category_id": 1}
        boxes = [{"id": n + 1, "image_id": n + 1, **box} for n in range(num_images)]
        categories = [{"id": n + 1, "name": name} for n, name in enumerate(classes)]
        text = json.dumps({"images": images, "annotations": boxes, "categories": categories})
        for split in ("train", "val"):
            (root / f"instances_{split}.json").write_text(text)
        return root

    return make


def folders_of_runs(folder: Path) -> list[str]:
    """Runs and evaluations that commands in ``folder`` have left."""
    return sorted(path.name for path in folder.glob("outputs/*/*"))
