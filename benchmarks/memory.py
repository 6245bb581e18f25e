"""Training with and without keeping freed memory (`keep_freed_memory`), side by side.

Each setting runs in processes of its own, since the C library's settings cannot be taken back; the two alternate.

    python benchmarks/memory.py --record results/throughput/keep-freed-memory.json
"""

import argparse
import json
import statistics
import subprocess
import sys
import time
from pathlib import Path

import torch
import torch.nn.functional as F

from imageveil import records
from imageveil.presets import CLASSIFIER_PRESETS
from imageveil.training.classifier import build_classifier
from imageveil.training.device import Device, has_fast_bf16, keep_freed_memory
from imageveil.training.optimizers import build_optimizers


def rate(*, keep: bool, batch: int, steps: int) -> float:
    """Images a second of training steps of the `quick` classifier on random images."""
    if keep:
        keep_freed_memory()
    torch.manual_seed(0)
    device = Device(torch=torch.device("cpu"), bf16=has_fast_bf16())
    config = CLASSIFIER_PRESETS["quick"]()
    network = device.place(build_classifier(config, 10)).train()
    optimizers = build_optimizers(network, config, bf16=device.bf16)
    images = torch.randint(0, 256, (batch, 3, 32, 32), dtype=torch.uint8)
    labels = torch.randint(0, 10, (batch,))
    begun = 0.0
    for step in range(steps + 2):
        if step == 2:
            begun = time.monotonic()
        with device.autocast():
            logits = network(device.batch(images)).float()
        F.cross_entropy(logits, labels).backward()
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad()
    return steps * batch / (time.monotonic() - begun)


def main() -> None:
    """Alternate processes of the two settings and record the ratio of their medians."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--record", type=Path)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--batch", type=int, default=1000)
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--only", choices=("keep", "default"), help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.only:
        print(json.dumps(rate(keep=given.only == "keep", batch=given.batch, steps=given.steps)))
        return
    begun = time.monotonic()
    rates: dict[str, list[float]] = {"keep": [], "default": []}
    for _ in range(given.rounds):
        for name, values in rates.items():
            command = [sys.executable, __file__, "--only", name, "--batch", str(given.batch), "--steps"]
            out = subprocess.run([*command, str(given.steps)], capture_output=True, text=True, check=True)
            values.append(json.loads(out.stdout))
    keep, default = statistics.median(rates["keep"]), statistics.median(rates["default"])
    print(f"kept {keep:.0f} images/s, default {default:.0f} images/s, ratio {keep / default:.2f}")
    if given.record:
        record = records.record(
            task="throughput",
            scheme="none",
            data="random",
            network="quick",
            n=given.batch * given.steps,
            metrics={"images_per_second": keep, "ratio_to_default": keep / default},
            seconds=time.monotonic() - begun,
        )
        records.write_json(given.record, record)


if __name__ == "__main__":
    main()
