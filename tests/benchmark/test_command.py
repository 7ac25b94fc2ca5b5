"""The command line of the benchmarks."""

import json
import sys
from types import ModuleType

import pytest

from neo_model.benchmark import __main__ as command
from neo_model.benchmark.measure import Timing
from neo_model.benchmark.table import Report, Row, Table


@pytest.fixture
def demo(monkeypatch):
    """A benchmark named ``step`` whose result the options set."""
    module = ModuleType("neo_model.benchmark.demo", "Says what it was told.")
    module.add_arguments = lambda parser: parser.add_argument("--size", default="1x1")
    row = Row("ours", Timing((1.0,)))
    module.run = lambda options: Report("demo", [Table(f"{options.size}, {options.rounds} rounds", [row], "ours")])
    monkeypatch.setitem(sys.modules, "neo_model.benchmark.step", module)
    return module


def test_the_help_lists_every_benchmark(capsys):
    with pytest.raises(SystemExit):
        command.main(["--help"])
    shown = capsys.readouterr().out
    assert all(f"\n  {name} " in shown for name in command.BENCHMARKS)


def test_a_benchmark_gets_its_options_and_prints_its_table(demo, capsys, tmp_path):
    assert command.main(["step", "--size", "2x3", "--rounds", "7", "--json", str(tmp_path / "r.json")]) == 0
    assert "2x3, 7 rounds" in capsys.readouterr().out
    settings = json.loads((tmp_path / "r.json").read_text())["settings"]
    assert (settings["size"], settings["rounds"]) == ("2x3", 7)


@pytest.mark.parametrize(("name", "calls"), [("step", 3), ("forward", 1)])
def test_a_training_step_is_warmed_up_three_times_anything_else_once(name, calls, capsys):
    with pytest.raises(SystemExit):
        command.main([name, "--help"])
    assert f"not timed ({calls})" in capsys.readouterr().out


def test_an_unknown_name_is_refused(capsys):
    with pytest.raises(SystemExit) as stop:
        command.main(["stepp"])
    assert stop.value.code == 2 and "stepp" in capsys.readouterr().err


@pytest.mark.parametrize("rounds", ["0", "-3", "many"])
def test_a_number_of_samples_that_has_no_median_is_refused(demo, capsys, rounds):
    with pytest.raises(SystemExit) as stop:
        command.main(["step", "--rounds", rounds])
    assert stop.value.code == 2
    assert f"error: argument --rounds: '{rounds}' is not a number from 1 on" in capsys.readouterr().err


def test_a_missing_peer_is_one_line_and_code_2(demo, capsys):
    def run(options):
        raise ModuleNotFoundError("No module named 'transformers'", name="transformers")

    demo.run = run
    assert command.main(["step"]) == 2
    error = capsys.readouterr().err
    assert error == "error: benchmark step: transformers is not installed; pip install -e '.[benchmark]'\n"


def test_a_missing_module_of_ours_keeps_its_traceback(demo):
    def run(options):
        raise ModuleNotFoundError("No module named 'neo_model.gone'", name="neo_model.gone")

    demo.run = run
    with pytest.raises(ModuleNotFoundError, match=r"neo_model\.gone"):
        command.main(["step"])


def test_a_json_file_in_no_folder_is_refused_before_anything_runs(demo, capsys):
    demo.run = None
    assert command.main(["step", "--json", "no/such/folder/r.json"]) == 2
    assert "there is no folder no/such/folder" in capsys.readouterr().err
