"""A learned scheme as an ONNX model: uint8 images in and out, batch and size open, checked against PyTorch."""

import contextlib
import io
import logging
import os
import warnings
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from imageveil.errors import RunError, UsageError
from imageveil.images.sinks import write_files
from imageveil.networks.unet import UNet
from imageveil.schemes import load_scheme
from imageveil.schemes.learned import LearnedScheme

LARGEST_DIFFERENCE = 1  # levels of 255
CHECKED_SHAPES = ((2, 32, 32), (1, 37, 50), (3, 5, 9))  # N, H, W


class Uint8Network(nn.Module):
    """A transformation network with 8-bit images on both sides, for images of any size."""

    def __init__(self, network: UNet) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> Tensor:
        """Protect uint8 (N, 3, H, W) to the same."""
        height, width = images.shape[2:]
        cell = self.network.cell
        # The network's own border, replicated up to whole cells, in a form without a branch on the size.
        rows = torch.arange((height + cell - 1) // cell * cell, device=images.device).clamp(max=height - 1)
        columns = torch.arange((width + cell - 1) // cell * cell, device=images.device).clamp(max=width - 1)
        whole = images[:, :, rows][:, :, :, columns].float() / 255
        out = self.network(whole)[:, :, :height, :width].float()
        rounded: Tensor = (out * 255).round().clamp(0, 255).to(torch.uint8)
        return rounded


def export_network(network: UNet) -> Any:
    """Return the network as an `onnx.ModelProto` with input `images` and output `protected`, uint8 (N, 3, H, W).

    Raises:
        UsageError: the exporter is not installed.
    """
    try:
        import onnx  # noqa: F401
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise UsageError("ONNX needs its exporter: pip install 'imageveil[onnx]'") from error
    sizes = {0: torch.export.Dim.DYNAMIC, 2: torch.export.Dim.DYNAMIC, 3: torch.export.Dim.DYNAMIC}
    example = torch.zeros(2, 3, 40, 48, dtype=torch.uint8)
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        program = torch.onnx.export(
            Uint8Network(network.eval()),
            (example,),
            dynamo=True,
            dynamic_shapes=(sizes,),
            input_names=["images"],
            output_names=["protected"],
            verbose=False,
        )
    assert program is not None
    return program.model_proto


def export_scheme(scheme: str, destination: str | os.PathLike[str]) -> str:
    """Write a learned scheme to an ONNX file and say how far it is from PyTorch.

    The file holds the weights, so it is as secret as the scheme: readable by its owner only.

    Raises:
        UsageError: the scheme is not a network, or the exporter is not installed.
        RunError: the model differs from PyTorch, or could not be written.
    """
    opened = load_scheme(scheme)
    if not isinstance(opened, LearnedScheme) or type(opened).protect is not LearnedScheme.protect:
        raise UsageError(f"{scheme} is of the kind {opened.name!r}; only learned schemes can be exported to ONNX")
    path = Path(destination)
    if path.suffix != ".onnx":
        raise UsageError(f"{destination} does not end in .onnx; name the file to write")
    blob = export_network(opened.network).SerializeToString()
    mean, largest = compare(opened, blob)
    if largest > LARGEST_DIFFERENCE:
        raise RunError(f"the ONNX model differs from PyTorch by {largest} levels of 255; it was not written")
    write_files([(path, blob)], private=True)
    return f"{path}: {len(blob) / 1e6:.2f} MB; against PyTorch {mean:.4f} levels of 255 on average, {largest} at most"


def compare(scheme: LearnedScheme, model: bytes) -> tuple[float, int]:
    """Mean and largest difference in levels of 255 between a scheme and its ONNX model, over several shapes."""
    from imageveil.deploy.engines import import_onnxruntime

    runtime = import_onnxruntime()
    session = runtime.InferenceSession(model, providers=["CPUExecutionProvider"])
    generator = torch.Generator().manual_seed(0)
    differences = []
    for count, height, width in CHECKED_SHAPES:
        images = torch.randint(0, 256, (count, 3, height, width), generator=generator).to(torch.uint8)
        out = torch.from_numpy(session.run(None, {"images": images.numpy()})[0])
        differences.append((out.int() - scheme.protect(images).int()).abs().flatten())
    every = torch.cat(differences)
    return float(every.float().mean()), int(every.max())
