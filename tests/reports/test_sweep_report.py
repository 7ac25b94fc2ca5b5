"""A sweep's report from the folders of its runs alone, written by hand as training leaves them."""

import csv
import json
import subprocess
import sys
from pathlib import Path

import pytest

from neo_model.reports.sweep import main
from neo_model.reports.sweep_jobs import pareto_front, read_jobs


def write_run(folder: Path, records: list[dict], result: dict | None = None, config: str = "epochs: 2\n") -> None:
    """A run of training; of a sweep's job if it has a result."""
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text(config)
    (folder / "metrics.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    if result:
        (folder / "result.json").write_text(json.dumps(result))


def write_job(sweep: Path, number: int, aps: list[float], latency: float | None, **result: object) -> None:
    """A job at resolution ``<number + 1>00x64``, with an AP an epoch."""
    overrides = [f"data/resolution={number + 1}00x64", "model=tiny"]
    records = [{"step": 5, "epoch": 0.5, "train/images_per_second": 10.0, "train/memory_gib": 1.5}]
    records += [{"step": 10 * (n + 1), "epoch": n + 1, "val/AP": ap, "val/AP50": 2 * ap} for n, ap in enumerate(aps)]
    whole = {"job": number, "overrides": overrides, "command": f"python train.py {' '.join(overrides)}"}
    whole |= {"status": "finished", "AP": max(aps, default=None), "error": None, "latency_ms": latency, "seconds": 61}
    write_run(sweep / f"{number}_resolution-{number + 1}00x64", records, whole | result)


@pytest.fixture
def sweep(tmp_path) -> Path:
    """Three jobs that finished, one that failed and one that was cut short, in a folder with other things."""
    folder = tmp_path / "sweep"
    write_job(folder, 0, [0.125, 0.25], latency=4.0)
    write_job(folder, 1, [0.5, 0.375], latency=8.0)
    write_job(folder, 2, [0.0625, 0.1875], latency=6.0)
    write_job(folder, 3, [], None, status="failed", error="hardware.batch_size: 8 are too much\nsecond line", seconds=5)
    write_job(folder, 4, [0.75], None, status="running", AP=None, seconds=None)
    with (folder / "4_resolution-500x64" / "metrics.jsonl").open("a") as file:
        file.write('{"step": 20, "epoch": 2, "val/A')
    (folder / ".submitit").mkdir()
    (folder / "notes.txt").touch()
    return folder


def rows_of(folder: Path) -> list[dict]:
    return list(csv.DictReader((folder / "results.csv").read_text().splitlines()))


def test_the_tables_hold_every_run_the_best_first(sweep, capsys):
    assert main([str(sweep)]) == 0
    rows = rows_of(sweep)
    assert [(row["job"], row["data/resolution"], row["AP"]) for row in rows] == [
        ("4", "500x64", "0.75"), ("1", "200x64", "0.5"), ("0", "100x64", "0.25"), ("2", "300x64", "0.1875"),
        ("3", "400x64", ""),
    ]  # fmt: skip
    assert [(row["AP50"], row["best_epoch"]) for row in rows[:3]] == [("1.5", "1"), ("1.0", "1"), ("0.5", "2")]
    assert "model" not in rows[0]  # all have the same
    best = rows[1]
    assert [best[key] for key in ("images_per_second", "peak_memory_gib", "latency_ms", "seconds", "status")] == [
        "10.0", "1.5", "8.0", "61", "finished"
    ]  # fmt: skip
    assert rows[0]["status"] == "not finished, at epoch 1 of 2"
    assert rows[4]["status"] == "failed: hardware.batch_size: 8 are too much"
    assert (sweep / "sweep.png").read_bytes().startswith(b"\x89PNG")
    page = (sweep / "results.md").read_text()
    command = "python train.py data/resolution=200x64 model=tiny"
    assert page.startswith(f"# Sweep sweep\n\n5 jobs, 3 finished\n\nThe best:\n\n```bash\n{command}\n```\n")
    assert "| 1 | 200x64 | 0.5000 | 1.0000 | - | - | - | 1 | 10.0 | 1.50 | 8.0 | 1:01 | finished |" in page
    said = capsys.readouterr().out.splitlines()
    assert said[0] == f"5 jobs, 3 finished: {sweep}/results.md" and said[-1] == f"best: {command}"
    assert [line.split()[:2] for line in said[2:4]] == [["4", "500x64"], ["1", "200x64"]]


def test_the_command_makes_the_same_report_anew(sweep):
    assert main([str(sweep)]) == 0
    before = rows_of(sweep)
    for made in ("results.csv", "results.md", "sweep.png"):
        (sweep / made).unlink()
    done = subprocess.run([sys.executable, "-m", "neo_model.reports.sweep", sweep], capture_output=True, text=True)
    assert done.returncode == 0 and done.stdout.startswith("5 jobs, 3 finished: "), done.stderr
    assert rows_of(sweep) == before and (sweep / "results.md").is_file() and (sweep / "sweep.png").is_file()


def test_the_pareto_front_is_of_finished_jobs_that_none_beats_in_both(sweep):
    write_job(sweep, 5, [0.5], latency=9.0)  # as good as job 1, but slower
    write_job(sweep, 6, [0.125], latency=4.0)  # as fast as job 0, but worse
    write_job(sweep, 7, [0.875], latency=1.0, status="interrupted")
    assert [job.number for job in pareto_front(read_jobs(sweep))] == [0, 1]
    write_job(sweep, 8, [0.625], latency=3.0)
    assert [job.number for job in pareto_front(read_jobs(sweep))] == [8]


@pytest.mark.parametrize("broken", [None, '{"status": "fini', "[" * 100_000], ids=["absent", "cut", "nested"])
def test_a_finished_run_whose_command_is_lost_is_named_by_its_folder(tmp_path, capsys, broken):
    records = [{"step": 10 * epoch, "epoch": epoch, "val/AP": epoch / 8} for epoch in (1, 2)]
    write_run(tmp_path / "fast", records, config="epochs: 2\noptim: {lr: 0.01}\n")
    write_run(tmp_path / "slow", records[:1], config="epochs: 1\noptim: {lr: 0.001}\n")
    if broken:
        (tmp_path / "fast" / "result.json").write_text(broken)
        with (tmp_path / "fast" / "metrics.jsonl").open("a") as file:
            file.write(broken)
    assert main([str(tmp_path)]) == 0
    said = capsys.readouterr().out.splitlines()
    assert said[-1] == f"best: {tmp_path}/fast, whose command no result.json tells"
    assert "The best: `fast`, whose command no result.json tells." in (tmp_path / "results.md").read_text()
    assert [(row["folder"], row["optim.lr"], row["AP"]) for row in rows_of(tmp_path)] == [
        ("fast", "0.01", "0.25"), ("slow", "0.001", "0.125")
    ]  # fmt: skip


def test_runs_that_none_finished_have_no_best(tmp_path, capsys):
    write_run(tmp_path / "cut", [{"step": 10, "epoch": 1, "val/AP": 0.5}])
    assert main([str(tmp_path)]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == "best: no job has finished with an AP yet"
    assert "The best" not in (tmp_path / "results.md").read_text()


def test_a_folder_without_runs_is_refused_and_left_as_it_was(tmp_path, capsys):
    (tmp_path / "empty" / "checkpoints").mkdir(parents=True)
    for arguments, cause in (
        ([str(tmp_path)], f"{tmp_path}: holds no runs"),
        ([str(tmp_path / "none")], f"{tmp_path}/none: is not a folder"),
        ([], "command line: holds 0 folders"),
    ):
        assert main(arguments) == 2
        said = capsys.readouterr()
        assert said.err.startswith(f"error: {cause}; ") and said.err.count("\n") == 1 and not said.out
    assert [path.name for path in tmp_path.iterdir()] == ["empty"]
