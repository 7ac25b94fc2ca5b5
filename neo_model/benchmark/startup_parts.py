"""Runs train.py up to its first optimizer step and writes down what took how long; started by `startup`.

Arguments: the time at which the process was started, the file to write, and train.py's own.
"""

import builtins
import importlib
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path


class Stopwatch:
    """Splits the time since ``start`` into parts, with what imports take counted apart, wherever they happen."""

    def __init__(self, start: float) -> None:
        self.parts: dict[str, float] = {}
        self.start = self._last = start
        self._importing, self._nested = 0.0, False

    def watch_imports(self) -> None:
        """Count them from here."""
        builtins.__import__ = self._timed(builtins.__import__)
        importlib.import_module = self._timed(importlib.import_module)

    def end(self, part: str) -> None:
        """What has happened since the last part, but for imports, was ``part``."""
        now = time.time()
        self.parts[part] = now - self._last - self._importing
        self.parts["imports"] = self.parts.get("imports", 0.0) + self._importing
        self.parts["whole"] = now - self.start
        self._last, self._importing = now, 0.0

    def _timed(self, load: Callable) -> Callable:
        def timed(*args, **kwargs):
            if self._nested:
                return load(*args, **kwargs)
            self._nested, before = True, time.time()
            try:
                return load(*args, **kwargs)
            finally:
                self._nested = False
                self._importing += time.time() - before

        return timed


def main(start: float, file: Path, arguments: list[str]) -> None:
    """Train, and stop after one step."""
    watch = Stopwatch(start)
    watch.end("interpreter")
    watch.watch_imports()
    command_line = importlib.import_module("neo_model.config.command_line")
    instantiation = importlib.import_module("neo_model.config.instantiate")
    build = instantiation.instantiate

    def instantiate_and_tell(*args, key: str, **kwargs):
        if key != "data":
            return build(*args, key=key, **kwargs)
        watch.end("composing, checking")
        _watch_training(watch, file)
        data = build(*args, key=key, **kwargs)
        watch.end("data set")
        return data

    instantiation.instantiate = instantiate_and_tell
    sys.exit(command_line.main("train", arguments))


def _watch_training(watch: Stopwatch, file: Path) -> None:
    """Called once torch is there."""
    from torch.optim.optimizer import register_optimizer_step_post_hook

    from neo_model.engine import Runner

    run = Runner.run

    def run_and_tell(runner: Runner) -> float:
        watch.end("model, optimizer, loggers")
        return run(runner)

    def stop(*_) -> None:
        watch.end("first batch and step")
        file.write_text(json.dumps({"whole": watch.parts.pop("whole"), **watch.parts}))
        sys.exit()

    Runner.run = run_and_tell
    register_optimizer_step_post_hook(stop)


if __name__ == "__main__":
    main(float(sys.argv[1]), Path(sys.argv[2]), sys.argv[3:])
