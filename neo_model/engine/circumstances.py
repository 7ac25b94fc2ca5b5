"""What a run depends on beside its configuration: its data, and the machine and library that add its numbers up."""

import logging
from pathlib import Path

import torch

from neo_model.data import DetectionData
from neo_model.engine.hardware import Hardware
from neo_model.utils import UserError

log = logging.getLogger(__name__)


def circumstances(data: DetectionData, hardware: Hardware) -> dict:
    """Of the run in this process, in plain containers: ``data`` must stay as they are, ``machine`` need not."""
    is_cpu = hardware.device.type == "cpu"
    return {
        "data": data.fingerprints(),
        "machine": {
            "torch": str(torch.__version__),
            "device": f"CPU with {torch.get_num_threads()} threads" if is_cpu else torch.cuda.get_device_name(),
            "precision": hardware.precision,
        },
    }


def compare(path: Path, saved: dict, present: dict) -> None:
    """Refuse other data than a checkpoint's, and say what else is not as it was.

    Raises:
        UserError: the annotations are not those that the run has been trained on so far.
    """
    for split, before in saved["data"].items():
        now = present["data"][split]
        if now != before:
            was, counts = (f"{facts['images']} images and {facts['boxes']} boxes" for facts in (before, now))
            cause = f"was trained on other data: its {split} annotations had {was}, now they have {counts}"
            if was == counts:
                cause = f"was trained on other data: its {split} annotations had {was}, as now, but not the same"
            raise UserError(str(path), cause, "go on with the same data, or start a new run with weights=FILE")
    before, now = saved["machine"], present["machine"]
    changes = [f"{key} is {now[key]}, was {before[key]}" for key in now if now[key] != before.get(key)]
    if changes:
        log.warning("the last bits of the weights may differ from those of an unbroken run: %s", "; ".join(changes))
