"""Ground truth on its way to the device: few, large copies that nobody waits for."""

import torch
from torch import Tensor


def pad_targets(
    targets: list[dict[str, Tensor]], *, slots: int, empty_label: int = 0, device: torch.device
) -> tuple[Tensor, Tensor]:
    """The targets of B images as rectangles, put together where they are and moved in one copy each.

    Args:
        targets: per image ``labels`` int64 [n] and ``boxes`` [n, 4]; what is beyond ``slots`` is left out.
        slots: T.
        empty_label: label of a slot without a target; its box is 0.
        device: where the result is wanted.

    Returns:
        labels int64 [B, T] and boxes float32 [B, T, 4].
    """
    home = targets[0]["labels"].device
    labels = torch.full((len(targets), slots), empty_label, dtype=torch.int64, device=home)
    boxes = torch.zeros(len(targets), slots, 4, device=home)
    for image, target in enumerate(targets):
        count = min(len(target["labels"]), slots)
        labels[image, :count] = target["labels"][:count]
        boxes[image, :count] = target["boxes"][:count]
    return to_device(labels, device), to_device(boxes, device)


def to_device(tensor: Tensor, device: torch.device) -> Tensor:
    """``tensor`` on the device; the host goes on at once, as only page-locked memory allows.

    A compiled graph copies its constants by its own means.
    """
    if device.type == "cuda" and tensor.device.type == "cpu" and not torch.compiler.is_compiling():
        tensor = tensor.pin_memory()
    return tensor.to(device, non_blocking=True)
