"""What a transformation network runs on: PyTorch, ONNX Runtime or OpenVINO, all uint8 batch to uint8 batch.

ONNX Runtime and OpenVINO report usage unless told not to. Both are told before they are imported.
"""

import copy
import importlib.util
import os
import sys
import threading
from collections.abc import Callable
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from imageveil.errors import UsageError
from imageveil.networks.unet import UNet, Up
from imageveil.processor import this_processor
from imageveil.training.device import open_device

ENGINES = ("auto", "torch", "onnx", "openvino")
CPU_BATCH = 2**16  # 64 images of 32x32: the feature maps of a stream stay near the processor's cache
CUDA_BATCH = 2**20
TILE, FLOAT32_TILE = 896, 640  # feature maps of much the same size in memory


class Engine(Protocol):
    """Runs a network.

    Attributes:
        name: engine and precision, for example `torch-bf16`.
        streams: how many batches to compute at the same time, each in a thread of its own (see `Streams`).
        batch: pixels of a batch that suit it.
        tile: pixels on a side of the tiles that large images are cut into; memory grows with its square.
    """

    name: str
    streams: int
    batch: int
    tile: int

    def run(self, images: Tensor) -> Tensor:
        """Protect a batch, uint8 (N, 3, H, W) to the same."""
        ...


class TorchEngine:
    """Eager PyTorch on a processor or a GPU, batch norm folded into the convolutions."""

    def __init__(self, network: UNet, *, device: str = "auto", precision: str = "auto") -> None:
        self.device = open_device(device, precision=precision)
        self.network = self.device.place(fold_batch_norm(network))
        where = "cuda" if self.device.torch.type == "cuda" else "torch"
        self.name = f"{where}-{'bf16' if self.device.bf16 else 'float32'}"
        self.streams = 1 if where == "cuda" else torch.get_num_threads()
        self.batch = CUDA_BATCH if where == "cuda" else CPU_BATCH
        self.tile = TILE if self.device.bf16 else FLOAT32_TILE

    @torch.inference_mode()
    def run(self, images: Tensor) -> Tensor:
        """See `Engine.run`."""
        with self.device.autocast():
            out: Tensor = self.network(self.device.batch(images))
        return out.float().mul_(255).round_().clamp_(0, 255).to(torch.uint8).cpu()


class OnnxEngine:
    """ONNX Runtime on the processor, float32."""

    name = "onnx-float32"
    batch = CPU_BATCH
    tile = FLOAT32_TILE

    def __init__(self, network: UNet) -> None:
        from imageveil.deploy.onnx import export_network

        self.cell = network.cell
        runtime = import_onnxruntime()
        options = runtime.SessionOptions()
        self.streams = torch.get_num_threads()
        options.intra_op_num_threads = 1  # the stream that calls
        model = export_network(network).SerializeToString()
        self.session = runtime.InferenceSession(model, options, providers=["CPUExecutionProvider"])

    def run(self, images: Tensor) -> Tensor:
        """See `Engine.run`."""
        return torch.from_numpy(self.session.run(None, {"images": images.contiguous().numpy()})[0])


class OpenVinoEngine:
    """OpenVINO on the processor, in bfloat16 where the processor has it."""

    batch = CPU_BATCH

    def __init__(self, network: UNet, *, precision: str = "auto") -> None:
        from imageveil.deploy.onnx import export_network

        openvino = import_openvino()
        bf16 = open_device("cpu", precision=precision).bf16
        self.name = f"openvino-{'bf16' if bf16 else 'float32'}"
        self.tile = TILE if bf16 else FLOAT32_TILE
        self.streams = torch.get_num_threads()
        core = openvino.Core()
        hints = {
            "INFERENCE_PRECISION_HINT": "bf16" if bf16 else "f32",
            "NUM_STREAMS": self.streams,
            "INFERENCE_NUM_THREADS": self.streams,
        }
        self.model = core.compile_model(core.read_model(export_network(network).SerializeToString()), "CPU", hints)
        self.requests = threading.local()  # a request serves one call at a time

    def run(self, images: Tensor) -> Tensor:
        """See `Engine.run`."""
        if not hasattr(self.requests, "own"):
            self.requests.own = self.model.create_infer_request()
        return torch.from_numpy(self.requests.own.infer([images.contiguous().numpy()])[0].copy())


def open_engine(network: UNet, name: str = "auto", *, device: str = "auto", precision: str = "auto") -> Engine:
    """Put a network on an engine.

    Args:
        network: a transformation network.
        name: `torch`, `onnx`, `openvino`, or `auto` for the fastest that is present.
        device: `auto`, `cpu` or `cuda`; only PyTorch uses a GPU.
        precision: `auto`, `bf16` or `float32`.

    Raises:
        UsageError: the engine is unknown or not installed, or cannot do what is asked.
    """
    if name not in ENGINES:
        raise UsageError(f"unknown engine {name!r}; use one of: {', '.join(ENGINES)}")
    if name == "auto":
        name = fastest_engine(device)
    if name == "torch":
        return TorchEngine(network, device=device, precision=precision)
    if device == "cuda":
        raise UsageError(f"--engine {name} runs on the processor only; use --engine torch with --device cuda")
    if name == "openvino":
        return OpenVinoEngine(network, precision=precision)
    if precision == "bf16":
        raise UsageError("--engine onnx computes in float32 only; use --precision float32")
    return OnnxEngine(network)


def fastest_engine(device: str = "auto") -> str:
    """The engine that is likely the fastest: OpenVINO, if it is there, where the processor has AMX, else PyTorch.

    Without AMX the two compute about as fast (`benchmarks/protect.py`), and PyTorch is open at once. With AMX that
    benchmark has not measured them yet.
    """
    if device != "cpu" and torch.cuda.is_available():
        return "torch"
    installed = all(importlib.util.find_spec(name) is not None for name in ("onnxscript", "openvino"))
    return "openvino" if installed and this_processor().bf16 == "AMX" else "torch"


def fold_batch_norm(network: UNet) -> UNet:
    """A copy of the network whose batch norms are folded into the convolutions before them, where they follow one."""
    network = copy.deepcopy(network).eval()
    fuse: Callable[[nn.Module, nn.Module], Any] = torch.nn.utils.fuse_conv_bn_eval  # type: ignore[assignment]
    for module in network.modules():
        if isinstance(module, Up):
            module.conv = fuse(module.conv, module.norm)
            module.norm = nn.Identity()  # type: ignore[assignment]
        elif isinstance(module, nn.Sequential):
            for place in range(len(module) - 1):
                if isinstance(module[place], nn.Conv2d) and isinstance(module[place + 1], nn.BatchNorm2d):
                    module[place] = fuse(module[place], module[place + 1])
                    module[place + 1] = nn.Identity()
    return network


def import_onnxruntime() -> Any:
    """Import ONNX Runtime with its usage reporting off.

    Raises:
        UsageError: it is not installed.
    """
    os.environ["ORT_DISABLE_TELEMETRY"] = "1"
    try:
        import onnxruntime
    except ImportError as error:
        raise UsageError("ONNX Runtime is not installed: pip install 'imageveil[onnx]'") from error
    onnxruntime.disable_telemetry_events()
    onnxruntime.set_default_logger_severity(3)
    return onnxruntime


def import_openvino() -> Any:
    """Import OpenVINO with its usage reporting off.

    Raises:
        UsageError: it is not installed.
    """
    # Its converter, which is imported along, reports through this package and keeps an identity file for it.
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]
    try:
        import openvino
    except ImportError as error:
        raise UsageError("--engine openvino needs OpenVINO: pip install 'imageveil[openvino]'") from error
    return openvino
