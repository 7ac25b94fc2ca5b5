"""What is not right with a data set, in one form for the console, the run's folder and the audit."""

import logging
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from neo_model.utils import UserError

logger = logging.getLogger(__name__)

MOST_SHOWN = 5
AUDIT = "python -m neo_model.data.audit"


@dataclass(frozen=True)
class Finding:
    """One kind of thing that is not right.

    Attributes:
        where: the file, folder or key.
        what: what is wrong, to be read after a number, such as "boxes without width or height (annotation ids)".
        count: how many.
        first: the first few of them, as text; empty where ``what`` says it all.
        then: what training does with each of them; what the user must do, if it stops.
        stops: whether it does not train, or not evaluate.
    """

    where: str
    what: str
    count: int
    first: tuple[str, ...]
    then: str
    stops: bool

    @property
    def cause(self) -> str:
        """What is wrong, how often, and the first of them."""
        return f"{self.count} {self.what}: {self.shown}" if self.first else self.what

    @property
    def shown(self) -> str:
        """The first of them, with an ellipsis if there are more."""
        return ", ".join([*self.first, *(["..."] if self.count > len(self.first) else [])])

    @property
    def training(self) -> str:
        """What training does."""
        return f"stops; {self.then}" if self.stops else self.then

    def as_dict(self) -> dict:
        """Plain values, for a JSON file."""
        fields = {"where": self.where, "what": self.what, "count": self.count, "first": list(self.first)}
        return fields | {"training": self.training}


def first_of(values: Sequence | np.ndarray) -> str:
    """The first few values, as text."""
    return ", ".join([*map(str, values[:MOST_SHOWN]), *(["..."] if len(values) > MOST_SHOWN else [])])


def findings_of(
    where: str | Path, what: str, culprits: Sequence | np.ndarray, *, then: str, stops: bool = False
) -> list[Finding]:
    """One ``Finding``, or none if there are no culprits; see there for the arguments."""
    if not len(culprits):
        return []
    first = tuple(str(culprit) for culprit in culprits[:MOST_SHOWN])
    return [Finding(str(where), what, len(culprits), first, then, stops)]


def finding_of(error: UserError) -> Finding:
    """An error that training would end with."""
    return Finding(error.where, error.cause, 1, (), error.remedy, stops=True)


def raised_by(check: Callable[..., None], *arguments: object) -> list[Finding]:
    """What a check of training's raises, as a finding."""
    try:
        check(*arguments)
    except UserError as error:
        return [finding_of(error)]
    return []


def act_on(findings: Iterable[Finding]) -> None:
    """What training does at its start: a warning for each finding, or the end.

    Raises:
        UserError: of the first that stops training.
    """
    findings = list(findings)
    stopping = [finding for finding in findings if finding.stops]
    if stopping:
        more = f" (1 of {len(stopping)} such findings; {AUDIT} lists all)" if len(stopping) > 1 else ""
        raise UserError(stopping[0].where, stopping[0].cause, stopping[0].then + more)
    for finding in findings:
        logger.warning("%s: %s; %s", finding.where, finding.cause, finding.then)
