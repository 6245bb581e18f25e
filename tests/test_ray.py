"""`imageveil protect --ray` on a local Ray, with a worker that dies."""

import os
import signal
import threading
import time
from pathlib import Path

import pytest
import torch
from PIL import Image

from imageveil.deploy.bulk import ProtectOptions, protect_source
from imageveil.deploy.plan import Sizes
from imageveil.networks.unet import UNet, UNetConfig
from imageveil.schemes.learned import LearnedScheme

ray = pytest.importorskip("ray")
psutil = pytest.importorskip("psutil")


def contents(root: Path) -> dict[str, bytes]:
    return {p.relative_to(root).as_posix(): p.read_bytes() for p in root.rglob("*") if p.is_file() and p.name[0] != "."}


@pytest.mark.parametrize("output", ["folder", "parquet"])
def test_a_dying_worker_loses_nothing(tiles, tmp_path, output):
    torch.manual_seed(0)
    scheme = str(tmp_path / "s.safetensors")
    LearnedScheme(UNet(UNetConfig(widths=(4, 8, 8), head="contrast", top_skip=False, field=1))).save(scheme)
    for number in range(256):
        path = tmp_path / "plain" / f"{number % 2}" / f"{number:03d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(tiles[number].permute(1, 2, 0).numpy()).save(path)
    common = {"quiet": True, "engine": "torch", "output": output, "sizes": Sizes(images=4, bytes=2**30)}
    protect_source(str(tmp_path / "plain"), tmp_path / "alone", scheme, ProtectOptions(workers=0, **common))
    killed: list[int] = []

    def kill() -> None:
        """Kill the first worker that has written something."""
        while not list((tmp_path / "out").glob("**/*.p*")):
            time.sleep(0.01)
        for process in psutil.Process().children(recursive=True) + list(psutil.process_iter()):
            if not killed and "UnitWorker" in " ".join(process.cmdline() or [process.name()]):
                os.kill(process.pid, signal.SIGKILL)
                killed.append(process.pid)

    if not ray.is_initialized():
        ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    thread = threading.Thread(target=kill, daemon=True)
    thread.start()
    protect_source(str(tmp_path / "plain"), tmp_path / "out", scheme, ProtectOptions(ray=True, **common))
    thread.join(60)
    assert killed and contents(tmp_path / "out") == contents(tmp_path / "alone")


@pytest.fixture(autouse=True, scope="module")
def _stop_ray():
    yield
    ray.shutdown()
