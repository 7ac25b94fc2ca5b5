"""A sweep's answer: ``python -m neo_model.reports.sweep DIR`` makes it from the folders of its runs alone.

It writes ``results.csv``, ``results.md`` and ``sweep.png`` into DIR, and prints the best jobs and the winning command.
"""

import sys
from pathlib import Path

from neo_model.reports.sweep_jobs import SweepJob, read_jobs
from neo_model.reports.sweep_tables import csv_text, markdown_text, terminal_text
from neo_model.utils import UserError
from neo_model.utils.files import telling_of_refusal, write_whole

USAGE = "usage: python -m neo_model.reports.sweep DIR"


def write_sweep_report(folder: Path, *, picture: bool = True) -> list[SweepJob]:
    """Write the tables and the picture of the runs in a folder.

    Args:
        folder: the sweep's.
        picture: whether to draw one; matplotlib takes most of a second and more.

    Returns:
        the runs, the highest AP first.

    Raises:
        UserError: there is no run, or the disk refuses.
    """
    jobs = read_jobs(folder)
    write_whole(folder / "results.csv", csv_text(jobs))
    write_whole(folder / "results.md", markdown_text(jobs, folder.resolve()))
    if picture:
        from neo_model.reports.sweep_picture import draw

        with telling_of_refusal(folder / "sweep.png"):
            draw(jobs, folder / "sweep.png")
    return jobs


def main(arguments: list[str]) -> int:
    """The command; returns its exit code."""
    if {"-h", "--help"} & set(arguments):
        print(__doc__.strip(), USAGE, sep="\n\n")
        return 0
    try:
        if len(arguments) != 1:
            raise UserError("command line", f"holds {len(arguments)} folders", USAGE)
        folder = Path(arguments[0])
        print(terminal_text(write_sweep_report(folder), folder))
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
