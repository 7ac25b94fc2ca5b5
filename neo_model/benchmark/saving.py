"""How long a training stands still for a checkpoint: model, averaged weights, AdamW's state.

The checkpoint goes through the run's own folder of checkpoints, and its time is split into what torch needs to make an
archive of it (on a GPU that includes the copies to the host), the checksum, writing, and waiting for the disk. A copy
of all tensors in memory is the least that writing in the background would stop the training for.
"""

import argparse
import os
import tempfile
import time
from collections import defaultdict
from pathlib import Path

import torch

from neo_model.benchmark.measure import timings_of_parts, undisturbed
from neo_model.benchmark.step_parts import watched
from neo_model.benchmark.table import Report, Row, Table
from neo_model.benchmark.training import our_learner
from neo_model.engine.checkpoint_folder import CheckpointFolder
from neo_model.engine.hardware import Hardware
from neo_model.engine.run_state import training_state, weights_state
from neo_model.engine.training_loop import Learner
from neo_model.utils.sealed_file import SealedWriter

SAVE, SERIALISE, CHECKSUM, WRITE, DISK = "save", "archive", "checksum", "write", "wait for the disk"
COPY = "copy in memory"
MINUTES = 10  # between two checkpoints, as conf/train.yaml has it


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of this benchmark."""
    parser.add_argument("--device", default="cpu", help="cpu or cuda (cpu)")
    parser.add_argument("--depths", type=int, nargs="+", default=[18, 50], choices=(18, 50), help="(18 50)")
    parser.add_argument("--folder", type=Path, help="on the disk to try; a temporary one by default")


def run(arguments: argparse.Namespace) -> Report:
    """A table for each depth."""
    tables, notes = [], []
    for depth in arguments.depths:
        learner = our_learner(depth, Hardware(device=arguments.device), average=True)
        _fill_optimizer(learner)
        with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
            saving = Saving(learner, Path(folder))
            for _ in range(arguments.warmup):
                saving.save()
            samples = [undisturbed(saving.save) for _ in range(arguments.rounds)]
            mebibytes = saving.checkpoints.last.stat().st_size / 2**20
        spent, retakes, disturbed = zip(*samples, strict=True)
        parts = (SAVE, SERIALISE, CHECKSUM, WRITE, DISK, COPY)
        timings = timings_of_parts(parts, spent, retakes=sum(retakes), disturbed=sum(disturbed))
        rows = [Row(part, timing, "ms") for part, timing in timings.items()]
        tables.append(Table(f"R{depth}, {mebibytes:,.0f} MiB", rows, SAVE))
        share = rows[0].value.median / (60 * MINUTES)
        notes.append(f"R{depth}: a checkpoint in {MINUTES} minutes takes {share:.2%} of the time.")
    return Report("saving", tables, notes)


class Saving:
    """Saves the state of a learner again and again, each time as of the next step.

    Args:
        learner: what is saved.
        folder: the run's.
    """

    def __init__(self, learner: Learner, folder: Path) -> None:
        self.learner, self.checkpoints = learner, CheckpointFolder(folder)
        self._step = 0

    def save(self) -> dict[str, float]:
        """Save once; returns the seconds of the parts."""
        self._step += 1
        spent: dict[str, float] = defaultdict(float)
        device = next(self.learner.model.parameters()).device
        # It hashes what it passes on to `os.write`.
        watchers = [(SealedWriter, "_pass_on", CHECKSUM), (os, "write", WRITE), (os, "fsync", DISK)]
        started = time.perf_counter()
        with watched(watchers, spent, device):
            self.checkpoints.save_last(self.content())
        spent[SAVE] = time.perf_counter() - started
        spent[SERIALISE] = spent[SAVE] - spent[CHECKSUM] - spent[WRITE] - spent[DISK]
        started = time.perf_counter()
        copied(self.content())
        spent[COPY] = time.perf_counter() - started
        return spent

    def content(self) -> dict:
        """What a run's checkpoint holds that counts."""
        progress = {"step": self._step, "epoch": 0}
        return weights_state(self.learner) | training_state(self.learner, 1) | {"progress": progress}


def copied(value: object) -> object:
    """Plain containers with copies, on the host, of all tensors in them."""
    if isinstance(value, torch.Tensor):
        return value.detach().to("cpu", copy=True)
    if isinstance(value, dict):
        return {key: copied(entry) for key, entry in value.items()}
    return [copied(entry) for entry in value] if isinstance(value, list | tuple) else value


def _fill_optimizer(learner: Learner) -> None:
    """The state that AdamW has after a step."""
    for group in learner.optimizer.param_groups:
        for parameter in group["params"]:
            parameter.grad = torch.zeros_like(parameter)
    learner.optimizer.step()
    learner.optimizer.zero_grad(set_to_none=True)
