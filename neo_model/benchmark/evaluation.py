"""COCO figures of a set as large as COCO's validation set, from arrays of detections to the twelve numbers.

Ours beside pycocotools and faster-coco-eval, which take a dictionary for each detection. Every sample runs in a fresh
process, so that each is a first call and has its own peak of memory. Ratios are to the better of the two.
"""

import argparse
import contextlib
import functools
import importlib
import io
import multiprocessing
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from neo_model.benchmark.coco_case import CocoCase, make_coco_case
from neo_model.benchmark.measure import Timing, interleaved, undisturbed
from neo_model.benchmark.table import Report, Row, Table
from neo_model.evaluation import SUMMARY_KEYS, CocoEvaluator
from neo_model.utils import UserError

OURS, FASTER, REFERENCE, SORT = "ours", "faster-coco-eval", "pycocotools", "sorting the detections"
PEERS = [FASTER, REFERENCE]


@dataclass(frozen=True)
class Sample:
    """One run in a process of its own.

    Attributes:
        seconds: of the one call.
        figures: float64 [12], and AP and AP50 of each class [K, 2]; NaN where undefined.
        gib_before: peak of the process's memory when the arrays and modules were loaded.
        gib: peak of the process's memory at the end.
    """

    seconds: float
    figures: tuple[np.ndarray, np.ndarray]
    gib_before: float
    gib: float


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of this benchmark."""
    parser.add_argument("--images", type=int, default=5000, help="(5000)")
    parser.add_argument("--detections", type=int, default=300, help="of an image (300)")
    parser.add_argument("--classes", type=int, default=80, help="(80)")
    parser.add_argument("--seed", type=int, default=0, help="of the random set (0)")
    parser.add_argument(
        "--pycocotools-rounds", type=int, default=1, help="samples of pycocotools, which takes minutes each (1)"
    )


def run(arguments: argparse.Namespace) -> Report:
    """Measure all candidates on one set."""
    if arguments.pycocotools_rounds < 1:
        raise UserError("--pycocotools-rounds", "each candidate needs a sample", "give 1 or more")
    for peer in ("pycocotools", "faster_coco_eval"):
        importlib.import_module(peer)  # what is missing is named before anything runs
    case = make_coco_case(
        num_images=arguments.images,
        num_detections=arguments.detections,
        num_classes=arguments.classes,
        seed=arguments.seed,
    )
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "case.npz"
        case.save(path)
        rounds = {OURS: arguments.rounds, FASTER: arguments.rounds, REFERENCE: arguments.pycocotools_rounds}
        samples, times = _take_turns(path, case, rounds)
    size = f"{arguments.images} images x {arguments.detections} detections, {arguments.classes} classes"
    notes = [
        f"{len(case.object_images)} objects, {case.crowd.sum()} of them crowds; "
        f"AP {samples[REFERENCE][0].figures[0][0]:.3f} by pycocotools. A sample is the first call in a process of its "
        "own, and so is one that is retaken.",
        f"pycocotools has {_samples(arguments.pycocotools_rounds)} where the others have {arguments.rounds}, as it "
        "takes a minute or more each at full size (--pycocotools-rounds).",
        "Time: from the ground truth's dictionary and the arrays of each image to the figures. Memory: peak of the "
        f"process, of which {samples[OURS][0].gib_before:.2f} GiB were there before (Python, torch, the arrays).",
    ]
    return Report("eval", [_times(size, times), _peaks(samples), _differences(samples)], notes)


def _take_turns(
    path: Path, case: CocoCase, rounds: dict[str, int]
) -> tuple[dict[str, list[Sample]], dict[str, list[Timing]]]:
    """Samples of each candidate, and timings of one round each, of the candidates and the ceiling."""
    samples: dict[str, list[Sample]] = {name: [] for name in rounds}
    times: dict[str, list[Timing]] = {name: [] for name in (*rounds, SORT)}
    scores, labels = case.scores.ravel(), case.labels.ravel()
    for number in range(max(rounds.values())):
        for name in rounds:
            if number < rounds[name]:
                sample, retakes, disturbed = undisturbed(functools.partial(_in_a_process, name, path))
                samples[name].append(sample)
                times[name].append(Timing((sample.seconds,), retakes, int(disturbed)))
        times[SORT].append(interleaved({SORT: lambda: np.lexsort((-scores, labels))}, rounds=1)[SORT])
    return samples, times


def _in_a_process(name: str, path: Path) -> Sample:
    # Spawned, because a forked process would count our memory as its own.
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as process:
        return process.submit(_sample, name, path).result()


def _sample(name: str, path: Path) -> Sample:
    """Runs in a process of its own."""
    case = CocoCase.load(path)
    ground_truth, evaluate = case.ground_truth(), CANDIDATES[name]()
    gib_before, start = _peak_gib(), time.perf_counter()
    figures = evaluate(ground_truth, case)
    return Sample(time.perf_counter() - start, figures, gib_before, _peak_gib())


def _ours() -> Callable[[dict, CocoCase], tuple[np.ndarray, np.ndarray]]:
    def evaluate(ground_truth: dict, case: CocoCase) -> tuple[np.ndarray, np.ndarray]:
        evaluator = CocoEvaluator(ground_truth, [category["id"] for category in ground_truth["categories"]])
        for image, arrays in zip(ground_truth["images"], zip(case.boxes_xyxy, case.scores, case.labels), strict=True):
            evaluator.update(image["id"], *arrays)
        metrics = evaluator.compute()
        per_class = [(figures["AP"], figures["AP50"]) for figures in metrics["per_class"].values()]
        return np.array([metrics[key] for key in SUMMARY_KEYS]), np.array(per_class)

    return evaluate


def _pycocotools() -> Callable[[dict, CocoCase], tuple[np.ndarray, np.ndarray]]:
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    return lambda ground_truth, case: _by_api(COCO, COCOeval, ground_truth, case)


def _faster_coco_eval() -> Callable[[dict, CocoCase], tuple[np.ndarray, np.ndarray]]:
    from faster_coco_eval import COCO, COCOeval_faster

    return lambda ground_truth, case: _by_api(COCO, COCOeval_faster, ground_truth, case)


def _by_api(
    dataset_type: type, evaluation_type: type, ground_truth: dict, case: CocoCase
) -> tuple[np.ndarray, np.ndarray]:
    """The calls of pycocotools' own example, without its prints."""
    with contextlib.redirect_stdout(io.StringIO()):
        truth = dataset_type()
        truth.dataset = ground_truth
        truth.createIndex()
        evaluation = evaluation_type(truth, truth.loadRes(case.results()), "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    precision = np.asarray(evaluation.eval["precision"])[:, :, :, 0, -1]
    per_class = np.stack((precision.mean(axis=(0, 1)), precision[0].mean(axis=0)), axis=1)
    figures = np.asarray(evaluation.stats, np.float64)[: len(SUMMARY_KEYS)], per_class
    return tuple(np.where(values < 0, np.nan, values) for values in figures)


CANDIDATES = {OURS: _ours, FASTER: _faster_coco_eval, REFERENCE: _pycocotools}


def _times(size: str, times: dict[str, list[Timing]]) -> Table:
    rows = []
    for name, timings in times.items():
        joined = Timing(
            tuple(seconds for timing in timings for seconds in timing.samples),
            sum(timing.retakes for timing in timings),
            sum(timing.disturbed for timing in timings),
        )
        what = ", by class and score, what no way can do without" if name == SORT else ""
        rows.append(Row(name, joined, note=_samples(len(timings)) + what))
    return Table(size, rows, PEERS)


def _samples(count: int) -> str:
    return f"{count} sample{'s' * (count != 1)}"


def _peaks(samples: dict[str, list[Sample]]) -> Table:
    rows = [Row(name, max(sample.gib for sample in taken), "GiB") for name, taken in samples.items()]
    return Table("peak memory, the highest", rows, PEERS)


def _differences(samples: dict[str, list[Sample]]) -> Table:
    """Greatest difference of a figure from pycocotools'."""
    expected = samples[REFERENCE][0].figures
    rows = []
    for name in (OURS, FASTER):
        for kind, position in (("twelve figures", 0), ("AP and AP50 of each class", 1)):
            found = samples[name][0].figures[position]
            if (np.isnan(found) != np.isnan(expected[position])).any():
                raise ValueError(f"{name} and pycocotools disagree on which figures are undefined")
            difference = np.nanmax(np.abs(found - expected[position]), initial=0.0)
            rows.append(Row(f"{name}, {kind}", difference, "", note=f"{difference:.1e}"))
    return Table("greatest difference from pycocotools", rows)


def _peak_gib() -> float:
    """Highest memory of this process; on Linux not as the kernel reports it at its end, with its parent's peak in."""
    status = Path("/proc/self/status")
    lines = status.read_text().splitlines() if status.exists() else []
    own_peaks = [int(line.split()[1]) for line in lines if line.startswith("VmHWM")]
    if own_peaks:
        return own_peaks[0] / 2**20
    from neo_model.engine.hardware import Hardware  # here, because it adds to the memory that is measured

    return Hardware(device="cpu").memory_gib()
