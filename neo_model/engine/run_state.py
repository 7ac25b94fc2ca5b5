"""Everything that decides how a run goes on, to and from plain containers and tensors."""

import dataclasses
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from torch.optim import Optimizer

from neo_model.engine.progress import Progress
from neo_model.engine.training_loop import Learner
from neo_model.utils import UserError
from neo_model.utils.memory import is_out_of_memory
from neo_model.utils.seeding import random_state, restore_random_state

REMEDY = "go on with another checkpoint of the run, or start a new run with weights=FILE"


def weights_state(learner: Learner) -> dict:
    """What evaluation needs of a learner."""
    ema = learner.ema
    return {
        "model": learner.model.state_dict(),
        "ema": None if ema is None else {"module": ema.module.state_dict(), "n_averaged": ema.n_averaged},
    }


def training_state(learner: Learner, steps_per_epoch: int) -> dict:
    """What the next step needs beside the weights; the position in the epoch is in `Progress`."""
    return {
        "optimizer": learner.optimizer.state_dict(),
        "scheduler": {"last_epoch": learner.scheduler.last_epoch, "steps_per_epoch": steps_per_epoch},
        "scaler": learner.scaler.state_dict(),
        "random": random_state(),
    }


def restore(path: Path, content: dict, learner: Learner, progress: Progress, steps_per_epoch: int) -> None:
    """Put both states of a checkpoint back, and its progress.

    Raises:
        UserError: it holds weights only, those of another model, no average of them where the run has one, part of an
            epoch of another length, or states that lack something or do not fit.
    """
    if "optimizer" not in content:
        raise UserError(str(path), "holds weights only", "resume from the run's folder, which has last.pt")
    if (learner.ema is None) != (content["ema"] is None):
        cause = "its ema is missing" if content["ema"] is None else "has an ema, which this run is without"
        raise UserError(str(path), cause, REMEDY)
    try:
        learner.model.load_state_dict(content["model"])
        if learner.ema is not None:
            learner.ema.module.load_state_dict(content["ema"]["module"])
    except RuntimeError as error:
        if is_out_of_memory(error):
            raise
        raise UserError(str(path), "holds the weights of another model", REMEDY) from error
    if learner.ema is not None:
        with telling_of_misfit(path, "ema"):
            learner.ema.n_averaged.copy_(content["ema"]["n_averaged"])
    with telling_of_misfit(path, "optimizer"):
        _restore_optimizer(content["optimizer"], learner.optimizer)
    with telling_of_misfit(path, "scaler"):
        if content["scaler"]:  # empty of a precision that needs none: another one's starts afresh
            learner.scaler.load_state_dict(content["scaler"])
    with telling_of_misfit(path, "progress"):
        _restore_progress(content["progress"], progress)
    with telling_of_misfit(path, "scheduler"):
        _restore_schedule(path, content["scheduler"], learner, progress, steps_per_epoch)
    with telling_of_misfit(path, "random"):
        restore_random_state(content["random"])


@contextmanager
def telling_of_misfit(path: Path, entry: str) -> Iterator[None]:
    """Turn what an entry of a checkpoint raises, when it is taken over, into a ``UserError`` that names both."""
    try:
        yield
    except (RuntimeError, ValueError, LookupError, TypeError, AttributeError, OverflowError) as error:
        if is_out_of_memory(error):
            raise
        reason = f"{error} is missing" if isinstance(error, KeyError) else str(error)
        raise UserError(str(path), f"its {entry} cannot be gone on with ({reason})", REMEDY) from error


def _restore_optimizer(saved: dict, optimizer: Optimizer) -> None:
    """Take over what the steps so far have left; the settings are those of this run, which were compared before."""
    pairs = zip(optimizer.param_groups, saved["param_groups"], strict=True)
    optimizer.load_state_dict(saved | {"param_groups": [own | {"params": group["params"]} for own, group in pairs]})
    for parameter, state in optimizer.state.items():
        for name in ("exp_avg", "exp_avg_sq"):
            if state[name].shape != parameter.shape:
                raise ValueError(f"{name} has shape {tuple(state[name].shape)}, its weights {tuple(parameter.shape)}")
        if state["step"].numel() != 1:
            raise ValueError(f"step has {state['step'].numel()} values")


def _restore_progress(saved: dict, progress: Progress) -> None:
    """Take over all that ``Progress`` has, and nothing else; what a checkpoint of old has not is as at the start."""
    found = Progress(**saved)
    for field in dataclasses.fields(found):
        value = getattr(found, field.name)
        if type(value) not in ((float, int) if field.type is float else (field.type,)):
            raise TypeError(f"{field.name} is {value!r}")
        setattr(progress, field.name, value)


def _restore_schedule(
    path: Path, saved: dict[str, int], learner: Learner, progress: Progress, steps_per_epoch: int
) -> None:
    """Take the schedule up where it was: its factor is a pure function of the step and of this run's length."""
    scheduler = learner.scheduler
    scheduler.last_epoch = saved["last_epoch"]
    if type(scheduler.last_epoch) is not int or not 0 <= scheduler.last_epoch < 2**53:
        raise ValueError(f"last_epoch is {scheduler.last_epoch!r}")
    if saved["steps_per_epoch"] != steps_per_epoch:
        if progress.batch:
            cause = f"stopped within an epoch of {saved['steps_per_epoch']} steps, which now has {steps_per_epoch}"
            raise UserError(str(path), cause, "go on with the same data and batches")
        # Another batch size: as many epochs are behind the schedule, however many steps they took.
        scheduler.last_epoch = progress.epoch * steps_per_epoch
    for group, base, factor in zip(
        learner.optimizer.param_groups, scheduler.base_lrs, scheduler.lr_lambdas, strict=True
    ):
        group["lr"] = base * factor(scheduler.last_epoch)
