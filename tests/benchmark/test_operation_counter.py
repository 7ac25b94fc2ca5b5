"""Traffic, arithmetic and memory counted for computations whose figures are known by hand."""

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
