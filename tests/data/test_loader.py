import multiprocessing
import os
import signal
import threading

import numpy as np
import pytest
import torch

from neo_model.utils import UserError

EVERYTHING = {"photometric": 0.5, "zoom_out": 0.5, "iou_crop": 0.8, "flip": 0.5, "color": 0.5}
SCALES = {"width": 160, "height": 90, "train_sizes": [[160, 90], [192, 108], [128, 72]]}


@pytest.fixture
def make_loader(make_data):
    """Builds a ``TrainLoader`` of the seven small images and closes it in the end."""
    loaders = []

    def make(augment=None, resolution=None, kind="process", **options):
        defaults = {"batch_size": 2, "workers": 0, "prefetch": 2, "pin_memory": False, "seed": 0}
        data = make_data(augment, resolution, loader=kind)
        loaders.append(data.train_loader(**{**defaults, **options}))
        return loaders[-1]

    yield make
    for loader in loaders:
        loader.close()


def number_of_workers():
    return len(multiprocessing.active_children()) + sum("loader" in thread.name for thread in threading.enumerate())


def image_ids(batches):
    return [[target["image_id"] for target in targets] for _, targets in batches]


def assert_same_batches(first, second):
    first, second = list(first), list(second)
    assert len(first) == len(second)
    for (images, targets), (other_images, other_targets) in zip(first, second, strict=True):
        assert torch.equal(images, other_images)
        assert len(targets) == len(other_targets)
        for target, other in zip(targets, other_targets, strict=True):
            assert target.keys() == other.keys()
            assert torch.equal(target["labels"], other["labels"]) and torch.equal(target["boxes"], other["boxes"])
            rest = [key for key in target if key not in ("labels", "boxes")]
            assert [target[key] for key in rest] == [other[key] for key in rest]


def test_a_batch_is_bytes_and_targets(make_loader):
    images, targets = next(make_loader(batch_size=3).epoch(0))
    assert images.dtype == torch.uint8 and images.shape == (3, 3, 90, 160)
    for target in targets:
        assert target["labels"].dtype == torch.int64 and target["boxes"].dtype == torch.float32
        assert target["boxes"].shape == (len(target["labels"]), 4)
        assert ((target["boxes"] >= 0) & (target["boxes"] <= 1)).all()


def test_boxes_come_back_to_the_file_through_the_affine(make_loader):
    for _, targets in make_loader().epoch(0):
        for target in targets:
            if target["image_id"] == 15:
                boxes = target["boxes"] * torch.tensor([160, 90, 160, 90])
                corners = torch.cat([boxes[:, :2] - boxes[:, 2:] / 2, boxes[:, :2] + boxes[:, 2:] / 2], dim=1)
                np.testing.assert_allclose(target["affine"].invert(corners), [[0, 0, 128, 96]], atol=0.01)
                assert target["source_wh"] == (128, 96) and target["labels"].tolist() == [1]


@pytest.mark.filterwarnings("ignore:This DataLoader will create 8 worker")
@pytest.mark.parametrize(("workers", "kind"), [(2, "process"), (8, "process"), (2, "thread"), (8, "thread")])
def test_samples_are_the_same_with_any_number_of_workers(make_loader, workers, kind):
    alone, together = make_loader(EVERYTHING, SCALES), make_loader(EVERYTHING, SCALES, workers=workers, kind=kind)
    for epoch in (0, 1):
        assert_same_batches(alone.epoch(epoch), together.epoch(epoch))


@pytest.mark.parametrize(
    ("resolution", "overfit", "in_epochs"),
    [
        (SCALES, 0, [False, False, False]),
        ({**SCALES, "multiscale_until": 1}, 0, [False, True, True]),
        ({**SCALES, "train_sizes": [[160, 90], [160, 90]]}, 0, [True, True, True]),
        (SCALES, 2, [True, True, True]),
    ],
)
def test_it_knows_in_which_epochs_sizes_change(make_loader, resolution, overfit, in_epochs):
    loader = make_loader(None, resolution, overfit=overfit)
    assert [loader.has_one_size(epoch) for epoch in range(3)] == in_epochs


def test_the_size_after_multi_scale_may_have_the_most_pixels(make_loader):
    sizes = {"width": 110, "height": 110, "train_sizes": [[100, 100], [130, 64]], "any_aspect": True}
    loader = make_loader(None, {**sizes, "multiscale_until": 1})
    shapes = [{tuple(images.shape[2:]) for images, _ in loader.epoch(epoch)} for epoch in (0, 1)]
    assert shapes[0] <= {(100, 100), (64, 130)} and shapes[1] == {(110, 110)}


def test_epochs_and_seeds_differ_and_repeat(make_loader):
    loader, twin, other = make_loader(EVERYTHING), make_loader(EVERYTHING), make_loader(EVERYTHING, seed=1)
    epochs = [list(loader.epoch(epoch)) for epoch in range(3)]
    orders = [image_ids(batches) for batches in (*epochs, other.epoch(0))]
    assert all(first != second for number, first in enumerate(orders) for second in orders[:number])
    assert_same_batches(epochs[2], twin.epoch(2))


def test_the_same_image_looks_different_in_another_epoch(make_loader):
    loader = make_loader(EVERYTHING, batch_size=7)
    pictures = []
    for epoch in range(4):
        images, targets = next(loader.epoch(epoch))
        position = [target["image_id"] for target in targets].index(5)
        pictures.append(images[position].numpy().tobytes())
    assert len(set(pictures)) == 4


def test_an_epoch_shows_each_image_once_and_leaves_out_the_last_that_do_not_fill_a_batch(make_loader):
    loader = make_loader(batch_size=2)
    batches = image_ids(loader.epoch(0))
    assert len(batches) == len(loader) == 3
    seen = sum(batches, [])
    assert len(set(seen)) == 6


def test_a_set_smaller_than_a_batch_is_repeated_to_fill_it(make_loader):
    loader = make_loader(batch_size=16)
    (batch,) = image_ids(loader.epoch(0))
    assert len(loader) == 1 and len(batch) == 16
    counts = np.unique(batch, return_counts=True)[1]
    assert len(counts) == 7 and counts.min() == 2 and counts.max() == 3


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("start", [1, 2, 3])
def test_starting_later_gives_the_rest_of_the_same_epoch(make_loader, workers, start):
    loader = make_loader(EVERYTHING, SCALES, workers=workers)
    whole = list(loader.epoch(1))
    assert_same_batches(loader.epoch(1, start_batch=start), whole[start:])


@pytest.mark.parametrize(("workers", "kind"), [(0, "process"), (2, "process"), (2, "thread")])
def test_memory_of_batches_is_used_again_and_channels_lie_together(make_loader, workers, kind):
    loader = make_loader(workers=workers, kind=kind, batch_size=1)
    addresses = set()
    for epoch in range(4):
        for images, _ in loader.epoch(epoch):
            assert images.is_contiguous(memory_format=torch.channels_last)
            addresses.add(images.data_ptr())
    assert len(addresses) <= 2 * workers + 2 < 4 * len(loader)


@pytest.mark.parametrize(("workers", "kind"), [(0, "process"), (2, "process"), (2, "thread")])
def test_an_epoch_left_early_does_not_leak_into_the_next(make_loader, workers, kind):
    loader, twin = make_loader(EVERYTHING, workers=workers, kind=kind), make_loader(EVERYTHING)
    next(loader.epoch(0))
    assert_same_batches(loader.epoch(1), twin.epoch(1))


def test_multi_scale_draws_one_size_a_batch_and_stops_in_living_workers(make_loader):
    loader = make_loader(None, {**SCALES, "multiscale_until": 4}, workers=2, batch_size=1)
    sizes = [{tuple(images.shape[2:]) for images, _ in loader.epoch(epoch)} for epoch in range(6)]
    assert set().union(*sizes[:4]) == {(90, 160), (108, 192), (72, 128)}
    assert sizes[4] == sizes[5] == {(90, 160)}


def test_strong_augmentation_stops_in_living_workers(make_loader):
    loader = make_loader({"zoom_out": 1, "photometric": 1, "until": 1}, workers=2)
    plain = make_loader()
    assert any(not torch.equal(a[0], b[0]) for a, b in zip(loader.epoch(0), plain.epoch(0), strict=True))
    assert_same_batches(loader.epoch(1), plain.epoch(1))


def test_the_global_generators_are_left_alone(make_loader):
    loader = make_loader(EVERYTHING)
    torch.manual_seed(0), np.random.seed(0)
    expected = torch.rand(1), np.random.rand()
    torch.manual_seed(0), np.random.seed(0)
    list(loader.epoch(0))
    assert (torch.rand(1), np.random.rand()) == expected


@pytest.mark.parametrize(("workers", "kind"), [(0, "process"), (2, "process"), (2, "thread")])
def test_a_broken_file_is_named_and_loading_can_be_closed(make_loader, root, workers, kind):
    loader = make_loader(workers=workers, kind=kind)
    (root / "images" / "3.jpg").write_bytes(b"<html>not here</html>")
    before = number_of_workers()
    with pytest.raises(UserError, match="images are damaged, .*3.jpg") as caught:
        for epoch in range(5):
            list(loader.epoch(epoch))
    loader.close()
    assert number_of_workers() == before and caught.tb  # though the traceback is still alive


@pytest.mark.parametrize("kind", ["process", "thread"])
def test_close_ends_the_workers_and_a_new_epoch_starts_others(make_loader, kind):
    loader = make_loader(workers=2, kind=kind)
    before = number_of_workers()
    running = loader.epoch(0)
    next(running)
    assert number_of_workers() == before + 2
    loader.close()
    assert number_of_workers() == before
    assert len(list(loader.epoch(0))) == 3


def test_workers_leave_stopping_to_the_main_process(make_loader):
    loader = make_loader(workers=2)
    batches = loader.epoch(0)
    next(batches), next(batches)  # one of each worker: both are up
    for worker in multiprocessing.active_children():
        assert os.getpgid(worker.pid) != os.getpgid(0)  # a signal to the run's group passes it by
        for number in (signal.SIGINT, signal.SIGTERM):
            os.kill(worker.pid, number)
    assert len(list(batches)) == 1 and len(list(loader.epoch(1))) == 3


@pytest.mark.parametrize("workers", [0, 2])
def test_validation_shows_all_images_in_order_as_often_as_asked(make_data, workers):
    data = make_data(EVERYTHING, {**SCALES})
    loader = data.val_loader(batch_size=3, workers=workers, prefetch=2, pin_memory=False)
    for _ in range(2):
        assert image_ids(loader) == [[5, 15, 25], [35, 45, 55], [65]]
    assert len(loader) == 3
    assert {tuple(images.shape[1:]) for images, _ in loader} == {(3, 90, 160)}


def test_validation_stops_at_the_limit(make_data):
    loader = make_data().val_loader(batch_size=3, workers=0, prefetch=2, pin_memory=False, limit=2)
    assert len(loader) == 2 and image_ids(loader) == [[5, 15, 25], [35, 45, 55]]
    longer = make_data().val_loader(batch_size=3, workers=0, prefetch=2, pin_memory=False, limit=20)
    assert len(longer) == len(list(longer)) == 3


@pytest.mark.parametrize(("workers", "kind"), [(2, "process"), (2, "thread"), (0, "process")])
def test_processes_started_early_make_the_same_batches(make_loader, workers, kind):
    loader, plain = make_loader(EVERYTHING, workers=workers, kind=kind), make_loader(EVERYTHING)
    loader.start_workers()
    processes = {process.pid for process in multiprocessing.active_children()}
    assert len(processes) == (workers if kind == "process" else 0)
    for epoch, start_batch in ((0, 0), (1, 2)):
        assert_same_batches(loader.epoch(epoch, start_batch), plain.epoch(epoch, start_batch))
        assert {process.pid for process in multiprocessing.active_children()} == processes
    loader.close()
    assert not multiprocessing.active_children()
