"""What the machine itself can do, timed in turns with the candidates: a large matrix product, and copying memory."""

from collections.abc import Callable
from dataclasses import dataclass

import torch

from neo_model.benchmark.measure import Timing

MATRIX = {"cpu": 2048, "cuda": 8192}
COPY_BYTES = {"cpu": 2**28, "cuda": 2**31}


@dataclass(frozen=True)
class Ceiling:
    """Work at the machine's best rate.

    Attributes:
        call: does it, as a candidate of `interleaved`.
        work: floating-point operations, or bytes read and written, of a call.
    """

    call: Callable[[], object]
    work: float

    def time_of(self, work: float, timing: Timing) -> Timing:
        """What so much work takes at the rate of the calls timed."""
        samples = tuple(seconds * work / self.work for seconds in timing.samples)
        return Timing(samples, timing.retakes, timing.disturbed)


def matrix_product(dtype: torch.dtype, device: torch.device) -> Ceiling:
    """Floating-point operations."""
    size = MATRIX[device.type]
    a, b = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))
    return Ceiling(lambda: a @ b, 2 * size**3)


def copying(device: torch.device) -> Ceiling:
    """Bytes read and written."""
    size = COPY_BYTES[device.type]
    source = torch.zeros(size, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    return Ceiling(lambda: target.copy_(source), 2 * size)
