"""A run's figures and pictures in Weights & Biases."""

import logging
import os
import re
import secrets
import shlex
from contextlib import suppress
from pathlib import Path
from typing import Literal

import numpy as np

from neo_model.engine.loggers import HISTOGRAM_EDGES, Logger, figures_of
from neo_model.engine.metrics_file import NOTHING_YET, Rewound
from neo_model.engine.wandb_file import last_row
from neo_model.utils import UserError
from neo_model.utils.files import write_whole

log = logging.getLogger(__name__)

OWN_ID = re.compile("[0-9a-f]{12}")
SHARED = "shared"  # several processes write to one run: W&B numbers its rows itself, so what it has cannot be told
WANDB_MODES = ("online", "offline", SHARED, "disabled", "dryrun", "run")  # all that W&B's own variable may say
UPLOAD_SECONDS = 60  # for what W&B has not uploaded by the end of a run: without a network it would wait for ever


class WandbLogger(Logger):
    """A Weights & Biases run; its id is kept in ``wandb_id.txt``, so that a resumed run continues the same curves.

    W&B counts its own steps: two for an optimizer step, one for its training and the next for the evaluation after it.
    So its highest step tells of every point whether W&B has it, and at each start it is given those of
    ``metrics.jsonl`` that it has not: a process that is killed takes with it what was not sent yet, or offline was not
    on disk yet. Curves are drawn over ``step``, which counts optimizer steps. Pictures, spreads, and curves and AP of
    classes are not in ``metrics.jsonl``: after a kill the last may be missing.

    Offline, every start adds a folder ``wandb/offline-run-*`` that goes on after those before it, so that all of them
    together hold every point once.

    The API key comes from the environment (``WANDB_API_KEY``) or ``wandb login``, never from a configuration.

    Args:
        project: name of the W&B project.
        mode: online, offline (``wandb sync`` uploads it later) or disabled; the variable ``WANDB_MODE`` is obeyed when
            it is set, for machines without a network.

    Raises:
        UserError: ``WANDB_MODE`` is set to what W&B does not know.
    """

    name = "W&B"

    def __init__(self, *, project: str, mode: Literal["online", "offline", "disabled"] = "online") -> None:
        super().__init__()
        self._project, self._mode = project, os.environ.get("WANDB_MODE") or mode
        if self._mode not in WANDB_MODES:
            remedy = f"set the variable to one of {', '.join(WANDB_MODES)}, or unset it"
            raise UserError("WANDB_MODE", f"W&B has no mode {self._mode!r}", remedy)
        self._run = None
        self._first_row = 0  # all before, W&B has
        self._newest_row = 0

    def _is_outside(self, error: Exception) -> bool:
        # Not all that W&B raises is a wandb.Error: not where its own process has died, for one.
        return isinstance(error, OSError | UserError) or type(error).__module__.partition(".")[0] == "wandb"

    def _start(self, run_dir: Path, config: dict, resumed: Rewound | None) -> None:
        import wandb

        id_file = run_dir / "wandb_id.txt"
        run_id = ""
        if resumed is not None and id_file.exists():
            run_id = id_file.read_text(errors="replace").strip()
        if not OWN_ID.fullmatch(run_id):  # also where a bad disk has emptied or spoilt the file, which W&B would refuse
            run_id = secrets.token_hex(6)
            write_whole(id_file, run_id)
        self._run = wandb.init(
            project=self._project,
            mode=self._mode,
            dir=str(run_dir),
            id=run_id,
            resume="allow",
            name=run_dir.name,
            config=config,
            settings=_wandb_settings(),
        )
        self._run.define_metric("*", step_metric="step")
        if self._run.offline:  # then it does not know that it goes on
            self._first_row = last_row(run_dir, run_id) + 1
        else:
            self._first_row = self._run.starting_step or 0
        if self._mode == SHARED:
            return
        for record in (resumed or NOTHING_YET).records():
            self._scalars(record["step"], figures_of(record))

    def _scalars(self, step: int, values: dict[str, float]) -> None:
        self._log(step, values, is_evaluation=any(name.startswith("val") for name in values))

    def _images(self, step: int, tag: str, images: list[np.ndarray]) -> None:
        import wandb

        pictures = [wandb.Image(image, file_type="jpg") for image in images]
        self._log(step, {tag: pictures}, is_evaluation=tag.startswith("val"))

    def _histograms(self, step: int, values: dict[str, np.ndarray]) -> None:
        import wandb

        edges = HISTOGRAM_EDGES
        spread = {name: wandb.Histogram(np_histogram=np.histogram(found, edges)) for name, found in values.items()}
        self._log(step, spread)

    def _precision_curves(self, step: int, precisions: dict[str, np.ndarray]) -> None:
        import wandb

        recall, names = np.linspace(0, 1, 101).tolist(), list(precisions)
        shown = [precisions[name].tolist() for name in names]
        picture = wandb.plot.line_series(xs=recall, ys=shown, keys=names, title="precision over recall", xname="recall")
        self._log(step, {"val_precision": picture}, is_evaluation=True)

    def _log(self, step: int, values: dict, *, is_evaluation: bool = False) -> None:
        # W&B takes nothing before its newest row, such as a step that is skipped right after an evaluation.
        row = max(2 * step + is_evaluation, self._newest_row)
        if row >= self._first_row:
            self._newest_row = row
            self._run.log({"step": step} | values, step=row)

    def _abandon(self) -> None:
        # A run that is not finished is what W&B gives the next job of a sweep for a new one.
        if self._run is not None:
            with suppress(Exception):
                self._run.finish()

    def _close(self) -> None:
        folder = Path(self._run.dir).parent
        try:
            self._run.finish()
        except TimeoutError:
            said = "W&B could not upload everything within %d s of the run's end; `wandb sync %s` uploads the rest"
            log.warning(said, UPLOAD_SECONDS, shlex.quote(str(folder)))


def _wandb_settings():
    import wandb

    # Its own lines and its copy of the terminal would tear the progress bar.
    settings = {"silent": True, "console": "off", "init_timeout": 30}
    patience = {"finish_timeout": UPLOAD_SECONDS, "finish_timeout_raises": True}
    if patience.keys() <= wandb.Settings.__annotations__.keys():  # older versions know no end of waiting
        settings |= patience
    return wandb.Settings(**settings)
