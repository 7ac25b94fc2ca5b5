"""One layer of deformable attention over the maps of a 1920x1088 image: 300 queries, 8 heads, 4 points.

In float32, and under bf16 autocast with maps in bf16, as the encoder leaves them there. Ours beside ``transformers``'
layer with the same weights, and beside our own plain order, which projects every token first. With backward means down
to the parameters, the queries and the maps.
"""

import argparse
import math
from collections.abc import Callable
from dataclasses import dataclass
from unittest import mock

import torch
from torch import Tensor, nn

from neo_model.benchmark.ceiling import copying
from neo_model.benchmark.measure import interleaved
from neo_model.benchmark.subjects import size_argument
from neo_model.benchmark.table import Report, Row, Table
from neo_model.engine.hardware import PRECISIONS, Hardware
from neo_model.models import deformable
from neo_model.models.deformable import DeformableAttention, Tokens

DIM, NUM_HEADS, NUM_POINTS, STRIDES = 256, 8, 4, (8, 16, 32)
PEER, FLOOR = "transformers", "reading the maps once"


@dataclass(frozen=True)
class Form:
    """One way to compute the layer.

    Attributes:
        call: returns the output [B, Q, D].
        leaves: what its gradient is for.
    """

    call: Callable[[], Tensor]
    leaves: list[Tensor]

    def forward(self) -> None:
        """As in inference."""
        with torch.no_grad():
            self.call()

    def with_backward(self) -> None:
        """As in training; the gradients are let go."""
        output = self.call()
        torch.autograd.grad(output, self.leaves, torch.ones_like(output))


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of this benchmark."""
    parser.add_argument("--device", default="cpu", help="cpu or cuda (cpu)")
    parser.add_argument("--size", type=size_argument, default=(1088, 1920), help="WIDTHxHEIGHT (1920x1088)")
    parser.add_argument("--batch", type=int, default=1, help="images (1)")
    parser.add_argument("--queries", type=int, default=300, help="queries (300)")
    parser.add_argument(
        "--precisions", nargs="+", choices=("fp32", "bf16", "fp16"), default=["fp32", "bf16"], help="(fp32 bf16)"
    )


def run(arguments: argparse.Namespace) -> Report:
    """Measure both directions at every precision."""
    tables, notes = [], []
    for precision in arguments.precisions:
        hardware = Hardware(device=arguments.device, precision=precision, tf32=arguments.device == "cuda")
        hardware.set_backends()
        forms, maps = forms_of(hardware, arguments)
        height, width = arguments.size
        title = f"{arguments.queries} queries, {width}x{height}, batch {arguments.batch}, {precision}"
        forward = {name: form.forward for name, form in forms.items()}
        both = {name: form.with_backward for name, form in forms.items()}
        tables.append(_table(f"forward, {title}", forward, maps, arguments))
        tables.append(_table(f"with backward, {title}", both, maps, arguments))
        notes.append(f"Outputs in {precision} differ by at most {largest_difference(forms):.1e}.")
    return Report("deform", tables, notes)


def forms_of(hardware: Hardware, arguments: argparse.Namespace) -> tuple[dict[str, Form], list[Tensor]]:
    """The layer's forms, all with the same weights and inputs, and the maps that they read."""
    torch.manual_seed(0)
    device, (height, width) = hardware.device, arguments.size
    sizes = [(math.ceil(height / stride), math.ceil(width / stride)) for stride in STRIDES]
    shape = (arguments.batch, arguments.queries)
    queries = torch.randn(*shape, DIM, device=device, requires_grad=True)
    references = torch.rand(*shape, 4, device=device) * 0.5 + 0.2
    maps = [torch.randn(arguments.batch, DIM, h, w, device=device) for h, w in sizes]
    maps = [x.to(PRECISIONS[hardware.precision] or torch.float32) for x in maps]
    layer = our_layer().to(device)
    forms = {
        "ours": ours_of(layer, queries, references, maps),
        "ours, projecting first": projecting_first(ours_of(layer, queries, references, maps)),
        PEER: peer_of(layer, queries, references, maps),
    }
    return {name: mixed_precision(form, hardware) for name, form in forms.items()}, maps


def our_layer() -> DeformableAttention:
    """With weights that send the points of every query elsewhere, as after training."""
    layer = DeformableAttention(DIM, num_heads=NUM_HEADS, num_points=[NUM_POINTS] * len(STRIDES))
    nn.init.normal_(layer.sampling_offsets.weight, std=0.05)
    nn.init.normal_(layer.attention_weights.weight, std=0.05)
    return layer


def ours_of(layer: DeformableAttention, queries: Tensor, references: Tensor, maps: list[Tensor]) -> Form:
    """Our layer on its own form of the maps."""
    tokens = Tokens.of(maps)
    memory = Tokens(tokens.rows_ND.requires_grad_(), tokens.batch_size, tokens.sizes)
    return Form(lambda: layer(queries, references, memory), [queries, memory.rows_ND, *layer.parameters()])


def projecting_first(form: Form) -> Form:
    """The same in the plain order."""

    def projected() -> Tensor:
        with mock.patch.object(deformable, "mixing_first_pays", return_value=False):
            return form.call()

    return Form(projected, form.leaves)


def mixed_precision(form: Form, hardware: Hardware) -> Form:
    """The same under autocast."""

    def call() -> Tensor:
        with hardware.autocast():
            return form.call()

    return Form(call, form.leaves)


def peer_of(layer: DeformableAttention, queries: Tensor, references: Tensor, maps: list[Tensor]) -> Form:
    """``transformers``' layer with the weights of ours."""
    from transformers import RTDetrConfig
    from transformers.models.rt_detr.modeling_rt_detr import RTDetrMultiscaleDeformableAttention

    config = RTDetrConfig(d_model=DIM, num_feature_levels=len(STRIDES))
    peer = RTDetrMultiscaleDeformableAttention(config, num_heads=NUM_HEADS, n_points=NUM_POINTS).to(queries.device)
    peer.load_state_dict(layer.state_dict())
    memory = torch.cat([x.flatten(2).transpose(1, 2) for x in maps], dim=1).requires_grad_()
    sizes = [tuple(x.shape[-2:]) for x in maps]
    shapes = torch.tensor(sizes, device=queries.device)

    def call() -> Tensor:
        return peer(
            hidden_states=queries,
            encoder_hidden_states=memory,
            reference_points=references[:, :, None],
            spatial_shapes=shapes,
            spatial_shapes_list=sizes,
        )[0]

    return Form(call, [queries, memory, *peer.parameters()])


def largest_difference(forms: dict[str, Form]) -> float:
    """Between any form's output and the peer's."""
    with torch.no_grad():
        outputs = {name: form.call() for name, form in forms.items()}
    return max((output - outputs[PEER]).abs().max().item() for output in outputs.values())


def _table(title: str, candidates: dict, maps: list[Tensor], arguments: argparse.Namespace) -> Table:
    ceiling = copying(maps[0].device)
    timings = interleaved(
        {**candidates, FLOOR: ceiling.call},
        rounds=arguments.rounds,
        warmup=arguments.warmup,
        device=arguments.device,
    )
    num_bytes = sum(x.numel() * x.element_size() for x in maps)
    floor = ceiling.time_of(num_bytes, timings.pop(FLOOR))
    rows = [Row(name, timing, "ms") for name, timing in timings.items()]
    return Table(title, [*rows, Row(FLOOR, floor, "ms", note=f"{num_bytes / 1e6:.0f} MB")], PEER)
