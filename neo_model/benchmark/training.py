"""A training step of ours, through the training loop, and one of ``transformers``' model."""

from collections.abc import Callable

import torch
from torch import nn

from neo_model.benchmark.subjects import Batch, our_criterion, our_model, peer_model
from neo_model.engine.hardware import PRECISIONS, Hardware
from neo_model.engine.progress import Progress
from neo_model.engine.training_loop import Learner, train_one_epoch
from neo_model.optim import AdamW, Constant, Ema

LEARNING_RATE, WEIGHT_DECAY, CLIP_NORM = 1e-4, 1e-4, 0.1


def our_learner(depth: int, hardware: Hardware, *, average: bool = False) -> Learner:
    """Our model with what trains it, and with the average of its weights if asked for."""
    model = hardware.place_for_training(our_model(depth))
    optimizer = AdamW(lr=LEARNING_RATE, weight_decay=WEIGHT_DECAY).build(model)
    scheduler = Constant().build(optimizer, steps_per_epoch=1, total_steps=1)
    ema = Ema().build(model) if average else None
    return Learner(model, our_criterion(), optimizer, scheduler, hardware.grad_scaler(), ema, CLIP_NORM)


def our_step(learner: Learner, batch: Batch, hardware: Hardware) -> None:
    """An epoch of one batch."""
    train_one_epoch(learner, [(batch.images, batch.targets)], Progress(), hardware, after_step=lambda report: None)


def peer_step(
    depth: int,
    batch: Batch,
    device: torch.device,
    *,
    precision: str,
    channels_last: bool,
    fused: bool,
    average: bool = False,
) -> Callable[[], None]:
    """A step of ``transformers``' model in the form that its documentation gives: the loss inside autocast."""
    layout = torch.channels_last if channels_last else torch.contiguous_format
    model = peer_model(depth).to(device, memory_format=layout).train()
    images, labels = batch.images.to(memory_format=layout), batch.peer_targets
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=LEARNING_RATE, weight_decay=WEIGHT_DECAY, fused=fused or None)
    scaler = torch.amp.GradScaler(device.type, enabled=precision == "fp16")
    ema = Ema().build(model) if average else None
    dtype = PRECISIONS[precision]

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        with torch.autocast(device.type, dtype=dtype or torch.bfloat16, enabled=dtype is not None):
            loss = model(pixel_values=images, labels=labels).loss
        scaler.scale(loss).backward()
        scaler.unscale_(optimizer)
        nn.utils.clip_grad_norm_(parameters, CLIP_NORM)
        scaler.step(optimizer)
        scaler.update()
        if ema is not None:
            ema.update_parameters(model)

    return step
