"""The command ``python -m neo_model.benchmark NAME [options]``.

Each prints tables of ours, the peers and what the machine itself can do: median, minimum and maximum of samples taken
in turns, and the ratio to a peer.
"""

from __future__ import annotations

import argparse
import sys
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, NoReturn

from neo_model.utils import UserError

if TYPE_CHECKING:
    from neo_model.benchmark.table import Report

USER_ERROR = 2
# NAME: its module and what it measures. Each is imported only when asked for: a peer that is not installed breaks
# its own benchmark alone.
BENCHMARKS = {
    "startup": ("startup", "from the command train.py to the first optimizer step"),
    "step": ("step", "training step of RT-DETR R18 beside transformers"),
    "hardware": ("hardware", "what each choice of hardware= brings a training step on this machine"),
    "loop": ("loop", "what a training step spends on neither model nor loss nor optimizer"),
    "safety": ("safety", "what it costs a training step that no work is lost"),
    "saving": ("saving", "how long a training stands still for a checkpoint"),
    "syncs": ("syncs", "how often the host waits for the GPU in a training step"),
    "forward": ("forward", "inference of RT-DETR R18 beside transformers"),
    "memory": ("memory", "memory, traffic and operations of an R50 training step at 1920x1080"),
    "loader": ("loader", "decoding, augmenting and collating images"),
    "matcher": ("matcher", "Hungarian matching of all decoder layers"),
    "eval": ("evaluation", "COCO metrics beside pycocotools and faster-coco-eval"),
    "deform": ("deform", "one layer of deformable attention at 1920x1080"),
}


def main(arguments: list[str] | None = None) -> int:
    """Run one benchmark, print its tables, write JSON if asked to; returns the exit code."""
    arguments = sys.argv[1:] if arguments is None else arguments
    name = _parser().parse_args(arguments[:1]).name
    try:
        benchmark = _load(name)
        options = _parser_of(name, benchmark).parse_args(arguments[1:])
        if options.json is not None and not options.json.parent.is_dir():
            raise UserError("--json", f"there is no folder {options.json.parent}", "make it first")
        report = _run(name, benchmark, options)
        print(report.text())
        if options.json is not None:
            report.write_json(options.json)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return USER_ERROR
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m neo_model.benchmark",
        description=__doc__.partition("\n\n")[2],
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="\n".join(f"  {name:8s} {what}" for name, (_, what) in BENCHMARKS.items())
        + "\n\nNAME --help lists a benchmark's own options.",
    )
    parser.add_argument("name", metavar="NAME", choices=BENCHMARKS, help="one of:")
    return parser


def _parser_of(name: str, benchmark: ModuleType) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=f"python -m neo_model.benchmark {name}",
        description=benchmark.__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--rounds", type=at_least_one, default=5, help="samples of each candidate (5)")
    parser.add_argument("--warmup", type=int, default=1, help="calls before them, not timed (%(default)s)")
    parser.add_argument("--threads", type=int, help="of torch (as many as it takes by itself)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every figure there as well")
    benchmark.add_arguments(parser)
    return parser


def at_least_one(text: str) -> int:
    """Refuses what leaves nothing to take a median of."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number from 1 on")
    return int(text)


def _load(name: str) -> ModuleType:
    module = f"neo_model.benchmark.{BENCHMARKS[name][0]}"
    try:
        return import_module(module)
    except ModuleNotFoundError as error:
        raise_missing_peer(name, error)


def _run(name: str, benchmark: ModuleType, options: argparse.Namespace) -> Report:
    if options.threads is not None:
        import torch

        torch.set_num_threads(options.threads)
    try:
        report = benchmark.run(options)
    except ModuleNotFoundError as error:
        raise_missing_peer(name, error)
    report.settings.update({key: value for key, value in vars(options).items() if key != "json"})
    return report


def raise_missing_peer(name: str, error: ModuleNotFoundError) -> NoReturn:
    """Say what to install; a module of ours that is missing is a fault of ours and keeps its traceback."""
    if (error.name or "").startswith("neo_model"):
        raise error
    raise UserError(f"benchmark {name}", f"{error.name} is not installed", "pip install -e '.[benchmark]'") from error


if __name__ == "__main__":
    sys.exit(main())
