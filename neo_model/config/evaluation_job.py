"""The evaluation of the command line, from a checkpoint to metrics, detections and a report."""

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
from omegaconf import DictConfig, OmegaConf
from tqdm import tqdm

from neo_model.config.instantiate import instantiate
from neo_model.config.jobs import telling_what_helps, title_of, trained_model
from neo_model.config.restore import DATA_VIEW, restore_training_config
from neo_model.data import DetectionData
from neo_model.engine import EvaluationPlan, evaluate, inference_form
from neo_model.engine.checkpoint import check_classes, read_checkpoint
from neo_model.evaluation import CocoEvaluator, class_table, metrics_json, summary_table
from neo_model.reports.stored_evaluation import DETECTIONS_FILE, METRICS_FILE, StoredEvaluation, read_evaluation
from neo_model.utils import UserError
from neo_model.utils.files import is_file, is_folder, write_whole
from neo_model.utils.secrets import redacted


def eval_job(checkpoint: dict, config: DictConfig, settings: DictConfig, open_folder: Callable[[], Path]) -> dict:
    """Evaluate a checkpoint and write metrics and detections, and a report if there is to be one.

    Args:
        checkpoint: what `read_checkpoint` returned for ``settings.ckpt``.
        config: the training's configuration with the command line's changes.
        settings: the keys of conf/eval.yaml.
        open_folder: creates the folder for the results and returns it; called once everything has proved usable.

    Returns:
        the metrics: the twelve COCO figures and ``per_class``.

    Raises:
        UserError: the checkpoint, the data, what it is compared with or the disk are at fault.
    """
    evaluation = _Evaluation(checkpoint, config, settings, settings.ckpt)
    other = _compared_with(evaluation, settings)
    run_dir = open_folder()
    metrics = evaluation.run("evaluating")
    evaluation.evaluator.write_detections(run_dir / DETECTIONS_FILE)
    # Last: a folder with this file is a whole evaluation, see `_compared_with`.
    write_whole(run_dir / METRICS_FILE, json.dumps(metrics_json(metrics), indent=2) + "\n")
    print(summary_table(metrics), class_table(metrics), sep="\n\n")
    if part := evaluation.part():
        print(f"\n{part}")
    print(f"\nmetrics and detections: {run_dir}")
    if settings.report:
        print(f"report: {_write_report(run_dir, evaluation, metrics, other, settings.compare)}")
    return metrics


class _Evaluation:
    """One checkpoint on one set of images; everything that can be refused is refused at once.

    Args:
        checkpoint: the content of ``path``.
        config: the training's configuration with the command line's changes.
        settings: the keys of conf/eval.yaml.
        path: the checkpoint, for errors.
    """

    def __init__(self, checkpoint: dict, config: DictConfig, settings: DictConfig, path: str) -> None:
        self.checkpoint, self.config, self.path = checkpoint, config, path
        self.data: DetectionData = instantiate(config.data, key="data")
        # Results are in the data's ids, whichever the training's had.
        check_classes(path, checkpoint["classes"], self.data.val_classes, any_ids=True)
        self.hardware = instantiate(config.hardware, key="hardware")
        self.hardware.set_backends()
        self.model = trained_model(checkpoint, config, path)
        self.plan = _plan(config, settings)
        self.only_seen = config.limit_batches is not None
        self.evaluator = self.new_evaluator()

    def new_evaluator(self) -> CocoEvaluator:
        """An evaluator of the same images, empty."""
        truth = self.data.val_ground_truth(self.config.overfit)
        return CocoEvaluator(truth, self.data.val_classes.category_ids, backend=self.plan.backend)

    def run(self, what: str) -> dict:
        """Every image through the network; returns the metrics."""
        config = self.config
        limits = {"overfit": config.overfit, "limit": config.limit_batches}
        loader = self.data.val_loader(**limits, **self.hardware.loading)
        batches = tqdm(loader, desc=what, unit="batch", leave=False, disable=None)
        try:
            with telling_what_helps(config):
                model = inference_form(self.model, self.hardware)
                evaluate(model, batches, self.evaluator, self.plan, self.hardware)
        except FloatingPointError as error:
            raise UserError(self.path, str(error), "evaluate with hardware.precision=fp32") from error
        return self.evaluator.compute(only_seen=self.only_seen)

    def part(self) -> str:
        """Which part of the images it was, where a setting, perhaps the training's, left others out; else nothing."""
        overfit, limit = self.config.overfit, self.config.limit_batches
        num_images = num_all = len(self.data.val_dataset(overfit))
        if limit is not None:
            num_images = min(num_all, limit * self.hardware.batch_size)
        if not overfit and num_images == num_all:
            return ""
        what = "training" if overfit else "validation"
        chosen = f"overfit={overfit} limit_batches={'null' if limit is None else limit}"
        everything = "overfit=0 limit_batches=null evaluates all validation images"
        return f"on the first {num_images:,} {what} images ({chosen}); {everything}"


def _compared_with(own: _Evaluation, settings: DictConfig) -> "_Evaluation | StoredEvaluation | None":
    """What ``compare`` names: an evaluation's folder is read, a run or a checkpoint is yet to be evaluated."""
    if settings.compare is None:
        return None
    if not settings.report:
        raise UserError("compare", "is told of in the report", "add report=true")
    path = Path(settings.compare)
    if is_file(path / METRICS_FILE):
        return read_evaluation(path, own.evaluator.class_names())
    best = path / "checkpoints" / "best.pt" if is_folder(path) else path
    if not is_file(best):
        cause = "holds no evaluation and no checkpoints/best.pt" if is_folder(path) else "does not exist"
        raise UserError(f"compare={path}", cause, "give a folder of outputs/eval or outputs/train, or a checkpoint")
    checkpoint = read_checkpoint(best)
    config = restore_training_config(checkpoint["config"], training=False)
    # The same images on the same machine; what the network sees of them stays as it was trained.
    view = {name: config.data[name] for name in DATA_VIEW if name in config.data}
    OmegaConf.update(config, "data", {**own.config.data, **view}, merge=False)
    for name in ("hardware", "overfit", "limit_batches"):
        config[name] = own.config[name]
    return _Evaluation(checkpoint, config, settings, str(best))


def _write_report(
    run_dir: Path, own: _Evaluation, metrics: dict, other: "_Evaluation | StoredEvaluation | None", compared: str | None
) -> Path:
    from neo_model.reports.evaluation import REPORT_FILE, EvaluatedImages, analyse, write_evaluation_report

    arrays = own.evaluator.arrays(only_seen=own.only_seen)
    dataset = own.data.val_dataset(own.config.overfit)
    places = {int(dataset.instances.image_ids[row]): place for place, row in enumerate(dataset.indices)}
    order = [places[image_id] for image_id in arrays.image_ids.tolist()]
    sizes_wh = dataset.instances.sizes_wh[dataset.indices[np.array(order, np.int64)]]
    images = EvaluatedImages(ids=arrays.image_ids, paths=[dataset.path(place) for place in order], sizes_wh=sizes_wh)
    compared_with = None
    if other is not None:
        evaluator, other_metrics = _other_figures(own, metrics, other, arrays.image_ids)
        compared_with = analyse(redacted(compared), other_metrics, evaluator.arrays(only_seen=own.only_seen), sizes_wh)
    path = run_dir / REPORT_FILE
    write_evaluation_report(
        path, facts=_facts(own, arrays), images=images, own=analyse("this evaluation", metrics, arrays, sizes_wh),
        other=compared_with, title=title_of(own.config),
    )  # fmt: skip
    return path


def _other_figures(
    own: _Evaluation, metrics: dict, other: "_Evaluation | StoredEvaluation", image_ids: np.ndarray
) -> tuple[CocoEvaluator, dict]:
    if isinstance(other, _Evaluation):
        return other.evaluator, other.run("evaluating the other")
    other.check_same_objects(metrics)
    evaluator = own.new_evaluator()
    other.fill(evaluator, image_ids, own.data.val_classes.category_ids)
    return evaluator, evaluator.compute(only_seen=own.only_seen)


def _facts(own: _Evaluation, arrays) -> dict[str, str]:
    """What was evaluated on what, by label."""
    progress = own.checkpoint.get("progress", {})
    facts = {
        "checkpoint": redacted(own.path),
        "epoch": str(progress["epoch"]) if "epoch" in progress else "",
        "images": f"{len(arrays.image_ids):,}",
        "part": own.part(),
        "objects": f"{np.count_nonzero(~arrays.truth.crowd):,}",
        "detections": f"{len(arrays.found.scores):,}",
        "input": "{}x{}".format(*own.data.resolution.size),
        "conf_threshold": f"{own.plan.conf_threshold:g}",
        "nms_threshold": "none" if own.plan.nms_threshold is None else f"{own.plan.nms_threshold:g}",
    }
    return {label: value for label, value in facts.items() if value}


def _plan(config: DictConfig, settings: DictConfig) -> EvaluationPlan:
    """The training's plan with the thresholds that the command line gives."""
    changes = {key: settings[key] for key in ("conf_threshold", "nms_threshold") if settings[key] is not None}
    return dataclasses.replace(instantiate(config.evaluation, key="evaluation"), **changes)
