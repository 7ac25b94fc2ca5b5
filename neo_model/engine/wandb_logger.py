"""A run's figures and pictures in Weights & Biases."""

import logging
import os
import re
import secrets
import shlex
from pathlib import Path
from typing import Literal

import numpy as np

from neo_model.engine.loggers import HISTOGRAM_EDGES, Logger
from neo_model.engine.metrics_file import NOTHING_YET, Rewound
from neo_model.utils import UserError
from neo_model.utils.files import write_whole

log = logging.getLogger(__name__)

OWN_ID = re.compile("[0-9a-f]{12}")
WANDB_MODES = ("online", "offline", "shared", "disabled", "dryrun", "run")  # all that W&B's own variable may say
UPLOAD_SECONDS = 60  # for what W&B has not uploaded by the end of a run: without a network it would wait for ever


class WandbLogger(Logger):
    """A Weights & Biases run; its id is kept in ``wandb_id.txt``, so that a resumed run continues the same curves.

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
        self._first_step = 0
        self._evaluated: frozenset[int] = frozenset()

    def _is_outside(self, error: Exception) -> bool:
        # Not all that W&B raises is a wandb.Error: not where its own process has died, for one.
        return isinstance(error, OSError | UserError) or type(error).__module__.partition(".")[0] == "wandb"

    def _start(self, run_dir: Path, config: dict, resumed: Rewound | None) -> None:
        import wandb

        self._evaluated = NOTHING_YET.evaluated if resumed is None else resumed.evaluated
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
        self._first_step = getattr(self._run, "starting_step", None) or 0  # 0 offline, where it is not known

    def _scalars(self, step: int, values: dict[str, float]) -> None:
        is_evaluation = any(name.startswith("val") for name in values)
        self._log(step, values, is_new=is_evaluation, is_evaluation=is_evaluation)

    def _images(self, step: int, tag: str, images: list[np.ndarray]) -> None:
        import wandb

        pictures = [wandb.Image(image, file_type="jpg") for image in images]
        self._log(step, {tag: pictures}, is_evaluation=tag.startswith("val"))

    def _histograms(self, step: int, values: dict[str, np.ndarray]) -> None:
        import wandb

        edges = HISTOGRAM_EDGES
        spread = {name: wandb.Histogram(np_histogram=np.histogram(found, edges)) for name, found in values.items()}
        self._log(step, spread, is_new=False)

    def _precision_curves(self, step: int, precisions: dict[str, np.ndarray]) -> None:
        import wandb

        recall, names = np.linspace(0, 1, 101).tolist(), list(precisions)
        shown = [precisions[name].tolist() for name in names]
        picture = wandb.plot.line_series(xs=recall, ys=shown, keys=names, title="precision over recall", xname="recall")
        self._log(step, {"val_precision": picture}, is_evaluation=True)

    def _log(self, step: int, values: dict, *, is_new: bool = True, is_evaluation: bool = False) -> None:
        """Log at a step, or at the first that W&B still takes: of a resumed run it ignores its last one and all before.

        A run that was stopped while it evaluated has logged training at that very step. What it has logged already and
        only repeats is not new, and is ignored, so that no point of a curve is there twice. An evaluation that the run
        recorded but did not save is repeated, too; W&B has it, unless it knows of no step so late.
        """
        if is_evaluation and step in self._evaluated and not 0 < self._first_step <= step:
            return
        self._run.log(values, step=max(step, self._first_step) if is_new else step)

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
