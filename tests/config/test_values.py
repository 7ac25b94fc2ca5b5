"""Plain values against type hints."""

import math
import shlex
from pathlib import Path
from typing import Literal

import pytest

from neo_model.config.compose import parse_overrides
from neo_model.config.values import describe, fits, mismatch
from neo_model.utils import Fraction, NonNegativeInt, PositiveFloat, PositiveInt


@pytest.mark.parametrize(
    ("value", "hint"),
    [
        (1, PositiveInt),
        (0, NonNegativeInt),
        (1, float),
        (1e-4, PositiveFloat),
        (None, PositiveInt | None),
        (3, PositiveInt | None),
        ("auto", Literal["auto"] | bool),
        (True, Literal["auto"] | bool),
        (["a"], list[str]),
        ([[1600, 900]], list[list[int]]),
        ([0.9, 0.999], tuple[float, float]),
        ({"a": 1}, dict[str, int]),
        ("x", Path),
    ],
)
def test_fitting_values(value, hint):
    assert fits(value, hint)


@pytest.mark.parametrize(
    ("value", "hint"),
    [
        (0, PositiveInt),
        (1.5, PositiveInt),
        (True, PositiveInt),
        (True, float),
        ("fast", PositiveFloat),
        (math.nan, PositiveFloat),
        (math.inf, float),
        (-1, PositiveFloat),
        (0, PositiveFloat),
        (1.1, Fraction),
        (None, PositiveInt),
        (1, Literal[True]),
        ("true", bool),
        ([1], list[str]),
        ([0.9], tuple[float, float]),
        ({"a": "b"}, dict[str, int]),
        (3, str),
    ],
)
def test_misfits_say_what_is_wanted(value, hint):
    cause, remedy = mismatch(value, hint)
    assert describe(hint) in cause
    assert describe(hint) in remedy


def test_ranges_are_described_in_words():
    assert describe(PositiveInt) == "a whole number between 1 and 2147483647"
    assert describe(PositiveFloat | None) == "a number above 0 or null"
    assert describe(Literal["auto", "cpu"]) == "auto or cpu"


def test_lists_and_dictionaries_are_described_in_words():
    number = "a whole number between 1 and 2147483647"
    assert describe(PositiveInt | list[PositiveInt]) == f"{number}, or a list, each entry {number}"
    assert describe(dict[str, dict] | None) == "a dictionary, each value a dictionary, or null"
    assert describe(tuple[Literal["a", "b"], ...]) == "a list, each entry a or b"


@pytest.mark.parametrize("hint", [str, str | None, Path])
def test_a_number_for_text_is_told_how_text_is_written(hint):
    _, remedy = mismatch(2024, hint)
    assert remedy == """write ./2024 for a path, '"2024"' for any other text"""
    (word,) = shlex.split("""data.root='"2024"'""")
    assert parse_overrides([word])[0].value() == "2024"
