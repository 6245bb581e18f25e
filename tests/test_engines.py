"""Every engine, precision, batch and tile gives the image that PyTorch in float32 gives, within bounds."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from imageveil.cli import app
from imageveil.deploy import engines
from imageveil.deploy.engines import fold_batch_norm, open_engine
from imageveil.deploy.tiles import Protector, Room, spans
from imageveil.errors import UsageError
from imageveil.networks.unet import UNet, UNetConfig
from imageveil.processor import Processor
from imageveil.schemes.learned import LearnedScheme

# Mean and largest difference from PyTorch in float32, in levels of 255, that docs/protect.md promises.
BOUNDS = {
    ("torch", "float32"): (0.01, 1),
    ("onnx", "float32"): (0.01, 1),
    ("openvino", "float32"): (0.01, 1),
    ("torch", "bf16"): (0.5, 8),
    ("openvino", "bf16"): (0.5, 8),
}
NEEDS = {"torch": "torch", "onnx": "onnxruntime", "openvino": "openvino"}


def lively(config: UNetConfig) -> LearnedScheme:
    """A random network whose batch norms have statistics and signs of their own."""
    torch.manual_seed(0)
    network = UNet(config)
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            torch.nn.init.normal_(module.weight, 1, 0.5)
            torch.nn.init.normal_(module.bias, 0, 0.2)
            module.running_mean.normal_(0, 0.2)
            module.running_var.uniform_(0.5, 2)
    return LearnedScheme(network)


@pytest.fixture(scope="module")
def scheme() -> LearnedScheme:
    return lively(UNetConfig(widths=(4, 8, 8), head="contrast", top_skip=False, field=1))


@pytest.mark.parametrize(("engine", "precision"), BOUNDS)
def test_engines_agree(scheme, tiles, photograph, engine, precision):
    pytest.importorskip(NEEDS[engine])
    if engine != "torch":
        pytest.importorskip("onnxscript")
    running = open_engine(scheme.network, engine, device="cpu", precision=precision)
    assert running.name == f"{engine}-{precision}"
    mean, largest = BOUNDS[engine, precision]
    for images in (tiles[:16], photograph[None, :, :37, :50]):
        difference = (running.run(images).int() - scheme.protect(images).int()).abs()
        assert difference.float().mean() <= mean and difference.max() <= largest


@pytest.mark.parametrize(("first", "second"), [("float32", "bf16"), ("bf16", "float32")])
def test_a_classifier_keeps_its_accuracy_on_another_precision(scheme, tiles, first, second):
    # Two kinds of tile, told apart by their brightness before protection.
    labels = (tiles.float().mean(dim=(1, 2, 3)) > tiles.float().mean()).long()
    sets = {}
    for precision in (first, second):
        engine = open_engine(scheme.network, "torch", device="cpu", precision=precision)
        sets[precision] = engine.run(tiles).float() / 255 - 0.5
    torch.manual_seed(0)
    model = torch.nn.Sequential(
        torch.nn.Conv2d(3, 12, 5, stride=2), torch.nn.ReLU(), torch.nn.AdaptiveAvgPool2d(3), torch.nn.Flatten(),
        torch.nn.Linear(108, 2),
    )  # fmt: skip
    optimizer = torch.optim.Adam(model.parameters(), 1e-2)
    for _ in range(40):
        loss = torch.nn.functional.cross_entropy(model(sets[first]), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    accuracy = {p: float((model(images).argmax(1) == labels).float().mean()) for p, images in sets.items()}
    assert accuracy[first] > 0.7 and abs(accuracy[first] - accuracy[second]) <= 0.02


def test_batch_norm_folds_without_touching_the_original(scheme, tiles):
    before = scheme.protect(tiles[:4])
    folded = LearnedScheme(fold_batch_norm(scheme.network))
    assert (folded.protect(tiles[:4]).int() - before.int()).abs().max() <= 1
    assert torch.equal(scheme.protect(tiles[:4]), before)


@pytest.mark.parametrize(
    "config",
    [
        UNetConfig(widths=(4, 8, 8), head="contrast", top_skip=False, field=1),
        UNetConfig(widths=(3, 4, 5, 6), depth=1, head="sigmoid"),
    ],
)
@pytest.mark.parametrize("size", [(300, 413), (40, 700)])
def test_tiles_equal_the_whole(config, size, photograph):
    scheme = lively(config)
    engine = open_engine(scheme.network, "torch", device="cpu", precision="float32")
    image = torch.cat([photograph, photograph.flip(2)], dim=2)[:, : size[0], : size[1]]
    pixels = np.ascontiguousarray(image.permute(1, 2, 0).numpy())[None]
    whole = Protector(scheme, engine, room=Room(tile=10_000))(pixels, ["a"])
    for tile in (150, 200, 256):
        tiled = Protector(scheme, engine, room=Room(tile=tile))(pixels, ["a"])
        assert np.abs(tiled.astype(int) - whole).max() <= 1


@pytest.mark.parametrize("precision", ["float32", "bf16"])
def test_batches_equal_single_images(scheme, tiles, precision):
    engine = open_engine(scheme.network, "torch", device="cpu", precision=precision)
    pixels = tiles[:21].permute(0, 2, 3, 1).numpy()
    ids = [str(n) for n in range(21)]
    one, some, all_ = (
        Protector(scheme, engine, room=Room(batch=n * 1024))(pixels, ids).astype(int) for n in (1, 8, 64)
    )
    assert np.abs(one - some).max() <= 1 and np.abs(one - all_).max() <= 1


def test_nothing_beyond_reach_matters():
    scheme = lively(UNetConfig(widths=(3, 4, 5, 6), depth=2, head="sigmoid", top_skip=False))
    images = torch.rand(1, 3, 160, 160, requires_grad=True)
    for place in (80, 83, 87):
        (gradient,) = torch.autograd.grad(scheme.forward(images)[0, :, place, place].sum(), images)
        touched = gradient.abs().sum(dim=(0, 1)).nonzero()
        assert (touched - place).abs().max() <= scheme.reach


@pytest.mark.parametrize(
    ("length", "tile", "reach", "alignment"), [(1000, 300, 50, 64), (65, 64, 3, 4), (10, 64, 9, 8)]
)
def test_spans_cover_the_side_once(length, tile, reach, alignment):
    parts = spans(length, tile, reach, alignment)
    assert [start for start, *_ in parts] == [0, *(stop for _, stop, *_ in parts[:-1])] and parts[-1][1] == length
    for start, stop, read_from, read_to in parts:
        assert read_from % alignment == 0
        assert read_from == 0 or start - read_from >= reach
        assert read_to == length or read_to - stop >= reach


def test_missing_engine_and_wrong_precision_are_refused(scheme, monkeypatch):
    with pytest.raises(UsageError, match="float32 only"):
        open_engine(scheme.network, "onnx", precision="bf16")
    monkeypatch.setitem(sys.modules, "openvino", None)
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    with pytest.raises(UsageError, match=r"pip install 'imageveil\[(onnx|openvino)\]'"):
        open_engine(scheme.network, "openvino")


def test_export_writes_a_checked_private_model(scheme, tmp_path):
    pytest.importorskip("onnxscript")
    onnxruntime = pytest.importorskip("onnxruntime")
    from typer.testing import CliRunner

    scheme.save(tmp_path / "s.safetensors")
    result = CliRunner().invoke(app, ["export", str(tmp_path / "s.safetensors"), str(tmp_path / "s.onnx")])
    assert result.exit_code == 0 and "levels of 255" in result.output
    assert (tmp_path / "s.onnx").stat().st_mode & 0o077 == 0
    session = onnxruntime.InferenceSession(tmp_path / "s.onnx", providers=["CPUExecutionProvider"])
    for shape in ((5, 3, 31, 64), (1, 3, 1, 1)):
        assert session.run(None, {"images": np.zeros(shape, np.uint8)})[0].shape == shape


WATCHED = """
import json, os, socket, sys
calls = []
for name in ("connect", "connect_ex", "sendto"):
    setattr(socket.socket, name, lambda self, *a, _n=name: calls.append([_n, str(a)]))
import torch
from imageveil.deploy.engines import open_engine
from imageveil.schemes import load_scheme
engine = open_engine(load_scheme(sys.argv[1]).network, sys.argv[2], device="cpu", precision="float32")
engine.run(torch.zeros(1, 3, 32, 32, dtype=torch.uint8))
links = []
for entry in os.listdir("/proc/self/fd"):
    try:
        links.append(os.readlink("/proc/self/fd/" + entry))
    except OSError:
        pass  # the listing's own descriptor
sockets = [link for link in links if link.startswith("socket")]
print(json.dumps([calls, sockets, os.environ.get("ORT_DISABLE_TELEMETRY")]))
"""


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="looks at open files through /proc")
@pytest.mark.parametrize("engine", ["onnx", "openvino"])
def test_engines_report_nothing(scheme, tmp_path, engine):
    pytest.importorskip(NEEDS[engine])
    pytest.importorskip("onnxscript")
    scheme.save(tmp_path / "s.safetensors")
    home = tmp_path / "home"
    home.mkdir()
    own = {"HOME": str(home), "XDG_CONFIG_HOME": str(home), "XDG_CACHE_HOME": str(home), "TMPDIR": str(home)}
    run = subprocess.run(
        [sys.executable, "-c", WATCHED, str(tmp_path / "s.safetensors"), engine],
        env={**{k: v for k, v in os.environ.items() if k != "CI"}, **own}, capture_output=True, text=True, check=True,
    )  # fmt: skip
    calls, sockets, switch = json.loads(run.stdout.splitlines()[-1])
    assert not calls and not sockets and (engine != "onnx" or switch == "1")
    assert [p for p in home.rglob("*") if p.is_file() and "torch" not in str(p)] == []


@pytest.mark.parametrize(("vendor", "flags"), [("GenuineIntel", "amx_bf16"), ("AuthenticAMD", "avx512_bf16")])
def test_auto_takes_openvino_where_it_is_the_faster(vendor, flags, monkeypatch):
    processor = Processor(model="X", vendor=vendor, flags=frozenset(flags.split()))
    monkeypatch.setattr(engines, "this_processor", lambda: processor)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(engines.importlib.util, "find_spec", lambda name: name)
    assert engines.fastest_engine() == ("openvino" if "amx" in flags else "torch")
    monkeypatch.setattr(engines.importlib.util, "find_spec", lambda name: None)
    assert engines.fastest_engine() == "torch"
