"""What --help prints: written from conf/, so that it never falls behind."""

import re
import textwrap

from neo_model.config.compose import CONF, ROOT, choices, compose, group_names

WIDTH = 100

INTRODUCTION = {
    "train": """\
Train an RT-DETR detector at 16:9 and evaluate it as it goes.

usage: python train.py [GROUP=CHOICE ...] [KEY=VALUE ...]
       python train.py -m KEY=VALUE,VALUE ...     one job for each combination
""",
    "eval": """\
Evaluate a checkpoint: the twelve COCO figures, the classes one by one, and the detections.

usage: python eval.py ckpt=FILE [GROUP=CHOICE ...] [KEY=VALUE ...]

The training's own configuration comes out of the checkpoint. GROUP=CHOICE and KEY=VALUE change it, as
python train.py --help lists them.
""",
}

EXAMPLES = {
    "train": """\
examples:
  python train.py
      a first run: a small model on generated pictures, minutes on a CPU
  python train.py data=coco hardware=rtx3090
      R50 on COCO at 1920x1080
  python train.py data=custom data.root=/disk/mine model=rtdetr_r34 data/resolution=1280x720
      your own pictures: images/, instances_train.json, instances_val.json
  python train.py -m optim.lr=5e-5,1e-4 data/resolution=480x270,640x360 epochs=1
      four jobs and a table of what they reached
  python train.py resume=outputs/train/RUN epochs=100
      go on where a run stopped, for longer
""",
    "eval": """\
examples:
  python eval.py ckpt=outputs/train/RUN/checkpoints/best.pt
      the AP that training logged
  python eval.py ckpt=best.pt data/resolution=1280x720
      at another size
  python eval.py ckpt=best.pt data=custom data.root=/disk/mine
      on other pictures with the same classes
  python eval.py ckpt=best.pt conf_threshold=0.3 nms_threshold=0.5
      with fewer detections
  python eval.py ckpt=best.pt report=true compare=outputs/train/OTHER_RUN
      with a page of where it is wrong, and what differs from another run
  python eval.py ckpt=best.pt hardware=cpu hydra.run.dir=reports/best
      on the CPU, results into a folder of your choice
""",
}

RESULTS = {
    "train": """\
results: outputs/train/TIME/ (or hydra.run.dir=DIR)
  config.yaml    the configuration, as composed
  train.log      what the console said
  data_findings.json  what had to be repaired in the annotations
  metrics.jsonl  losses, rates and AP, a JSON object a line
  tensorboard/   the same for TensorBoard, with pictures
  checkpoints/   last.pt to resume from, best.pt to use
A sweep: outputs/sweep/TIME/JOB/ (or hydra.sweep.dir=DIR), and results.md, results.csv, sweep.png:
  what each job reached. python -m neo_model.reports.sweep DIR makes them anew.
Ctrl-C ends a run with a checkpoint that resume= goes on from.

this machine's own settings: conf/local/default.yaml, not under version control, is read after the
  groups if it exists. It begins with "# @package _global_", then e.g. "hardware: {workers: 8}".
""",
    "eval": """\
results: outputs/eval/TIME/ (or hydra.run.dir=DIR)
  metrics.json     AP, AP50, ... and per_class
  detections.json  the detections in COCO's results format
  report.html      with report=true: tables, curves, kinds of error and images on one page
""",
}

OPTIONS = """\
options:
  -m, --multirun    a job for each combination of comma-separated values
  --cfg job         print the composed configuration and stop; also --cfg hydra, --cfg all
  --info [WHAT]     how the configuration was composed: defaults, searchpath, plugins, ...
  --config-dir DIR  a further folder of configurations
  --hydra-help      Hydra's own options
"""


def manual(job: str) -> str:
    """The text of ``python train.py --help`` or ``python eval.py --help``, at most 100 columns wide."""
    parts = [INTRODUCTION[job], EXAMPLES[job]]
    if job == "train":
        parts.append(_groups())
    parts += [_keys(job), RESULTS[job]]
    if job == "train":
        parts.append(OPTIONS)
    return "\n".join(parts)


def description(path) -> str:
    """A configuration file's first comment that is not an instruction to Hydra."""
    for line in path.read_text().splitlines():
        if line.startswith("#") and not re.match(r"#\s*@", line):
            return line.lstrip("# ").strip()
    return ""


def _groups() -> str:
    lines = ["groups (GROUP=CHOICE), * is what bare python train.py takes:"]
    chosen = compose("train", []).hydra.runtime.choices
    defaults = {key.partition("@")[0]: choice for key, choice in chosen.items()}
    for group in group_names():
        lines += ["", f"  {group}"]
        folder = ROOT if group == "experiments" else CONF
        for choice in choices(group):
            mark = "*" if defaults.get(group) == choice else " "
            lines += _entry(f"{mark} {choice}", description(folder / group / f"{choice}.yaml"), indent=4, column=30)
    return "\n".join([*lines, ""])


def _keys(job: str) -> str:
    lines = ["keys (KEY=VALUE) of the top level; keys in groups are written group.key, as in optim.lr=1e-4:", ""]
    if job == "train":
        lines.insert(1, "(python train.py --cfg job prints every key there is, under the overrides that you give)")
    for key, value, meaning in re.findall(r"^(\w+): (.*?)  # (.*)$", (CONF / f"{job}.yaml").read_text(), re.MULTILINE):
        shown = "required" if value == "???" else value
        lines += _entry(key, f"{meaning} [{shown}]", indent=2, column=20)
    return "\n".join([*lines, ""])


def _entry(name: str, text: str, *, indent: int, column: int) -> list[str]:
    start = " " * indent + name
    return textwrap.wrap(text, WIDTH, initial_indent=f"{start:<{column}}", subsequent_indent=" " * column) or [start]
