"""Checks a data set before a training run; ``python -m neo_model.data.audit --help`` says how."""

import signal
import sys
from dataclasses import dataclass
from pathlib import Path

from neo_model.data.coco import CocoInstances, examine_coco
from neo_model.data.detection import DetectionData, check_same_classes, refuse_without_boxes
from neo_model.data.findings import Finding, finding_of, raised_by
from neo_model.data.image_files import examine_folder
from neo_model.data.image_inspection import examine_images
from neo_model.utils import UserError

HELP = """\
Check a data set before training on it: what is wrong, how often, and what training will do about it.

usage: python -m neo_model.data.audit data=NAME [key=value ...]

  data=NAME, data.KEY=VALUE   as for train.py; see python train.py --help
  images=false                look at the annotations and at which files there are, not into the files (true)

The annotations are checked as at the start of every training. Of each image the header and the end
are read, by several threads, as training does with the validation images; a file in which they do
not tell enough is decoded.

exit code: 0 nothing found, 1 only what training puts up with, 2 something that stops it

examples:
  python -m neo_model.data.audit data=custom data.root=/disk/mine
  python -m neo_model.data.audit data=coco images=false
"""

CLEAN, TOLERATED, STOPS = 0, 1, 2
SWITCH = "images"


@dataclass(frozen=True)
class SplitReport:
    """What was found in the training or validation set.

    Attributes:
        name: "train" or "val".
        title: of what, and how many.
        findings: in no order.
    """

    name: str
    title: str
    findings: list[Finding]


def audit(data: DetectionData, *, images: bool = True) -> list[SplitReport]:
    """Look for everything that is wrong with a data set.

    Args:
        data: prepared data set.
        images: look into the image files as well.
    """
    reports, instances = [], {}
    for split, annotations, folder in (
        ("train", data.train_annotations, data.train_images),
        ("val", data.val_annotations, data.val_images),
    ):
        try:
            instances[split] = found = examine_coco(annotations)
        except UserError as error:
            reports.append(SplitReport(split, str(annotations), [finding_of(error)]))
            continue
        title = f"{annotations}: {len(found):,} images, {len(found.labels):,} boxes, {len(found.classes)} classes"
        max_bad_fraction = data.max_bad_fraction if split == "train" else None
        findings = [*found.findings, *_audit_files(folder, found, images, max_bad_fraction)]
        reports.append(SplitReport(split, title, findings))
    if len(instances) == 2:
        train, val = instances["train"], instances["val"]
        reports[-1].findings.extend(raised_by(refuse_without_boxes, val))
        reports[-1].findings.extend(raised_by(check_same_classes, train.path, train.classes, val.path, val.classes))
    return reports


def _audit_files(
    folder: Path, instances: CocoInstances, images: bool, max_bad_fraction: float | None
) -> list[Finding]:
    """The image files of a split; ``max_bad_fraction`` of them may be damaged in training, none in evaluation."""
    try:
        findings, there = examine_folder(folder, instances)
    except UserError as error:
        return [finding_of(error)]
    if not images:
        return findings
    return findings + examine_images(folder, instances, there, max_bad_fraction=max_bad_fraction)


def table(reports: list[SplitReport]) -> str:
    """What was found: a title a split, and a line a finding, what stops training first."""
    lines = []
    for report in reports:
        lines += [report.title if report.findings else f"{report.title}: nothing wrong"]
        rows = [
            (f"{finding.count:,}", finding.what, finding.shown, finding.training)
            for finding in sorted(report.findings, key=lambda finding: not finding.stops)
        ]
        if rows:
            lines += _aligned([("count", "what", "the first", "training"), *rows])
    return "\n".join(lines)


def _aligned(rows: list[tuple[str, ...]]) -> list[str]:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        f"  {row[0]:>{widths[0]}}  {row[1]:{widths[1]}}  {row[2]:{widths[2]}}  {row[3]}".rstrip() for row in rows
    ]


def exit_code(reports: list[SplitReport]) -> int:
    """0 for nothing found, 1 for what training puts up with, 2 for what stops it."""
    findings = [finding for report in reports for finding in report.findings]
    if any(finding.stops for finding in findings):
        return STOPS
    return TOLERATED if findings else CLEAN


def main(arguments: list[str]) -> int:
    """The command; returns its exit code."""
    if not arguments or {"-h", "--help"} & set(arguments):
        print(HELP, end="")
        return CLEAN
    from neo_model.config.build import build_data  # an entry point's need; the functions above do without Hydra

    switches = [argument for argument in arguments if argument.startswith(f"{SWITCH}=")]
    try:
        values = {switch.partition("=")[2].lower() for switch in switches}
        if values - {"true", "false"}:
            raise UserError(SWITCH, f"{max(values)!r} is neither true nor false", f"write {SWITCH}=false")
        data = build_data([argument for argument in arguments if argument not in switches])
        data.prepare()
        reports = audit(data, images="false" not in values)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return STOPS
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
        return 130
    print(table(reports))
    return exit_code(reports)


if __name__ == "__main__":
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # `| head` ends it without a word, as it does other tools
    sys.exit(main(sys.argv[1:]))
