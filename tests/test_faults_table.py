"""README's table of what happens when: every line names tests that are there, and every row of faults is in it."""

import ast
import re
from fnmatch import filter as matching
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
ROWS = set(range(1, 40))
TITLE = "## What happens when ..."


def table() -> list[list[str]]:
    """What happens, what neo_model does and what holds it, line by line."""
    text = (ROOT / "README.md").read_text().split(TITLE)[1].split("\n## ")[0]
    cells = [[cell.strip() for cell in line.strip("|").split(" | ")] for line in text.splitlines() if line[:1] == "|"]
    return cells[2:]


def rows_named(text: str) -> set[int]:
    """The numbers in "`test_row_02_*` to `test_row_04_*`, `test_row_19_*`"."""
    ranges = re.findall(r"`test_row_(\d\d)_\*`(?: to `test_row_(\d\d)_\*`)?", text)
    return {number for first, last in ranges for number in range(int(first), int(last or first) + 1)}


@cache
def functions(folder: str) -> list[str]:
    """Names of the functions in all modules of tests below a folder."""
    return [
        node.name
        for path in (ROOT / folder).rglob("test_*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.FunctionDef)
    ]


def rows_tested() -> set[int]:
    return {int(number) for name in functions("tests/faults") for number in re.findall(r"^test_row_(\d\d)_", name)}


def test_every_row_has_a_test_of_its_number_and_a_line_in_the_manual():
    assert rows_tested() == ROWS
    assert set().union(*(rows_named(held_by) for *_, held_by in table())) == ROWS


@pytest.mark.parametrize("line", table(), ids=lambda line: line[0][:40])
def test_each_line_names_what_holds_it(line):
    _, does, held_by = line
    assert does
    paths = re.findall(r"`(tests/[\w/.]+)`", held_by)
    modules = re.findall(r"`python -m ([\w.]+)", held_by)
    names = re.findall(r"`(test_[^`]*)`", held_by)
    assert names or paths
    missing = [name for name in names if not matching(functions("tests"), name)]
    missing += [path for path in paths if not (ROOT / path).exists()]
    missing += [module for module in modules if not (ROOT / (module.replace(".", "/") + ".py")).is_file()]
    assert not missing
