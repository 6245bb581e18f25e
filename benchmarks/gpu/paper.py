"""One GPU, half an hour: check it against the CPU, measure it, and run the `paper` preset in resumable pieces.

    python benchmarks/gpu/paper.py check speed pair train --data DIR --out DIR

Each job has its own run directory below --out and continues there, so a command that is cut off is simply repeated.
`--preset smoke --device cpu` runs the same code in seconds.
"""

import argparse
import time
from pathlib import Path

import torch
from torch import nn

from imageveil.audit.accuracy import classify
from imageveil.images.arrays import ImageArrays, load_arrays
from imageveil.networks.resnet import ResNet18
from imageveil.networks.unet import UNet
from imageveil.networks.vgg import VGG13
from imageveil.presets import CLASSIFIER_PRESETS, TRANSFORMATION_PRESETS
from imageveil.records import record, write_json
from imageveil.schemes import load_scheme
from imageveil.training.device import Device, open_device
from imageveil.training.pipeline import train_scheme
from imageveil.training.transformation import forward_shape


def networks(preset: str) -> dict[str, nn.Module]:
    torch.manual_seed(0)
    config = TRANSFORMATION_PRESETS[preset]()
    return {"resnet18": ResNet18(), "vgg13": VGG13(), "transformation": UNet(forward_shape(config))}


@torch.no_grad()
def check(train: ImageArrays, device: Device, preset: str) -> None:
    """Outputs on the device, in its precision, against float32 on the CPU."""
    images = train.images[:64]
    for name, network in networks(preset).items():
        network.eval()
        exact = network(images.float() / 255)
        device.place(network)
        with device.autocast():
            found = network(device.batch(images)).float().cpu()
        error = float((found - exact).abs().max() / exact.abs().max())
        print(f"check {name}: largest difference {error:.4f} of the largest value")
        assert error < 0.05, f"{name} differs between the CPU and {device.torch}"


def speed(train: ImageArrays, device: Device, preset: str, out: Path) -> None:
    """Training steps, forward and backward, in images a second."""
    batch = 128
    for name, network in networks(preset).items():
        device.place(network.train())
        images = device.batch(train.images[:batch])
        done, begun = -2, 0.0
        while done < 3 or (time.monotonic() - begun < 5 and done < 500):
            if done == 0:
                begun = time.monotonic()
            with device.autocast():
                loss = network(images).float().square().mean()
            loss.backward()
            network.zero_grad()
            if device.torch.type == "cuda":
                torch.cuda.synchronize()
            done += 1
        rate = done * batch / (time.monotonic() - begun)
        print(f"speed {name}: {rate:.0f} images/s forward and backward")
        values = {"task": "throughput", "data": train.name, "network": name, "n": done * batch, "preset": preset}
        write_json(out / "records" / f"speed-{name}.json", record(**values, metrics={"images_per_second": rate}))


def pair(train: ImageArrays, test: ImageArrays, device: Device, preset: str, out: Path, scheme: str | None) -> None:
    """The classifier of the preset on plain images and, with --scheme, on protected ones."""
    for name in [None, scheme] if scheme else [None]:
        label = Path(name).stem if name else "none"
        result = classify(
            train,
            test,
            config=CLASSIFIER_PRESETS[preset](),
            preset=preset,
            scheme=load_scheme(name) if name else None,
            augment="live",
            seed=0,
            device=device,
            run_path=out / f"classify-{train.name}-{label}",
        )
        write_json(out / "records" / f"classify-{train.name}-{label}.json", result)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("jobs", nargs="+", choices=["check", "speed", "pair", "train"])
    parser.add_argument("--data", required=True, help="see `imageveil train --data`")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--preset", default="paper", choices=["paper", "smoke"])
    parser.add_argument("--scheme", help="protect with this one in `pair`")
    parser.add_argument("--device", default="auto")
    options = parser.parse_args()
    device = open_device(options.device)
    train, test = load_arrays(options.data, "train"), load_arrays(options.data, "test")
    if "check" in options.jobs:
        check(train, device, options.preset)
    if "speed" in options.jobs:
        speed(train, device, options.preset, options.out)
    if "pair" in options.jobs:
        pair(train, test, device, options.preset, options.out, options.scheme)
    if "train" in options.jobs:
        path = train_scheme(
            train,
            options.out / "scheme",
            preset=options.preset,
            config=TRANSFORMATION_PRESETS[options.preset](),
            classifier_config=CLASSIFIER_PRESETS["theta" if options.preset == "paper" else "smoke"](),
            seed=0,
            device=device,
            test=test,
        )
        print(f"scheme written to {path}")


if __name__ == "__main__":
    main()
