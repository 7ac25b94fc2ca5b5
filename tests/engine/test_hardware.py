"""What "auto" settles on, on machines with and without a GPU."""

import copy
import functools
import shutil
from types import SimpleNamespace

import pytest
import torch

from neo_model.engine import Hardware
from neo_model.engine.hardware import CompilerOrPlain
from neo_model.utils import UserError

AMX = {"avx512_bf16": True, "amx_bf16": True, "cpu_name": "Intel Xeon"}


@pytest.fixture
def machine(monkeypatch):
    """Pretends to be a machine: a GPU or none, which computes in bf16 or does not, and a CPU that can do ``cpu``."""

    def pretend(*, gpu: bool, gpu_bf16: bool = False, cpu: dict | None = None, cpus: int = 8) -> None:
        monkeypatch.setattr(torch.cuda, "is_available", lambda: gpu)
        monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation=True: gpu_bf16)
        monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx2": True} | (cpu or {}))
        monkeypatch.setattr("neo_model.engine.hardware.num_cores", lambda: cpus)

    return pretend


@pytest.mark.parametrize(
    ("facts", "device", "precision"),
    [
        ({"gpu": False}, "cpu", "fp32"),
        ({"gpu": True, "gpu_bf16": True}, "cuda", "bf16"),
        ({"gpu": True, "gpu_bf16": False, "cpu": AMX}, "cuda", "fp16"),
    ],
)
def test_auto(machine, facts, device, precision):
    machine(**facts)
    hardware = Hardware()
    assert (hardware.device.type, hardware.precision) == (device, precision)
    assert hardware.pin_memory == (device == "cuda")


@pytest.mark.skipif(not torch.ops.mkldnn._is_mkldnn_bf16_supported(), reason="torch cannot compute in bf16 here")
@pytest.mark.parametrize(
    ("cpu", "precision"),
    [
        (AMX, "bf16"),
        ({"bf16": True, "cpu_name": "Neoverse V2"}, "bf16"),
        ({"avx512_bf16": True, "cpu_name": "AMD EPYC"}, "bf16"),
        ({"avx512_bf16": True, "amx_bf16": False, "cpu_name": "Intel Xeon"}, "fp32"),
    ],
)
def test_a_cpu_computes_in_bf16_where_that_is_faster(machine, cpu, precision):
    machine(gpu=False, cpu=cpu)
    assert Hardware().precision == precision


def test_what_is_asked_for_is_kept(machine):
    machine(gpu=True, gpu_bf16=True)
    hardware = Hardware(device="cpu", precision="fp16")
    assert (hardware.device.type, hardware.precision) == ("cpu", "fp16")


def test_a_gpu_that_is_not_there_is_refused(machine):
    machine(gpu=False)
    with pytest.raises(UserError, match="hardware.device: .*hardware=auto"):
        Hardware(device="cuda")


def test_no_more_workers_than_processors(machine):
    machine(gpu=False, cpus=2)
    hardware = Hardware(workers=16)
    assert hardware.workers == 2 and str(hardware).endswith("2 loader workers, not 16: one for each core")
    assert str(Hardware(workers=2)).endswith(" 2 loader workers")
    assert Hardware(workers=0).workers == 0


@pytest.mark.parametrize(
    ("precision", "dtype", "scales"),
    [("fp32", torch.float32, False), ("bf16", torch.bfloat16, False), ("fp16", torch.float16, True)],
)
def test_precision_decides_autocast_and_scaling(precision, dtype, scales):
    hardware = Hardware(device="cpu", precision=precision)
    with hardware.autocast():
        assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == dtype
    assert hardware.grad_scaler().is_enabled() == scales


def test_autocast_takes_the_type_of_a_numbered_gpu(machine):
    machine(gpu=True)
    hardware = Hardware(device="cuda", precision="fp16")
    hardware.device = torch.device("cuda:0")
    assert hardware.autocast().device == "cuda"


@pytest.mark.parametrize("tf32", [True, False])
def test_tf32_is_let_or_kept_from_products_and_convolutions_alike(monkeypatch, tf32):
    precision = torch.get_float32_matmul_precision()
    monkeypatch.setattr(torch.backends.cudnn, "benchmark", False)  # put back in the end, as is
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", not tf32)
    try:
        Hardware(device="cpu", tf32=tf32).set_backends()
        assert (torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32) == (tf32, tf32)
    finally:
        torch.set_float32_matmul_precision(precision)


@pytest.mark.parametrize("channels_last", [True, False])
def test_images_and_weights_share_a_memory_layout(channels_last):
    hardware = Hardware(device="cpu", channels_last=channels_last)
    images = hardware.place(torch.zeros(2, 3, 4, 6, dtype=torch.uint8))
    weight = hardware.place_model(torch.nn.Conv2d(3, 4, 3)).weight
    for tensor in (images, weight):
        assert tensor.is_contiguous(memory_format=torch.channels_last) == channels_last


def test_memory_is_the_most_that_the_process_has_had():
    hardware = Hardware(device="cpu")
    torch.ones(64, 2**20)  # a quarter of a GiB, given back at once
    with open("/proc/self/status") as file:
        peak_kib = next(int(line.split()[1]) for line in file if line.startswith("VmHWM"))
    assert hardware.memory_gib() == pytest.approx(peak_kib / 2**20, abs=0.01)


@pytest.mark.parametrize(("platform", "maximum"), [("linux", 3 * 2**20), ("darwin", 3 * 2**30)])
def test_memory_is_in_gib_on_every_platform(monkeypatch, platform, maximum):
    monkeypatch.setattr("sys.platform", platform)
    monkeypatch.setattr("resource.getrusage", lambda who: SimpleNamespace(ru_maxrss=maximum))
    assert Hardware(device="cpu").memory_gib() == 3


def test_its_text_says_what_a_user_would_ask():
    text = str(Hardware(device="cpu", precision="fp32", batch_size=4, accumulate=2, workers=0))
    assert text.startswith("CPU") and "fp32, batch 4 x 2, 0 loader workers" in text


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # of torch's compiler
def test_each_part_is_compiled_once_a_size(make_model, make_targets, monkeypatch):
    torch._dynamo.reset()
    compiled = []

    def count(graph, inputs, **options):
        # Weights are inputs of the graph: to copy it, as is done before it is tried, takes no memory.
        assert not list(graph.parameters())
        compiled.append(graph)
        return graph.forward

    monkeypatch.setattr("torch._inductor.compile_fx.compile_fx", count)
    model = Hardware(device="cpu", precision="fp32", compile=True).place_for_training(make_model(num_denoising=0))
    per_size = []
    for size in ((64, 96), (96, 160), (64, 96)):
        before = len(compiled)
        model.train()(torch.rand(1, 3, *size), make_targets(2))
        per_size.append(len(compiled) - before)
    assert per_size == [2, 2, 0]


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="torch compiles for CPUs with g++")
@pytest.mark.filterwarnings("ignore")  # of torch's compiler
def test_compiled_training_has_the_same_outputs_and_names(make_model, make_targets):
    torch._dynamo.reset()
    model = make_model(num_denoising=0)
    twin = Hardware(device="cpu", precision="fp32", compile=True).place_for_training(copy.deepcopy(model))
    images, targets = torch.rand(1, 3, 64, 96), make_targets(2)
    outputs = [m.train()(images, targets) for m in (model, twin)]
    torch.testing.assert_close(outputs[1]["pred_boxes"], outputs[0]["pred_boxes"], rtol=1e-3, atol=1e-4)
    for output in outputs:
        output["pred_boxes"].sum().backward()
    for ours, compiled in zip(model.parameters(), twin.parameters(), strict=True):
        if ours.grad is not None:
            torch.testing.assert_close(compiled.grad, ours.grad, rtol=1e-2, atol=1e-3)
    assert list(twin.state_dict()) == list(model.state_dict())


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # of torch's compiler
def test_without_a_compiler_training_goes_on_as_it_is(make_model, make_targets, caplog):
    import torch._inductor.config

    torch._dynamo.reset()
    model = make_model(num_denoising=0)
    twin = Hardware(device="cpu", precision="fp32", compile=True).place_for_training(copy.deepcopy(model))
    targets = make_targets(1)
    with torch._inductor.config.patch({"force_disable_caches": True, "cpp.cxx": ("no-such-compiler",)}):
        for size in ((64, 96), (96, 160)):
            images = torch.rand(1, 3, *size)
            outputs = [m.train()(images, targets)["pred_boxes"] for m in (model, twin)]
            torch.testing.assert_close(outputs[1], outputs[0], rtol=1e-3, atol=1e-4)
        outputs[1].sum().backward()
    assert all(parameter.grad is not None for parameter in twin.backbone.parameters() if parameter.requires_grad)
    assert one_message(caplog).startswith("compile: torch cannot compile here (")


def test_a_graph_that_does_not_compile_runs_as_it_is(monkeypatch, caplog):
    tried = []

    def refuse(graph, inputs, **options):
        tried.append(graph)
        raise NotImplementedError("an operation is missing\nand more")

    monkeypatch.setattr("torch._inductor.compile_fx.compile_fx", refuse)
    compiler, x = CompilerOrPlain(), torch.ones(3)
    for layer in (torch.nn.ReLU(), torch.nn.Softmax(dim=0)):
        torch.testing.assert_close(compiler(torch.fx.symbolic_trace(layer), [x])(x), layer(x))
    assert len(tried) == 1  # what failed is not tried again
    assert "(an operation is missing); going on without" in one_message(caplog)


@pytest.mark.filterwarnings("ignore")  # of torch's compiler
def test_where_only_the_backward_graph_does_not_compile_both_run_as_they_are(monkeypatch, caplog):
    import torch._inductor.config
    from torch._inductor import compile_fx

    def refuse(graph, inputs, *, is_backward=False, **options):
        if is_backward:
            raise NotImplementedError("an operation of the backward pass is missing")
        return graph.forward

    torch._dynamo.reset()
    with_refusal = functools.partial(compile_fx.compile_fx, inner_compile=refuse)
    monkeypatch.setattr(compile_fx, "compile_fx", with_refusal)
    layer, x = torch.nn.Linear(3, 4), torch.rand(2, 3)
    with torch._inductor.config.patch(force_disable_caches=True):
        torch.compile(layer, backend=CompilerOrPlain(), dynamic=False)(x).sum().backward()
    torch.testing.assert_close(layer.weight.grad, x.sum(dim=0).expand(4, 3))
    assert "(an operation of the backward pass is missing); going on without" in one_message(caplog)


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_training_in_fp16_on_a_cpu_is_advised_against(make_model, caplog, precision):
    Hardware(device="cpu", precision=precision).place_for_training(make_model())
    if precision == "fp16":
        assert "hardware.precision=bf16" in one_message(caplog)
    else:
        assert not caplog.records


def one_message(caplog) -> str:
    """Our only warning, which is one line."""
    (message,) = (record.getMessage() for record in caplog.records if record.name == "neo_model.engine.hardware")
    assert "\n" not in message
    return message
