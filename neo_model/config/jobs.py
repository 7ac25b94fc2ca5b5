"""The training of the command line, from a checked configuration to finished files."""

import dataclasses
import json
import logging
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from omegaconf import DictConfig, OmegaConf
from torch import nn

from neo_model.config.build import build_model_from_config
from neo_model.config.instantiate import instantiate
from neo_model.config.restore import refuse_another_training
from neo_model.config.run_log import LogFile, run_log
from neo_model.config.targets import TARGET
from neo_model.data import Classes, DetectionData, TrainLoader
from neo_model.data.workers import telling_of_lost_workers
from neo_model.engine import Runner, RunSettings
from neo_model.engine.checkpoint import averaged_weights, read_checkpoint
from neo_model.engine.checkpoint_folder import CheckpointFolder
from neo_model.engine.hardware import Hardware
from neo_model.engine.latency import latency_ms
from neo_model.engine.progress import Interrupted
from neo_model.engine.run_lock import training_alone
from neo_model.models import load_weights
from neo_model.utils import UserError
from neo_model.utils.files import write_whole
from neo_model.utils.memory import is_out_of_memory
from neo_model.utils.quoting import typed
from neo_model.utils.secrets import redacted
from neo_model.utils.seeding import seed_everything

log = logging.getLogger("neo_model")


def train_job(config: DictConfig, open_folder: Callable[[], Path], *, resume: bool = False) -> float:
    """Train from the start, or from where the run in the folder stopped.

    Args:
        config: a checked configuration.
        open_folder: creates the run's folder and returns it; called once annotations, images and weights have proved
            usable, so that a mistake of the user's leaves no run behind.
        resume: go on from the folder's newest checkpoint.

    Returns:
        the best validation AP.

    Raises:
        UserError: the data, the weights or the disk are at fault, or another process trains in the folder.
        Interrupted: Ctrl-C or SIGTERM, after the checkpoint.
    """
    with run_log() as file_log, telling_what_helps(config), ExitStack() as held:
        hardware = instantiate(config.hardware, key="hardware")
        hardware.set_backends()  # before any large tensor is made
        data = instantiate(config.data, key="data")
        data.check_same_classes()
        data.inspect_val_images(config.overfit)
        train_loader = data.train_loader(seed=config.seed, overfit=config.overfit, **hardware.loading)
        held.callback(train_loader.close)
        train_loader.start_workers()  # before the weights, which they would share
        seed_everything(config.seed)
        model = _starting_model(config, data.classes, resume=resume)
        data.warn_of_crowded_images(model.decoder.num_queries)
        run_dir = open_folder()
        held.enter_context(training_alone(run_dir))
        if not resume:
            _refuse_saved(run_dir)
        file_log.setTarget(LogFile(run_dir / "train.log"))
        if not resume:
            write_whole(run_dir / "config.yaml", OmegaConf.to_yaml(config))
        write_whole(run_dir / "data_findings.json", redacted(json.dumps(data.findings(), indent=2)) + "\n")
        runner = _runner(config, model, data, train_loader, hardware, run_dir)
        log.info("%s, %d classes, %s", title_of(config), len(data.classes.names), runner.hardware)
        if resume:
            _restore(runner, config)
        try:
            best = runner.run()
        except Interrupted:
            if runner.checkpoints.last.is_file():
                log.info("next: python train.py %s", typed("resume", run_dir))
            raise
        log.info("done: %s reached AP %.4f at its best", run_dir, best)
        log.info("next: python eval.py %s", typed("ckpt", runner.checkpoints.best))
    return best


def _refuse_saved(run_dir: Path) -> None:
    """Let nothing that is saved be written over: what another process has left since it was looked for, or best weights
    whose states somebody has removed."""
    checkpoints = CheckpointFolder(run_dir)
    if not checkpoints.is_empty():
        raise UserError(str(run_dir), "another process has trained here meanwhile", "start again with resume=auto")
    if checkpoints.best.exists():
        remedy = "move it away, or choose another folder"
        raise UserError(str(checkpoints.best), "is there, but no state to go on from", remedy)


def _starting_model(config: DictConfig, classes: Classes, *, resume: bool) -> nn.Module:
    """The model with the weights that a new run starts from; a resumed run fills in its own."""
    pretrained_backbone = not resume and config.weights is None
    num_classes = len(classes.names)
    model = build_model_from_config(config.model, num_classes=num_classes, pretrained_backbone=pretrained_backbone)
    if config.weights is not None and not resume:
        load_weights(model, config.weights, rehead=config.rehead, class_names=classes.names)
    return model


def _runner(
    config: DictConfig,
    model: nn.Module,
    data: DetectionData,
    train_loader: TrainLoader,
    hardware: Hardware,
    run_dir: Path,
) -> Runner:
    return Runner(
        model=model,
        criterion=instantiate(config.criterion, key="criterion", num_classes=len(data.classes.names)),
        data=data,
        train_loader=train_loader,
        optim=instantiate(config.optim, key="optim"),
        schedule=instantiate(config.schedule, key="schedule"),
        ema=instantiate(config.ema, key="ema"),
        plan=instantiate(config.evaluation, key="evaluation"),
        loggers=list(instantiate(config.logger, key="logger").values()),
        hardware=hardware,
        settings=RunSettings(**{field.name: config[field.name] for field in dataclasses.fields(RunSettings)}),
        run_dir=run_dir,
        # Unresolved, so that what comes from the environment stays there.
        config=OmegaConf.to_container(config, resolve=False),
    )


def _restore(runner: Runner, config: DictConfig) -> None:
    # Once more, now that nobody else trains here: another process may have gone on with other settings meanwhile.
    runner.restore(lambda checkpoint: refuse_another_training(runner.run_dir, checkpoint, config))
    log.info("going on after step %d of %d", runner.progress.step, runner.total_steps)
    epochs = runner.settings.epochs
    if runner.progress.epoch >= epochs:
        log.info("all %d epochs are done; epochs=N trains for longer", epochs)


@contextmanager
def telling_what_helps(config: DictConfig) -> Iterator[None]:
    """Memory that runs out and loader processes that are lost are the user's to mend, without a traceback."""
    try:
        with telling_of_lost_workers():
            yield
    except (RuntimeError, MemoryError, OSError) as error:  # of a GPU or a library, of Python, of the system
        if not is_out_of_memory(error):
            raise
        said = str(error) or "Python is out of memory"
        said = ". ".join(said.splitlines()[0].split(". ")[:2]).rstrip(".")  # torch goes on with advice for programmers
        peak = instantiate(config.hardware, key="hardware").memory_gib()
        size = config.data.resolution
        load = f"{config.hardware.batch_size} images of {size.width}x{size.height} are too much at once"
        remedy = "lower it and raise hardware.accumulate, set hardware.recompute=[backbone,encoder]"
        remedy += ", or take a smaller data/resolution"
        if isinstance(error, OSError):  # to fork a loader process or to share memory with it, for example
            remedy += ", or lower hardware.workers"
        raise UserError("hardware.batch_size", f"{load} (peak {peak:.1f} GiB; {said})", remedy) from error


def title_of(config: DictConfig) -> str:
    """What is trained on what, for example "RTDETR with ResNetVD 50 on coco"."""
    backbone = config.model.backbone
    names = [config.model[TARGET].rpartition(".")[2], backbone[TARGET].rpartition(".")[2]]
    data = config.data.get("name") or config.data[TARGET].rpartition(".")[2].removesuffix("Data").lower()
    return f"{names[0]} with {names[1]} {backbone.get('depth') or backbone.get('name')} on {data}"


def trained_model(checkpoint: dict, config: DictConfig, path: str) -> nn.Module:
    """The averaged model of a checkpoint.

    Raises:
        UserError: the configuration is of another model than the weights.
    """
    model = build_model_from_config(config.model, num_classes=len(checkpoint["classes"]["names"]))
    try:
        model.load_state_dict(averaged_weights(checkpoint))
    except RuntimeError as error:
        remedy = "leave model out, the checkpoint brings its own"
        raise UserError(path, "holds the weights of another model", remedy) from error
    return model


def latency_of(config: DictConfig, path: Path) -> float | None:
    """Milliseconds that a run's best model takes for one image; None where there is no such file."""
    if not path.is_file():
        return None
    model = trained_model(read_checkpoint(path), config, str(path))
    size = instantiate(config.data, key="data").resolution.size
    plan, hardware = instantiate(config.evaluation, key="evaluation"), instantiate(config.hardware, key="hardware")
    return latency_ms(model, size, plan, hardware)
