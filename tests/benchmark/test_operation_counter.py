"""Traffic, arithmetic and memory counted for computations whose figures are known by hand."""

import pytest
import torch

from neo_model.benchmark.fake_gpu import fake_gpu
from neo_model.benchmark.operation_counter import OperationCounter

FLOAT32 = 4


def test_a_matrix_product_counts_its_operands_its_result_and_two_operations_a_term():
    left, right = torch.ones(64, 32), torch.ones(32, 16)
    with OperationCounter("cpu") as counter:
        counter.watch(left, right)
        counter.start()
        left @ right
    assert counter.operations == 1
    assert counter.flops == 2 * 64 * 32 * 16
    assert counter.bytes_moved == FLOAT32 * (64 * 32 + 32 * 16 + 64 * 16)


def bytes_moved(call) -> int:
    with OperationCounter("cpu") as counter:
        call()
    assert counter.operations == 1
    return counter.bytes_moved


def test_what_is_written_in_place_counts_whether_it_is_returned_or_not():
    ours, other = torch.ones(10), torch.ones(10)
    assert bytes_moved(lambda: ours.add_(other)) == FLOAT32 * 30
    assert bytes_moved(lambda: torch._foreach_add_([ours], [other])) == FLOAT32 * 30
    assert bytes_moved(lambda: torch._foreach_add_([ours, other], 1.0)) == FLOAT32 * 40
    assert bytes_moved(lambda: ours.copy_(other)) == FLOAT32 * 20
    assert bytes_moved(lambda: torch._foreach_copy_([ours], [other])) == FLOAT32 * 20
    assert bytes_moved(lambda: torch._foreach_zero_([ours, other])) == FLOAT32 * 20


def test_adamw_reads_and_writes_weights_and_both_moments():
    parameter = torch.nn.Parameter(torch.ones(1000))
    optimizer = torch.optim.AdamW([parameter], fused=True)
    parameter.grad = torch.ones(1000)
    with OperationCounter("cpu") as counter:
        optimizer.step()
    assert max(cost for cost, _ in counter.costs) == pytest.approx(FLOAT32 * 8 * 1000, abs=FLOAT32 * 4)


def test_rows_that_are_gathered_count_as_often_as_they_are_read():
    matrix, share = torch.ones(5, 16), torch.ones(120)
    index, firsts = torch.zeros(120, dtype=torch.int32), torch.tensor([0, 40, 80], dtype=torch.int32)
    mixed = bytes_moved(lambda: torch.ops.aten._embedding_bag(matrix, index, firsts, False, 0, False, share))
    gathered, mixtures, which = FLOAT32 * 120 * 16, FLOAT32 * 3 * 16, FLOAT32 * (120 + 3 + 120)
    assert gathered + mixtures + which <= mixed <= gathered + mixtures + 2 * which  # the kernel's own notes among them


def test_pixels_that_are_sampled_count_as_often_as_they_are_read():
    pixels, points = torch.ones(2, 16, 9, 9), torch.zeros(2, 3, 4, 2)
    corners, sampled = FLOAT32 * 16 * 4 * 24, FLOAT32 * 16 * 24
    forward = torch.ops.aten.grid_sampler_2d
    assert bytes_moved(lambda: forward(pixels, points, 0, 0, False)) == corners + FLOAT32 * 48 + sampled
    gradient = torch.ones(2, 16, 3, 4)
    both = bytes_moved(
        lambda: torch.ops.aten.grid_sampler_2d_backward(gradient, pixels, points, 0, 0, False, [True, True])
    )
    assert both == 2 * corners + sampled + FLOAT32 * (2 * 48 + pixels.numel())


def test_the_peak_on_the_fake_gpu_is_what_is_alive_at_once():
    with fake_gpu():
        inputs = torch.zeros(1000, device="cuda")
        with OperationCounter("cuda") as counter:
            counter.watch(inputs)
            counter.start()
            first = inputs + 1
            second = first + 1
            del first
            third = second + 1
            del second, third
    assert counter.bytes_at_start == FLOAT32 * 1000
    assert counter.peak_bytes == FLOAT32 * 3000
    assert counter.alive_bytes == FLOAT32 * 1000
