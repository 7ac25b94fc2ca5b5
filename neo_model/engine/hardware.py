"""The machine a run uses and how much it gives it to do at once."""

import copy
import logging
import resource
import sys
from collections.abc import Callable
from contextlib import suppress
from typing import Literal

import torch
from torch import nn

from neo_model.utils import NonNegativeInt, PositiveInt, UserError
from neo_model.utils.cores import num_cores
from neo_model.utils.memory import use_huge_pages

log = logging.getLogger(__name__)

MAX_COMPILED_SIZES = 16  # of `data.resolution.train_sizes`; evaluation during training is not compiled
PRECISIONS = {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}


class Hardware:
    """Device, precision, batch and loader settings; "auto" is settled here, on the machine itself.

    Args:
        device: auto takes a GPU where there is one.
        precision: of autocast; auto is bf16 where the device is faster in it, else fp16 on a GPU and fp32 on a CPU.
        batch_size: images in a forward pass.
        accumulate: batches in an optimizer step.
        workers: loader processes, at most one for each core that this process may use.
        prefetch: batches that each worker prepares ahead.
        channels_last: memory layout of images and weights.
        cudnn_benchmark: try convolution algorithms for a new input size; paused in epochs of several sizes.
        tf32: let float32 matrix products and convolutions use tensor cores.
        compile: train with backbone and encoder, or predict with the whole model, compiled by torch, anew for each
            input size.
        recompute: parts of the model whose activations are not kept but computed again in the backward pass.
    """

    def __init__(
        self,
        *,
        device: Literal["auto", "cpu", "cuda"] = "auto",
        precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto",
        batch_size: PositiveInt = 8,
        accumulate: PositiveInt = 1,
        workers: NonNegativeInt = 2,
        prefetch: PositiveInt = 2,
        channels_last: bool = True,
        cudnn_benchmark: bool = True,
        tf32: bool = True,
        compile: bool = False,
        recompute: tuple[Literal["backbone", "encoder"], ...] = (),
    ) -> None:
        if device == "auto":
            device = "cuda" if torch.cuda.is_available() else "cpu"
        if device == "cuda" and not torch.cuda.is_available():
            raise UserError("hardware.device", "there is no CUDA GPU here", "use hardware=auto or hardware=cpu")
        self.device = torch.device(device)
        self.precision = best_precision(self.device) if precision == "auto" else precision
        self.batch_size, self.accumulate = batch_size, accumulate
        self.workers, self.prefetch = min(workers, num_cores()), prefetch
        self._workers_asked_for = workers
        self.channels_last, self.cudnn_benchmark, self.tf32 = channels_last, cudnn_benchmark, tf32
        self.compile, self.recompute = compile, recompute

    @property
    def pin_memory(self) -> bool:
        """Page-locked batches, for copies that do not wait."""
        return self.device.type == "cuda"

    @property
    def loading(self) -> dict:
        """What a data set's loaders are to be given."""
        return {
            "batch_size": self.batch_size,
            "workers": self.workers,
            "prefetch": self.prefetch,
            "pin_memory": self.pin_memory,
        }

    def set_backends(self) -> None:
        """Apply the process-wide switches; before the model is made, for on a CPU they say what its memory is like."""
        self.set_cudnn_benchmark(one_size=True)
        torch.set_float32_matmul_precision("high" if self.tf32 else "highest")
        torch.backends.cudnn.allow_tf32 = self.tf32  # on unless told otherwise, unlike the products'
        if self.device.type == "cpu":
            use_huge_pages()

    def set_cudnn_benchmark(self, *, one_size: bool) -> None:
        """Switch the trials on where asked for and where all batches are of ``one_size``.

        With several, each size's first step waits for its trials, and the workspaces they allocate stay reserved.
        """
        torch.backends.cudnn.benchmark = self.cudnn_benchmark and one_size

    def autocast(self) -> torch.autocast:
        """The mixed-precision region of a forward pass."""
        dtype = PRECISIONS[self.precision]
        return torch.autocast(self.device.type, dtype=dtype or torch.bfloat16, enabled=dtype is not None)

    def grad_scaler(self) -> torch.amp.GradScaler:
        """Loss scaling, which only fp16 needs; otherwise it passes everything through."""
        return torch.amp.GradScaler(self.device.type, enabled=self.precision == "fp16")

    def place_model(self, model: nn.Module) -> nn.Module:
        """The model on the device in the chosen memory layout."""
        layout = torch.channels_last if self.channels_last else torch.contiguous_format
        return model.to(self.device, memory_format=layout)

    def place_for_training(self, model: nn.Module) -> nn.Module:
        """The model placed, its parts recomputed and compiled as asked."""
        if self.device.type == "cpu" and self.precision == "fp16":
            log.warning("fp16 on a CPU: the gradients of convolutions are very slow; hardware.precision=bf16 is faster")
        model = self.place_model(model)
        model.recompute(self.recompute)
        if self.compile:
            compile_parts(model)
        return model

    def place(self, images: torch.Tensor) -> torch.Tensor:
        """A batch of images on the device in the memory layout of the weights."""
        layout = torch.channels_last if self.channels_last else torch.contiguous_format
        return images.to(self.device, memory_format=layout, non_blocking=True)

    def memory_gib(self) -> float:
        """Peak memory in GiB: allocated on the GPU, or resident in this process."""
        if self.device.type == "cuda":
            return torch.cuda.max_memory_allocated() / 2**30
        unit = 1 if sys.platform == "darwin" else 2**10
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**30

    def __str__(self) -> str:
        name = torch.cuda.get_device_name() if self.device.type == "cuda" else f"CPU, {torch.get_num_threads()} threads"
        batch = f"batch {self.batch_size}" + (f" x {self.accumulate}" if self.accumulate > 1 else "")
        workers = f"{self.workers} loader workers"
        if self.workers < self._workers_asked_for:
            workers += f", not {self._workers_asked_for}: one for each core"
        return f"{name}, {self.precision}, {batch}, {workers}"


def forget_memory_peak() -> None:
    """Have `Hardware.memory_gib` count from here: one process trains all jobs of a sweep."""
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        torch.cuda.reset_peak_memory_stats()
    with suppress(OSError), open("/proc/self/clear_refs", "w") as file:  # Linux only
        file.write("5")


def compile_parts(model: nn.Module) -> None:
    """Compile backbone and encoder in place, each input size at its first batch.

    Each has a graph of its own: sizes are few, and a graph of fixed sizes is the faster one. The decoder stays as it
    is, since its shapes change with the number of boxes of every batch.
    """
    import torch._dynamo

    torch._dynamo.config.cache_size_limit = max(torch._dynamo.config.cache_size_limit, 4 * MAX_COMPILED_SIZES)
    compiler = CompilerOrPlain()
    for part in (model.backbone, model.encoder):
        part.compile(backend=compiler, dynamic=False)


def compile_for_inference(model: nn.Module) -> None:
    """Compile a whole model in place, each input size at its first batch, with weights that will not change."""
    model.compile(backend=CompilerOrPlain(freezing=True), dynamic=False)


class CompilerOrPlain:
    """torch's compiler; once it has failed, which it says in one line, graphs run as they are.

    Args:
        freezing: the weights are constants, which it lays out once and for all.
    """

    def __init__(self, *, freezing: bool = False) -> None:
        self.patches = {"freezing": freezing}
        self.failed = False

    def __call__(self, graph: torch.fx.GraphModule, inputs: list[torch.Tensor]) -> Callable:
        import torch._functorch.config
        from torch._inductor.compile_fx import compile_fx

        # Left to itself, torch compiles the backward graph within `backward()`, where nothing could take its place.
        at_once = torch._functorch.config.patch(force_non_lazy_backward_lowering=True)
        if not self.failed:
            try:
                with at_once:
                    return compile_fx(copy.deepcopy(graph), inputs, config_patches=self.patches)
            except Exception as error:  # a missing compiler or an operation that it lacks show as almost anything
                self.failed = True
                reason = (str(error).strip() or type(error).__name__).splitlines()[0]
                log.warning("compile: torch cannot compile here (%s); going on without", reason)
        return graph.forward


def best_precision(device: torch.device) -> str:
    """bf16 where the device is faster in it, else fp16 on a GPU and fp32 on a CPU."""
    if device.type == "cuda":
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp16"
    return "bf16" if torch.ops.mkldnn._is_mkldnn_bf16_supported() and _cpu_is_faster_in_bf16() else "fp32"


def _cpu_is_faster_in_bf16() -> bool:
    """Whether products in bf16 take the CPU less time than in float32.

    They do in AMX's units and in those of AVX-512 on AMD's cores; Arm's are taken to be alike. Intel's cores have
    AVX-512's as well, but where a virtual machine hides their AMX, products take twice as long with them as in float32.
    """
    has = torch.cpu.get_capabilities()
    is_amd = "AMD" in has.get("cpu_name", "")
    return bool(has.get("amx_bf16") or has.get("bf16") or (has.get("avx512_bf16") and is_amd))
