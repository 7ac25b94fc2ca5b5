"""The two jobs of the command line, from a checked configuration to finished files."""

import json
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from omegaconf import DictConfig, OmegaConf

from neo_model.config.build import build_model_from_config
from neo_model.config.instantiate import instantiate
from neo_model.utils import UserError

log = logging.getLogger("neo_model")


def train_job(config: DictConfig, run_dir: Path) -> float:
    """Train in ``run_dir``, from the start or from where the run of that folder stopped.

    Returns:
        the best validation AP.

    Raises:
        UserError: the data, the weights or the disk are at fault.
    """
    data = instantiate(config.data, key="data")
    data.check_same_classes()
    with logging_to(run_dir / "train.log"):
        return _train(config, data, run_dir)


def _train(config: DictConfig, data, run_dir: Path) -> float:
    from neo_model.engine import Runner, RunSettings
    from neo_model.models import load_weights
    from neo_model.utils.seeding import seed_everything

    # Unresolved, so that what comes from the environment stays there.
    plain = OmegaConf.to_container(config, resolve=False)
    if not (run_dir / "config.yaml").exists():
        (run_dir / "config.yaml").write_text(OmegaConf.to_yaml(config))
    seed_everything(config.seed)
    num_classes = len(data.classes.names)
    model = instantiate(config.model, key="model", num_classes=num_classes)
    if config.weights is not None and config.resume is None:
        load_weights(model, config.weights, rehead=config.rehead)
    hardware = instantiate(config.hardware, key="hardware")
    log.info("%s on %d classes, %s", _title(config), num_classes, hardware)
    runner = Runner(
        model=model,
        criterion=instantiate(config.criterion, key="criterion", num_classes=num_classes),
        data=data,
        optim=instantiate(config.optim, key="optim"),
        schedule=instantiate(config.schedule, key="schedule"),
        ema=instantiate(config.ema, key="ema"),
        plan=instantiate(config.evaluation, key="evaluation"),
        loggers=list(instantiate(config.logger, key="logger").values()),
        hardware=hardware,
        settings=RunSettings(
            epochs=config.epochs,
            seed=config.seed,
            overfit=config.overfit,
            limit_batches=config.limit_batches,
            log_every=config.log_every,
        ),
        run_dir=run_dir,
        config=plain,
    )
    if config.resume is not None:
        runner.restore(runner.last_path)
        log.info("going on at step %d, epoch %d", runner.progress.step, runner.progress.epoch + 1)
    best = runner.run()
    log.info("done: %s reached AP %.4f at its best", run_dir, best)
    log.info("next: python eval.py ckpt=%s", runner.best_path)
    return best


def _title(config: DictConfig) -> str:
    from neo_model.config.command_line import choices_of

    choice = choices_of(config)
    return f"{choice.get('model', 'model')} on {choice.get('data', 'data')}"


def eval_job(config: DictConfig, run_dir: Path) -> dict:
    """Evaluate the checkpoint ``config.ckpt`` and write metrics and detections into ``run_dir``.

    Args:
        config: the training's configuration with the command line's changes, and the keys of conf/eval.yaml.
        run_dir: an empty folder.

    Returns:
        the metrics: the twelve COCO figures and ``per_class``.
    """
    import dataclasses

    from neo_model.engine import evaluate
    from neo_model.engine.checkpoint import averaged_weights, check_classes, read_checkpoint
    from neo_model.evaluation import CocoEvaluator, class_table, metrics_json, summary_table

    checkpoint = read_checkpoint(config.ckpt)
    data = instantiate(config.data, key="data")
    check_classes(config.ckpt, checkpoint["classes"], data.val_classes)
    model = build_model_from_config(
        OmegaConf.to_container(config.model, resolve=True), num_classes=len(checkpoint["classes"]["names"])
    )
    model.load_state_dict(averaged_weights(checkpoint))
    hardware = instantiate(config.hardware, key="hardware")
    hardware.set_backends()
    plan = instantiate(config.evaluation, key="evaluation")
    changes = {key: config[key] for key in ("conf_threshold", "nms_threshold") if config[key] is not None}
    plan = dataclasses.replace(plan, **changes)
    loader = data.val_loader(
        batch_size=hardware.batch_size,
        workers=hardware.workers,
        prefetch=hardware.prefetch,
        pin_memory=hardware.pin_memory,
        overfit=config.overfit,
        limit=config.limit_batches,
    )
    evaluator = CocoEvaluator(data.val_ground_truth(config.overfit), checkpoint["classes"]["category_ids"])
    model = hardware.place_model(model)
    try:
        evaluate(model, with_bar(loader), evaluator, plan, hardware)
    except FloatingPointError as error:
        raise UserError(str(config.ckpt), str(error), "evaluate with hardware.precision=fp32") from error
    metrics = evaluator.compute(only_seen=config.limit_batches is not None)
    (run_dir / "metrics.json").write_text(json.dumps(metrics_json(metrics), indent=2) + "\n")
    evaluator.write_detections(run_dir / "detections.json")
    print(summary_table(metrics), class_table(metrics), sep="\n\n")
    print(f"\nmetrics and detections: {run_dir}")
    return metrics


def with_bar(batches) -> Iterator:
    """``batches`` with a progress bar on a terminal."""
    from tqdm import tqdm

    return iter(tqdm(batches, desc="evaluating", unit="batch", leave=False, disable=None))


@contextmanager
def logging_to(path: Path) -> Iterator[None]:
    """Messages of ours go to the terminal and, with times, to ``path``."""
    from neo_model.engine.console import ConsoleHandler

    console, file = ConsoleHandler(), logging.FileHandler(path)
    file.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    log.setLevel(logging.INFO)
    for handler in (console, file):
        log.addHandler(handler)
    try:
        yield
    finally:
        for handler in (console, file):
            log.removeHandler(handler)
            handler.close()
