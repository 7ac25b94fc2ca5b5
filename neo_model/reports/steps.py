"""A bar for work that has a few long steps of different kinds."""

from typing import TypeVar

from tqdm import tqdm

Done = TypeVar("Done")


def step_bar(total: int, first: str) -> tqdm:
    """A bar of so many steps that names the first one; it shows on a terminal only and leaves nothing behind."""
    return tqdm(total=total, desc=first, leave=False, disable=None, bar_format="{desc} {bar} {elapsed}")


def next_step(steps: tqdm, what: str, done: Done) -> Done:
    """What a step has made, once the bar names the next one."""
    steps.set_description(what)
    steps.update()
    return done
