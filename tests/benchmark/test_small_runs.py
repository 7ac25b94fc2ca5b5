"""Each benchmark runs, at sizes that take no time, and its tables have the rows that the README reads."""

import argparse

import pytest
import torch

from neo_model.benchmark import deform, forward, hardware, loop, memory, safety, saving, startup, step, step_parts
from neo_model.benchmark.fake_gpu import fake_gpu
from neo_model.benchmark.measure import interleaved
from neo_model.benchmark.step_parts import PARTS
from neo_model.benchmark.subjects import random_batch
from neo_model.engine import Hardware

SIZE = (256, 320)  # the least at which transformers finds 300 tokens to select


@pytest.fixture
def options(request):
    """What a benchmark's own parser and the command's make of these arguments; one sample each."""
    benchmark, arguments = request.param
    parser = argparse.ArgumentParser()
    benchmark.add_arguments(parser)
    return argparse.Namespace(**vars(parser.parse_args(arguments)) | {"rounds": 1, "warmup": 0})


def names(table) -> list[str]:
    return [row.name for row in table.rows]


@pytest.mark.parametrize("options", [(deform, ["--size", "128x64", "--queries", "3"])], indirect=True)
def test_all_forms_of_deformable_attention_agree(options, monkeypatch):
    pytest.importorskip("transformers")
    turns = []
    monkeypatch.setattr(deform, "interleaved", lambda forms, **how: turns.append([*forms]) or interleaved(forms, **how))
    report = deform.run(options)
    assert turns == [names(table) for table in report.tables]  # the ceiling takes its turns with the rest
    for table in report.tables:
        assert names(table) == ["ours", "ours, projecting first", "transformers", "reading the maps once"]
    in_fp32, in_bf16 = (float(note.split()[-1].rstrip(".")) for note in report.notes)
    assert in_fp32 < 1e-5 < in_bf16 < 2e-2


@pytest.mark.slow
@pytest.mark.parametrize("options", [(forward, ["--size", "320x256"])], indirect=True)
def test_inference_is_compared_with_the_best_form_of_the_peer(options):
    pytest.importorskip("transformers")
    (table,) = forward.run(options).tables
    assert "R18 320x256, batch 1, bf16" in table.title and "x best peer" in table.text()
    assert names(table) == ["ours", "transformers", "transformers, weights in bf16", "arithmetic floor"]
    assert table.peer.value.median == min(row.value.median for row in table.rows[1:3])


@pytest.mark.parametrize(
    "options", [(loop, ["--size", "64x64", "--batch", "1", "--workers", "0", "--precision", "fp32"])], indirect=True
)
def test_the_parts_of_a_step_add_up(options):
    options.rounds = 2
    report = loop.run(options)
    assert "\n2 samples, " in report.text()
    (table,) = report.tables
    (share,) = (row for row in table.rows if row.name == loop.SHARE)
    assert share.unit == "%" and 0 < share.figures[1] <= share.figures[0] <= share.figures[2] < 100
    seconds = {row.name: row.value.samples for row in table.rows}
    assert [len(samples) for samples in seconds.values()] == [2] * len(seconds)
    for i, whole in enumerate(seconds["step"]):
        parts = {name: samples[i] for name, samples in seconds.items()}
        assert sum(parts[part] for part in (*PARTS, loop.LOOP)) == pytest.approx(whole)
        assert parts[loop.BESIDE] == pytest.approx(whole - sum(parts[p] for p in ("forward", "backward", "optimizer")))
        assert parts[loop.SHARE] == parts[loop.BESIDE] / parts["step"]
        assert 0 <= parts[loop.REST] < parts[loop.LOOP] < parts[loop.BESIDE] < whole


@pytest.mark.slow
def test_recomputing_more_keeps_less_and_computes_more():
    counts = [memory.count_ours(18, *SIZE, 1, 3, recompute=parts) for parts in ([], *memory.RECOMPUTED)]
    neither, backbone, encoder, both = counts
    assert neither.peak_bytes > max(backbone.peak_bytes, encoder.peak_bytes) > both.peak_bytes
    assert neither.flops < min(backbone.flops, encoder.flops) < both.flops
    assert len({count.bytes_at_start for count in counts}) == 1


@pytest.mark.parametrize("options", [(memory, ["--size", "32x32", "--batch", "1"])], indirect=True)
def test_real_steps_have_each_its_peak_and_take_turns(options, monkeypatch):
    """No step is run: the allocator holds 1 GiB for ours from then on, and 4 GiB at most while the peer's runs."""
    order, held, peak = [], [0], [0]

    def step(name, gib):
        order.append(name)
        held[0] = max(held[0], 2**30)
        peak[0] = held[0] + gib * 2**30

    monkeypatch.setattr(memory, "our_learner", lambda *args, **options: None)
    images = []
    monkeypatch.setattr(memory, "our_step", lambda _, batch, *args: images.append(batch.images) or step("ours", 0))
    monkeypatch.setattr(memory, "peer_step", lambda *args, **options: lambda: step("peer", 3))
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda: held[0])
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda: peak[0])
    monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", lambda: None)
    options.rounds = 2
    peaks, times = memory._real_tables("R18", (32, 32), options)
    assert [row.value for row in peaks.rows] == [1, 3]
    assert "".join(name[0] for name in order[2 * memory.FIRST_STEPS :]) == "opop"
    assert [len(row.value.samples) for row in times.rows] == [2, 2]
    assert {(image.dtype, image.stride(1)) for image in images} == {(torch.uint8, 1)}


def test_what_is_counted_is_channels_last_as_hardware_has_it():
    with fake_gpu():
        convolution = memory._on_gpu(lambda which: torch.nn.Conv2d(3, 4, 3), 18)
        batch = memory._as_loaded(random_batch(8, 8, num_images=2, num_boxes=0, device="cuda"))
        made = convolution(batch.images.float())
    assert batch.images.dtype == torch.uint8
    for tensor in (convolution.weight, batch.images, made):
        assert tensor.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.slow
@pytest.mark.parametrize(
    "options", [(step, ["--size", "320x256", "--batch", "1", "--boxes", "3", "--precisions", "fp32"])], indirect=True
)
def test_a_training_step_has_its_peers_its_floor_and_its_parts(options, monkeypatch):
    pytest.importorskip("transformers")
    monkeypatch.setattr(step_parts, "LEAST_ROUNDS", 1)
    compared, parts = step.run(options).tables
    peers = ["transformers", "transformers, channels-last, fused"]
    assert names(compared) == ["ours", *peers, "arithmetic floor"] and compared.ratio_to == peers
    assert names(parts) == ["step", *PARTS, "loop"]


@pytest.mark.slow
@pytest.mark.parametrize(
    "options", [(startup, ["--override", "data.num_train=8", "data.num_val=2", "hardware=cpu"])], indirect=True
)
def test_the_start_of_a_training_is_split_into_parts(options):
    report = startup.run(options)
    assert "\n1 samples, " in report.text()
    (table,) = report.tables
    seconds = {row.name: row.figures[0] for row in table.rows}
    assert sum(seconds.values()) == pytest.approx(2 * seconds["whole"])
    assert {"imports", "first batch and step"} <= seconds.keys() and min(seconds.values()) > 0


@pytest.mark.slow
@pytest.mark.parametrize("options", [(saving, ["--depths", "18"])], indirect=True)
def test_the_parts_of_saving_add_up(options):
    report = saving.run(options)
    assert "\n1 samples, " in report.text()
    (table,) = report.tables
    seconds = {row.name: row.value.samples[0] for row in table.rows}
    parts = (saving.SERIALISE, saving.CHECKSUM, saving.WRITE, saving.DISK)
    assert seconds[saving.SAVE] == pytest.approx(sum(seconds[part] for part in parts))
    assert min(seconds.values()) > 0


@pytest.mark.slow
@pytest.mark.parametrize("options", [(safety, ["--size", "64x64", "--batch", "1"])], indirect=True)
def test_a_step_with_and_without_what_keeps_it_safe(options):
    report = safety.run(options)
    steps, parts = report.tables
    assert "\n7 samples, " in report.text()  # of two steps and five parts, one of the steps in both tables
    assert names(steps) == [safety.SAFE, safety.BARE]
    assert parts.rows[0].value == steps.rows[1].value and len(parts.rows) == 6


@pytest.mark.slow
@pytest.mark.parametrize("options", [(hardware, ["--size", "64x64", "--batch", "1", "--boxes", "2"])], indirect=True)
def test_each_choice_of_hardware_has_its_row(options):
    step_table, optimizer_table = hardware.run(options).tables
    small_pages = "freed memory given back, small pages"
    other = "bf16" if Hardware(device="cpu").precision == "fp32" else "fp32"
    assert names(step_table) == ["as chosen", f"precision={other}", "channels_last=false", small_pages]
    assert names(optimizer_table) == ["fused, as chosen", "fused=False"]
    assert all(row.value.median > 0 for table in (step_table, optimizer_table) for row in table.rows)
