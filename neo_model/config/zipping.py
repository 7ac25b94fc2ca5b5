"""sweep.zip=[optim.lr,hardware.batch_size]: these keys take their first values together, then their second ones."""

import itertools
from collections.abc import Iterator
from contextlib import contextmanager

from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.override_parser.types import Override
from hydra.core.plugins import Plugins

from neo_model.utils import UserError

KEY = "sweep.zip"
SPLIT = BasicSweeper.split_arguments


def split_jobs(overrides: list[Override], keys: list[str]) -> list[list[str]]:
    """The overrides of each job: all combinations of values, in which those of ``keys`` go together.

    Raises:
        UserError: one of the keys has no list of values, or another number of them than the first.
    """
    values = {override.get_key_element().lstrip("+"): SPLIT([override], None)[0] for override in overrides}
    for key in keys:
        if key not in values or len(values[key]) < 2:
            raise UserError(KEY, f"{key} has no values to take in turn", f"give {key}=VALUE,VALUE, or leave it out")
        if len(values[key]) != len(values[keys[0]]):
            numbers = f"{keys[0]} has {len(values[keys[0]])} values, {key} {len(values[key])}"
            raise UserError(KEY, numbers, "give all the same number")
    rows = [list(itertools.chain(*parts)) for parts in zip(*(values.pop(key) for key in keys), strict=True)]
    lists = [rows, *values.values()] if keys else list(values.values())
    return [list(itertools.chain(*parts)) for parts in itertools.product(*lists)]


@contextmanager
def zipping(keys: list[str]) -> Iterator[None]:
    """Have Hydra's own sweeper split its arguments by `split_jobs`: it takes no sweeper from elsewhere."""
    sweeper = Plugins.instance().class_name_to_class[f"{BasicSweeper.__module__}.{BasicSweeper.__name__}"]

    def split(overrides: list[Override], max_batch_size: int | None) -> list[list[list[str]]]:
        return list(BasicSweeper.split_overrides_to_chunks(split_jobs(overrides, keys), max_batch_size))

    if keys:
        sweeper.split_arguments = staticmethod(split)
    try:
        yield
    finally:
        sweeper.split_arguments = staticmethod(SPLIT)
