"""Batches computed side by side are those computed one after another, to one level of 255."""

import threading

import numpy as np
import pytest
import torch

from imageveil.deploy.engines import open_engine
from imageveil.deploy.streams import Streams
from imageveil.deploy.tiles import Protector, Room
from imageveil.networks.unet import UNet, UNetConfig
from imageveil.schemes.learned import LearnedScheme


def test_streams_compute_with_one_thread_each_and_leave_the_others_alone():
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        streams = Streams(2)
        met = threading.Barrier(2, timeout=20)

        def look() -> int:
            met.wait()  # both at the same time, or never
            return torch.get_num_threads()

        assert streams.run([look, look]) == [1, 1]
        assert torch.get_num_threads() == 3
        assert streams.run([lambda n=n: n for n in range(20)]) == list(range(20))
        with pytest.raises(ZeroDivisionError):
            streams.run([lambda: 1 // 0, lambda: 1])
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize(("engine", "needs"), [("torch", "torch"), ("onnx", "onnxruntime"), ("openvino", "openvino")])
def test_two_streams_give_what_one_gives(tiles, photograph, engine, needs):
    pytest.importorskip(needs)
    if engine != "torch":
        pytest.importorskip("onnxscript")
    torch.manual_seed(0)
    scheme = LearnedScheme(UNet(UNetConfig(widths=(4, 8, 8), head="contrast", top_skip=False, field=1)))
    running = open_engine(scheme.network, engine, device="cpu", precision="float32")
    small = np.ascontiguousarray(tiles[:50].permute(0, 2, 3, 1).numpy())
    large = np.ascontiguousarray(photograph[None, :, :, :400].permute(0, 2, 3, 1).numpy())
    groups = [(small, [""] * 50), (large, [""]), (small[:3, :20], [""] * 3)]
    room = Room(batch=8 * 1024, tile=200)
    results = []
    for streams in (1, 2):
        running.streams = streams
        protector = Protector(scheme, running, room=room)
        results.append(protector.protect_all(groups))
    spared = protector.protect_all(groups, spare_memory=True)
    assert np.abs(spared[1].astype(int) - results[1][1]).max() <= 1
    for one, two, (pixels, _) in zip(*results, groups, strict=True):
        # Sums in another order round a few values to the neighbouring level.
        assert one.shape == two.shape == pixels.shape
        assert np.abs(one.astype(int) - two).max() <= 1 and (one != two).mean() < 1e-3
    expected = scheme.protect(tiles[:50]).permute(0, 2, 3, 1).numpy()
    assert np.abs(results[1][0].astype(int) - expected).max() <= 1
