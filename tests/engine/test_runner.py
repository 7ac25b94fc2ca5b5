"""When a run evaluates, what it saves, when it stops."""

import json
import math
import signal
from types import SimpleNamespace

import pytest
import torch

from neo_model.data import Classes
from neo_model.engine import EvaluationPlan, Runner, RunSettings, training_loop
from neo_model.engine.checkpoint import read_checkpoint
from neo_model.engine.hardware import Hardware
from neo_model.engine.loggers import Logger
from neo_model.engine.metrics_file import MetricsFile
from neo_model.engine.progress import Interrupted
from neo_model.evaluation import SUMMARY_KEYS
from neo_model.losses import Criterion, HungarianMatcher
from neo_model.ops.geometry import Affine
from neo_model.optim import AdamW, Constant, Ema
from neo_model.utils import UserError

WIDTH, HEIGHT, NUM_BATCHES = 96, 64, 4


class Batches:
    """In place of the loaders: one image a batch; a signal is raised before the batch ``signal_before``."""

    num_bad_images = 0
    multiscale_until = 0

    def __init__(self, signal_before: int | None = None) -> None:
        self.signal_before, self.closed = signal_before, False
        self.tried_algorithms = []

    def __len__(self) -> int:
        return NUM_BATCHES

    def bad_images(self) -> list[str]:
        return []

    def restore_bad_images(self, file_names: list[str]) -> None:
        assert file_names == []

    def has_one_size(self, epoch: int) -> bool:
        return epoch >= self.multiscale_until

    def epoch(self, epoch: int, start_batch: int = 0):
        self.tried_algorithms.append(torch.backends.cudnn.benchmark)
        for number in range(start_batch, NUM_BATCHES):
            if epoch * NUM_BATCHES + number == self.signal_before:
                signal.raise_signal(signal.SIGINT)
            generator = torch.Generator().manual_seed(number)
            image = torch.randint(256, (1, 3, HEIGHT, WIDTH), dtype=torch.uint8, generator=generator)
            yield image, [
                {
                    "labels": torch.tensor([number % 3]),
                    "boxes": torch.tensor([[0.5, 0.5, 0.4, 0.4]]),
                    "image_id": number + 1,
                    "affine": Affine(1, 1, 0, 0),
                    "source_wh": (WIDTH, HEIGHT),
                }
            ]

    def __iter__(self):
        return self.epoch(0)

    def close(self) -> None:
        self.closed = True


class Data:
    """In place of a data set on disk."""

    classes = Classes(names=["a", "b", "c"], category_ids=[1, 2, 3])

    def __init__(self, signal_before: int | None) -> None:
        self.batches = Batches(signal_before)

    def fingerprints(self) -> dict:
        return {"train": {"images": NUM_BATCHES, "boxes": NUM_BATCHES, "sha256": "ab"}}

    def train_loader(self, **_) -> Batches:
        return self.batches

    def val_loader(self, **_) -> Batches:
        return Batches()

    def val_ground_truth(self, overfit: int) -> dict:
        images = [{"id": i + 1, "width": WIDTH, "height": HEIGHT, "file_name": ""} for i in range(NUM_BATCHES)]
        box = [0.3 * WIDTH, 0.3 * HEIGHT, 0.4 * WIDTH, 0.4 * HEIGHT]
        annotations = [
            {"id": i + 1, "image_id": i + 1, "category_id": i % 3 + 1, "bbox": box, "area": 900.0, "iscrowd": 0}
            for i in range(NUM_BATCHES)
        ]
        categories = [{"id": i, "name": n} for i, n in zip((1, 2, 3), self.classes.names, strict=True)]
        return {"images": images, "annotations": annotations, "categories": categories}


@pytest.fixture
def make_runner(make_model, make_hardware, tmp_path):
    def make(
        *, epochs=2, accumulate=1, signal_before=None, limit_batches=None, ema=0.9, hardware=None, data=None,
        run_dir=tmp_path, **plan,
    ) -> Runner:  # fmt: skip
        data, hardware = data or Data(signal_before), make_hardware(accumulate=accumulate, **(hardware or {}))
        return Runner(
            model=make_model(),
            criterion=Criterion(num_classes=3, matcher=HungarianMatcher()),
            data=data,
            train_loader=data.train_loader(seed=0, **hardware.loading),
            optim=AdamW(lr=1e-3),
            schedule=Constant(),
            ema=Ema(decay=ema, ramp=1.0),
            plan=EvaluationPlan(**plan),
            loggers=[],
            hardware=hardware,
            settings=RunSettings(epochs=epochs, limit_batches=limit_batches, log_every=1),
            run_dir=run_dir,
            config={"epochs": epochs},
        )

    return make


@pytest.fixture
def scripted_ap(monkeypatch):
    """Makes the evaluations of a run give these APs, one after the other."""

    def script(*values: float) -> None:
        left = iter(values)

        def compute(self, **_) -> dict:
            return dict.fromkeys(SUMMARY_KEYS, next(left)) | {"per_class": {}}

        monkeypatch.setattr("neo_model.engine.runner.CocoEvaluator.compute", compute)
        monkeypatch.setattr("neo_model.engine.runner.evaluate", lambda *arguments: None)

    return script


def records(runner: Runner, key: str) -> dict[int, float]:
    """A figure of metrics.jsonl by step."""
    lines = [json.loads(line) for line in (runner.run_dir / "metrics.jsonl").read_text().splitlines()]
    return {line["step"]: line[key] for line in lines if key in line}


@pytest.mark.parametrize(
    ("epochs", "plan", "evaluated_after"),
    [
        (3, {"every": 1}, [1, 2, 3]),
        (5, {"every": 2}, [2, 4, 5]),
        (2, {"every": 7}, [2]),
        (2, {"every": 1, "at_start": True}, [0, 1, 2]),
    ],
)
def test_evaluations_come_when_the_plan_says(make_runner, scripted_ap, epochs, plan, evaluated_after):
    scripted_ap(*[0.1] * len(evaluated_after))
    runner = make_runner(epochs=epochs, limit_batches=1, **plan)
    runner.run()
    assert list(records(runner, "val/AP")) == evaluated_after  # an epoch is one step
    assert runner.progress.epoch == epochs
    assert runner.data.batches.closed


def test_the_best_weights_are_kept_and_the_last(make_runner, scripted_ap):
    scripted_ap(0.2, 0.5, 0.4)
    runner = make_runner(epochs=3, limit_batches=1)
    assert runner.run() == 0.5
    best, last = read_checkpoint(runner.checkpoints.best), read_checkpoint(runner.checkpoints.last)
    assert (best["progress"]["epoch"], last["progress"]["epoch"]) == (2, 3)
    assert best["progress"]["best_ap"] == last["progress"]["best_ap"] == 0.5
    assert "optimizer" in last and "optimizer" not in best
    assert last["classes"] == {"names": ["a", "b", "c"], "category_ids": [1, 2, 3]} and last["config"] == {"epochs": 3}


def test_an_equal_ap_does_not_replace_the_best(make_runner, scripted_ap):
    scripted_ap(0.5, 0.5)
    runner = make_runner(epochs=2, limit_batches=1)
    runner.run()
    assert read_checkpoint(runner.checkpoints.best)["progress"]["epoch"] == 1


@pytest.mark.parametrize(
    ("patience", "aps", "epochs_trained"),
    [(1, [0.3, 0.2], 2), (2, [0.3, 0.2, 0.4, 0.1, 0.4], 5), (None, [0.3, 0.2, 0.1, 0.1, 0.1, 0.1], 6)],
)
def test_patience_counts_evaluations_without_a_better_ap(make_runner, scripted_ap, patience, aps, epochs_trained):
    scripted_ap(*aps)
    runner = make_runner(epochs=6, limit_batches=1, patience=patience)
    assert runner.run() == max(aps)
    assert runner.progress.epoch == epochs_trained


class Recorder(Logger):
    """Keeps what it is given, by kind and name, with the step."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: dict[str, list[tuple]] = {}

    def keep(self, kind: str, step: int, entries) -> None:
        self.seen.setdefault(kind, []).append((step, entries))

    def _start(self, run_dir, config, resumed) -> None:
        self.resumed = resumed

    def _scalars(self, step, values) -> None:
        self.keep("scalars", step, values)

    def _images(self, step, tag, images) -> None:
        self.keep(tag, step, images)

    def _histograms(self, step, values) -> None:
        self.keep("histograms", step, values)

    def _precision_curves(self, step, precisions) -> None:
        self.keep("curves", step, precisions)

    def _close(self) -> None: ...


def test_loggers_are_shown_training_pictures_matches_and_classes(make_runner):
    recorder = Recorder()
    runner = make_runner(epochs=2, pictures=0)
    runner.loggers.append(recorder)
    runner.plan = EvaluationPlan(pictures=1)
    runner.data.val_dataset = lambda overfit: []
    runner.run()
    seen = recorder.seen
    assert [step for step, _ in seen["train"]] == [1, NUM_BATCHES + 1]  # of the first step of each epoch
    (picture,) = seen["train"][0][1]
    image = next(iter(Batches().epoch(0)))[0][0].permute(1, 2, 0).numpy()
    assert picture.shape == image.shape and (picture != image).any() and (picture[-1] == image[-1]).all()
    steps, spread = zip(*seen["histograms"], strict=True)
    assert steps == (NUM_BATCHES, 2 * NUM_BATCHES)
    terms = [name.removeprefix("train/loss_giou") for name in seen["scalars"][0][1] if name.startswith("train/loss_giou")]
    assert set(spread[0]) == {f"matched_iou/{name[1:] or 'last'}" for name in terms if "_dn_" not in name}
    # One object an image, and every step is recorded.
    assert all(len(values) == NUM_BATCHES and 0 <= values.min() <= values.max() <= 1 for values in spread[0].values())
    (_, curves), (_, figures) = seen["curves"][-1], [entry for entry in seen["scalars"] if "val_class_AP/a" in entry[1]][-1]
    assert set(curves) == {f"val_precision/{name}" for name in "abc"} and all(len(c) == 101 for c in curves.values())
    means = [figures[f"val_class_AP/{name}"] for name in "abc"]
    assert sum(means) / 3 == pytest.approx(records(runner, "val/AP")[2 * NUM_BATCHES], abs=1e-6)


def test_predictions_that_are_not_finite_end_an_evaluation_with_what_a_resume_takes(make_runner, monkeypatch):
    def refuse(*arguments):
        raise FloatingPointError("a score of image 3 is nan")

    monkeypatch.setattr("neo_model.engine.runner.evaluate", refuse)
    said = "evaluation: a score of image 3 is nan; resume with hardware.precision=fp32, or start a new run with a lower"
    with pytest.raises(UserError, match=said):
        make_runner(epochs=1, limit_batches=1).run()


def test_an_undefined_ap_counts_as_zero_and_still_leaves_weights(make_runner, scripted_ap):
    scripted_ap(math.nan)
    runner = make_runner(epochs=1)
    assert runner.run() == 0.0
    assert runner.checkpoints.best.exists() and records(runner, "val/AP") == {NUM_BATCHES: None}


@pytest.mark.parametrize("ema", [0.9, 0.0])
def test_a_whole_run_evaluates_its_average_and_logs_every_term(make_runner, ema):
    runner = make_runner(epochs=1, ema=ema)
    runner.run()
    (ap,) = records(runner, "val/AP").values()
    assert 0 <= ap <= 1
    for term in ("loss", "loss_vfl", "loss_giou_aux_1", "loss_bbox_dn_1", "lr", "gradient_norm", "images_per_second"):
        assert list(records(runner, f"train/{term}")) == [1, 2, 3, 4]
    assert set(records(runner, "data/bad_images").values()) == {0}
    total, without = records(runner, "train/loss")[1], records(runner, "train/loss_without_denoising")[1]
    assert total > without > records(runner, "train/loss_last_layer")[1] > 0
    assert (read_checkpoint(runner.checkpoints.best)["ema"] is None) == (ema == 0)


@pytest.mark.parametrize(("asked", "in_epochs"), [(True, [False, False, True]), (False, [False] * 3)])
def test_convolution_algorithms_are_tried_only_where_sizes_do_not_change(
    make_runner, scripted_ap, monkeypatch, asked, in_epochs
):
    monkeypatch.setattr(torch.backends.cudnn, "benchmark", not asked)  # and put back in the end
    scripted_ap(0.1, 0.2, 0.3)
    in_evaluations = []

    def evaluate(*arguments) -> None:
        in_evaluations.append(torch.backends.cudnn.benchmark)

    monkeypatch.setattr("neo_model.engine.runner.evaluate", evaluate)
    runner = make_runner(epochs=3, limit_batches=1, hardware={"cudnn_benchmark": asked})
    runner.data.batches.multiscale_until = 2
    runner.run()
    assert runner.data.batches.tried_algorithms == in_epochs
    assert in_evaluations == [asked] * 3  # each has one size


def test_a_stop_in_the_last_figures_is_not_forgotten(make_runner, monkeypatch):
    def compute(self, **_) -> dict:
        signal.raise_signal(signal.SIGTERM)
        return dict.fromkeys(SUMMARY_KEYS, 0.5) | {"per_class": {}}

    monkeypatch.setattr("neo_model.engine.runner.CocoEvaluator.compute", compute)
    runner = make_runner(epochs=1, limit_batches=1)
    with pytest.raises(Interrupted) as stopped:
        runner.run()
    assert stopped.value.exit_code == 128 + signal.SIGTERM
    progress = read_checkpoint(runner.checkpoints.last)["progress"]
    assert (progress["epoch"], progress["best_ap"], progress["unevaluated"]) == (1, 0.5, False)


def test_the_share_of_time_that_was_waited_for_data_is_recorded(make_runner, scripted_ap, monkeypatch):
    """By a clock that only the loader moves, but for a second that each step takes."""
    now, fetch, step = [0.0], Batches.epoch, training_loop.accumulate_gradients

    def slow_batches(self, *args, **kwargs):
        for batch in fetch(self, *args, **kwargs):
            now[0] += 3
            yield batch

    def slow_step(*arguments):
        now[0] += 1
        return step(*arguments)

    monkeypatch.setattr("neo_model.engine.step_recorder.time", SimpleNamespace(monotonic=lambda: now[0]))
    monkeypatch.setattr(Batches, "epoch", slow_batches)
    monkeypatch.setattr(training_loop, "accumulate_gradients", slow_step)
    scripted_ap(0.1)
    runner = make_runner(epochs=1, limit_batches=3)
    runner.run()
    assert records(runner, "train/data_wait_percent") == {1: 75, 2: 75, 3: 75}
    assert records(runner, "train/images_per_second") == {1: 0.25, 2: 0.25, 3: 0.25}


def test_limited_epochs_have_that_many_batches(make_runner, scripted_ap):
    scripted_ap(0.1, 0.2)
    runner = make_runner(epochs=2, limit_batches=3)
    runner.run()
    assert runner.total_steps == runner.progress.step == 6


@pytest.mark.parametrize(("signal_before", "batches_done"), [(1, 2), (2, 2), (3, 4)])
def test_ctrl_c_finishes_the_step_saves_and_tells_where(make_runner, signal_before, batches_done):
    runner = make_runner(accumulate=2, signal_before=signal_before)
    with pytest.raises(Interrupted):
        runner.run()
    saved = read_checkpoint(runner.checkpoints.last)["progress"]
    assert (saved["epoch"], saved["batch"], saved["step"]) == (0, batches_done, batches_done // 2)
    assert runner.data.batches.closed


def test_a_stop_at_the_last_step_of_an_epoch_shows_the_matches_before_it(make_runner):
    runner, recorder = make_runner(accumulate=2, signal_before=NUM_BATCHES - 1), Recorder()
    runner.loggers.append(recorder)
    runner.plan = EvaluationPlan(pictures=0)
    with pytest.raises(Interrupted):
        runner.run()
    ((step, spread),) = recorder.seen["histograms"]
    assert step == NUM_BATCHES // 2 and len(spread["matched_iou/last"]) == NUM_BATCHES // 2


def test_figures_are_cut_only_when_the_loggers_have_done_the_same(make_runner, monkeypatch, scripted_ap):
    scripted_ap(0.5, 0.5)
    with monkeypatch.context() as patch:
        patch.setattr("neo_model.engine.runner.CheckpointFolder.save_best", refuse_to_save)
        with pytest.raises(UserError, match="disk is full"):
            make_runner(epochs=1).run()
    for killed in (True, False):
        runner, recorder = make_runner(epochs=1), Recorder()
        runner.loggers.append(recorder)
        runner.restore()
        with monkeypatch.context() as patch:
            if killed:
                patch.setattr(MetricsFile, "keep", refuse_to_save)
                with pytest.raises(UserError):
                    runner.run()
            else:
                runner.showing.evaluation = lambda *_: None
                runner.run()
        assert recorder.resumed.first_step == NUM_BATCHES  # the evaluation there comes again
    assert records(runner, "val/AP") == {NUM_BATCHES: 0.5}


def refuse_to_save(*_):
    raise UserError("best.pt", "the disk is full", "make room")


def test_fewer_epochs_at_a_resume_still_end_with_an_evaluation(make_runner, scripted_ap):
    with pytest.raises(Interrupted):
        make_runner(epochs=4, every=2, signal_before=NUM_BATCHES).run()
    scripted_ap(0.5)  # just one
    for _ in range(2):
        runner = make_runner(epochs=1, every=2)
        runner.restore()
        assert runner.run() == 0.5
        assert records(runner, "val/AP") == {NUM_BATCHES: 0.5}


def test_a_worse_evaluation_after_a_resume_does_not_replace_the_best(make_runner, scripted_ap):
    scripted_ap(0.5)
    make_runner(epochs=1).run()
    scripted_ap(0.3)
    runner = make_runner(epochs=2)
    runner.restore()
    assert runner.run() == 0.5
    assert read_checkpoint(runner.checkpoints.best)["progress"]["epoch"] == 1


def test_a_stop_during_evaluation_leaves_it_to_be_done_after_resume(make_runner, monkeypatch):
    runner = make_runner(epochs=1)
    monkeypatch.setattr(Data, "val_loader", lambda self, **_: Batches(signal_before=1))
    interrupted = make_runner(epochs=1)
    with pytest.raises(Interrupted):
        interrupted.run()
    saved = read_checkpoint(interrupted.checkpoints.last)["progress"]
    assert (saved["epoch"], saved["unevaluated"], saved["best_ap"]) == (1, True, -1.0)
    runner.restore()
    runner.run()
    assert list(records(runner, "val/AP")) == [NUM_BATCHES]
    assert not read_checkpoint(runner.checkpoints.last)["progress"]["unevaluated"]


def test_a_stop_during_the_evaluation_at_the_start_leaves_a_checkpoint(make_runner, monkeypatch, scripted_ap):
    with monkeypatch.context() as patch:
        patch.setattr(Data, "val_loader", lambda self, **_: Batches(signal_before=1))
        patch.setattr("neo_model.engine.runner.evaluate", lambda model, batches, *others: list(batches))
        interrupted = make_runner(epochs=1, at_start=True)
        with pytest.raises(Interrupted):
            interrupted.run()
    scripted_ap(0.1, 0.2)
    runner = make_runner(epochs=1, at_start=True)
    runner.restore()
    runner.run()
    assert list(records(runner, "val/AP")) == [0, NUM_BATCHES]


def test_another_batch_size_takes_the_schedule_up_at_the_same_epoch(make_runner, scripted_ap):
    scripted_ap(0.1, 0.2)
    first = make_runner(epochs=1)
    first.run()
    runner = make_runner(epochs=2, accumulate=2)
    runner.restore()
    assert runner.learner.scheduler.last_epoch == NUM_BATCHES // 2
    runner.run()
    assert runner.learner.scheduler.last_epoch == NUM_BATCHES
    assert runner.progress.step == runner.total_steps == NUM_BATCHES + NUM_BATCHES // 2


def test_part_of_an_epoch_goes_on_with_the_same_batches_only(make_runner):
    first = make_runner(signal_before=2)
    with pytest.raises(Interrupted):
        first.run()
    with pytest.raises(UserError, match="within an epoch of 4 steps, which now has 1; go on with the same data"):
        make_runner(limit_batches=1).restore()


MOMENTS = ("step", "exp_avg", "exp_avg_sq")
SPOILT = {
    "scaler": lambda content: content.pop("scaler"),
    "scheduler": lambda content: content.pop("scheduler"),
    "random": lambda content: content.pop("random"),
    "circumstances": lambda content: content["circumstances"].pop("data"),
    "optimizer": lambda content: content["optimizer"]["param_groups"].pop(),
    "optimizer ": lambda content: content["optimizer"].pop("state"),
    "ema": lambda content: content["ema"].pop("n_averaged"),
    "scheduler ": lambda content: content["scheduler"].pop("steps_per_epoch"),
    "random ": lambda content: content.update(random=[]),
    "progress": lambda content: content["progress"].update(state_dict=3),
    "progress ": lambda content: content["progress"].update(best_ap=True),
    "progress  ": lambda content: content["progress"].update(batch=10**6),
    "scheduler  ": lambda content: content["scheduler"].update(last_epoch=10**400),
    "random  ": lambda content: content.update(random=content["random"] | {"python": (3, (2**70,) * 625, None)}),
    "optimizer  ": lambda content: content["optimizer"]["state"].update({0: dict.fromkeys(MOMENTS, torch.ones(7, 7))}),
}


def test_the_optimizers_settings_are_the_runs_whatever_a_checkpoint_says_of_them(make_runner, saved):
    for group in saved["optimizer"]["param_groups"]:
        group.update(lr=5.0, weight_decay="much", fused=False)
        del group["betas"]
    fresh = make_runner(epochs=1).learner.optimizer.param_groups
    parameters = [parameter for group in fresh for parameter in group["params"]]
    saved["optimizer"]["state"] = {
        number: dict.fromkeys(MOMENTS, torch.zeros_like(parameter)) | {"step": torch.tensor(3.0, dtype=torch.float64)}
        for number, parameter in enumerate(parameters)
    }
    runner = make_runner(epochs=1)
    torch.save(saved, runner.checkpoints.last)
    runner.restore()
    for group, own in zip(runner.learner.optimizer.param_groups, fresh, strict=True):
        assert {key: group[key] for key in own if key != "params"} == {key: own[key] for key in own if key != "params"}
    # As the fused kernel wants it.
    steps = [state["step"] for state in runner.learner.optimizer.state.values()]
    assert len(steps) == len(parameters) and {(step.dtype, step.item()) for step in steps} == {(torch.float32, 3.0)}


@pytest.fixture
def saved(make_runner) -> dict:
    runner = make_runner(epochs=1)
    runner.save()
    return torch.load(runner.checkpoints.last, weights_only=True)


@pytest.mark.parametrize("entry", SPOILT)
def test_a_checkpoint_whose_states_lack_something_or_do_not_fit_is_refused_by_entry(make_runner, saved, entry):
    SPOILT[entry](saved)
    runner = make_runner(epochs=1)
    torch.save(saved, runner.checkpoints.last)
    with pytest.raises(UserError) as error:
        runner.restore()
    said = str(error.value)
    assert said.startswith(f"{runner.checkpoints.last}: its {entry.strip()} cannot be gone on with (")
    assert said.endswith("); go on with another checkpoint of the run, or start a new run with weights=FILE")


@pytest.mark.parametrize(
    ("ema", "spoil", "cause"),
    [
        (0.9, lambda content: content.pop("ema"), "its ema is missing"),
        (0.9, lambda content: content.update(ema=None), "its ema is missing"),
        (0.0, lambda content: None, "has an ema, which this run is without"),
    ],
)
def test_no_average_is_begun_anew_or_dropped_at_a_resume(make_runner, saved, ema, spoil, cause):
    spoil(saved)
    runner = make_runner(epochs=1, ema=ema)
    torch.save(saved, runner.checkpoints.last)
    with pytest.raises(UserError, match=f"last.pt: {cause}; go on with another checkpoint of the run"):
        runner.restore()


def test_memory_that_runs_out_while_a_checkpoint_is_taken_over_is_no_fault_of_the_file(make_runner, saved, monkeypatch):
    def fill(*_):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")

    runner = make_runner(epochs=1)
    monkeypatch.setattr(runner.learner.optimizer, "load_state_dict", fill)
    with pytest.raises(torch.OutOfMemoryError):
        runner.restore()


def test_a_run_without_a_scaler_may_go_on_with_one(make_runner, saved, monkeypatch):
    assert saved["scaler"] == {}
    monkeypatch.setattr(Hardware, "grad_scaler", lambda hardware: torch.amp.GradScaler("cpu"))
    runner = make_runner(epochs=1)
    runner.restore()
    assert runner.learner.scaler.get_scale() == 65536
