import multiprocessing

import torch

from neo_model.data.buffers import KeptBuffers

SHAPE = (2, 4, 6, 3)


def test_a_block_is_used_again_only_when_no_view_of_it_is_left():
    buffers = KeptBuffers(count=1, num_bytes=200)
    first = buffers.take(SHAPE)
    first.fill_(7)
    address, view = first.data_ptr(), first[1].permute(2, 0, 1)
    del first
    other = buffers.take(SHAPE)
    other.fill_(9)
    assert other.data_ptr() != address and view.eq(7).all()
    del view
    smaller = buffers.take((1, 4, 6, 3))
    assert smaller.data_ptr() == address and smaller.shape == (1, 4, 6, 3)


def test_what_another_process_writes_into_a_block_arrives_by_its_number():
    buffers = KeptBuffers(count=2, num_bytes=200)
    fork = multiprocessing.get_context("fork")
    answers = fork.SimpleQueue()

    def work(block):
        buffers.array(block, SHAPE)[1, 2, 3] = (1, 2, 3)
        answers.put(buffers.sent(block, SHAPE))

    addresses = set()
    for _ in range(5):
        process = fork.Process(target=work, args=(buffers.lease(),))
        process.start()
        images = answers.get()
        process.join()
        assert images.shape == (2, 3, 4, 6) and images.is_contiguous(memory_format=torch.channels_last)
        assert images[1, :, 2, 3].tolist() == [1, 2, 3]
        addresses.add(images.data_ptr())
        del images
    assert len(addresses) == 1  # the block used last is the first to be used again
    assert [buffers.lease() is None for _ in range(3)] == [False, False, True]
