"""What the machine itself can do: the rate of a large matrix product, and of copying memory."""

import torch

from neo_model.benchmark.measure import interleaved

MATRIX = {"cpu": 2048, "cuda": 8192}
COPY_BYTES = {"cpu": 2**28, "cuda": 2**31}


def matmul_rate(dtype: torch.dtype, device: torch.device, *, rounds: int = 5) -> list[float]:
    """Floating-point operations a second, one figure a round."""
    size = MATRIX[device.type]
    a, b = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))
    timing = interleaved({"matmul": lambda: a @ b}, rounds=rounds, device=device.type)["matmul"]
    return [2 * size**3 / seconds for seconds in timing.samples]


def copy_rate(device: torch.device, *, rounds: int = 5) -> list[float]:
    """Bytes read and written a second, one figure a round."""
    size = COPY_BYTES[device.type]
    source = torch.zeros(size, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    timing = interleaved({"copy": lambda: target.copy_(source)}, rounds=rounds, device=device.type)["copy"]
    return [2 * size / seconds for seconds in timing.samples]
