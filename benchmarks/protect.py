"""Images a second of `imageveil protect`, beside the network alone and beside the obvious loop, in one run.

    python benchmarks/protect.py [--scheme SCHEME] [--cifar10 FOLDER] [--share 0.1] [--engine auto]

Three sets: 20,000 32x32 PNG files (CIFAR-10 where it is given or installed, else cut from photographs), 2,000 JPEG
files of 96x96, and 10 JPEG files of twelve megapixels, the last two cut and enlarged from the photographs that
scikit-image ships. `--share` shrinks every set. Each set is protected three ways:

- end to end: `imageveil protect` from files to files; the engine is open, workers start within it;
- the network alone: the same engine, on pixels that lie decoded in memory, in the batches and tiles that it likes;
- the obvious loop: Pillow opens a file, eager PyTorch in float32 protects it, Pillow saves it; on part of the files.

Writes `results/throughput/*.json`: `images_per_second` end to end, `share_of_network`, `ratio_to_loop`, and
`peak_memory_mb` of this process and its workers together.
"""

import argparse
import os
import resource
import shutil
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from imageveil.deploy.bulk import ProtectOptions, open_protector, protect_source
from imageveil.deploy.tiles import Protector
from imageveil.records import record, write_json
from imageveil.schemes import load_scheme
from imageveil.schemes.base import Scheme


@dataclass(frozen=True)
class Set:
    name: str
    files: int
    side: tuple[int, int]
    suffix: str
    loop: int  # files that the obvious loop is timed on


SETS = (
    Set("cifar10", 20_000, (32, 32), ".png", 400),
    Set("photos96-sized", 2_000, (96, 96), ".jpg", 100),
    Set("12-megapixel", 10, (4000, 3000), ".jpg", 1),
)


def photographs() -> list[Image.Image]:
    from skimage import data

    return [Image.fromarray(getattr(data, name)()) for name in ("astronaut", "coffee", "chelsea", "rocket")]


def make(chosen: Set, count: int, folder: Path, cifar10: str | None) -> None:
    """Write `count` files into ten classes."""
    photos, chance = photographs(), np.random.default_rng(0)
    source = None
    if chosen.name == "cifar10" and cifar10:
        from imageveil.images.arrays import load_arrays

        source = load_arrays(cifar10).images
    for number in range(count):
        path = folder / str(number % 10) / f"{number:05d}{chosen.suffix}"
        path.parent.mkdir(parents=True, exist_ok=True)
        if source is not None:
            image = Image.fromarray(source[number % len(source)].permute(1, 2, 0).numpy())
        else:
            photo = photos[number % len(photos)]
            width, height = (min(side, limit) for side, limit in zip(chosen.side, photo.size, strict=True))
            left, top = (int(chance.integers(0, limit - side + 1)) for side, limit in zip((width, height), photo.size))  # noqa: B905
            image = photo.crop((left, top, left + width, top + height)).resize(chosen.side)
        image.save(path, quality=92)


def network_alone(protector: Protector, chosen: Set, files: Sequence[Path], seconds: float) -> float:
    """Images a second on decoded pixels, for about `seconds`."""
    many = max(1, min(len(files), 2**22 // (chosen.side[0] * chosen.side[1])))
    pixels = np.stack([np.asarray(Image.open(path).convert("RGB")) for path in files[:many]])
    ids = [str(number) for number in range(len(pixels))]
    protector(pixels[: max(1, many // 8)], ids)  # the first batch of a shape chooses its kernels
    done, start = 0, time.perf_counter()
    while not done or time.perf_counter() - start < seconds:
        protector(pixels, ids)
        done += len(pixels)
    return done / (time.perf_counter() - start)


def obvious_loop(scheme: Scheme, files: Sequence[Path], out: Path) -> float:
    """Images a second, one image at a time."""
    out.mkdir()

    def one(path: Path) -> None:
        pixels = torch.from_numpy(np.array(Image.open(path).convert("RGB"))).permute(2, 0, 1)[None]
        protected = scheme.protect(pixels)[0].permute(1, 2, 0).numpy()
        Image.fromarray(protected).save(out / (path.stem + ".png"))

    one(files[0])
    start = time.perf_counter()
    for path in files:
        one(path)
    return len(files) / (time.perf_counter() - start)


def peak_memory_mb() -> float:
    """Largest resident sizes of this process and of its largest child, added."""
    who = (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
    return sum(resource.getrusage(each).ru_maxrss for each in who) / 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--scheme", default="gan-cifar10")
    parser.add_argument("--cifar10", help="folder or Parquet with CIFAR-10; without it, tiles of photographs")
    parser.add_argument("--sets", nargs="*", default=[chosen.name for chosen in SETS])
    parser.add_argument("--share", type=float, default=1.0, help="factor on the number of files")
    parser.add_argument("--engine", default="auto")
    parser.add_argument("--precision", default="auto")
    parser.add_argument("--workers", type=int)
    parser.add_argument("--seconds", type=float, default=20, help="time for the network alone")
    parser.add_argument("--results", type=Path, default=Path("results/throughput"))
    options = parser.parse_args()
    settings = ProtectOptions(
        engine=options.engine, precision=options.precision, workers=options.workers, quiet=True, overwrite=True
    )
    scheme = load_scheme(options.scheme)
    opening = time.perf_counter()
    protector = open_protector(scheme, settings)
    print(f"{protector.name} opened in {time.perf_counter() - opening:.1f} s")
    for chosen in SETS:
        if chosen.name not in options.sets:
            continue
        count = max(1, round(chosen.files * options.share))
        with tempfile.TemporaryDirectory() as temporary:
            folder = Path(temporary) / "plain"
            make(chosen, count, folder, options.cifar10)
            files = sorted(path for path in folder.rglob("*") if path.is_file())
            alone = network_alone(protector, chosen, files, options.seconds)
            # Once on one file first, so that what is loaded on first use is not timed.
            few = Path(temporary) / "few"
            few.mkdir()
            shutil.copy(files[0], few)
            protect_source(str(few), Path(temporary) / "warm", options.scheme, settings, protector=protector)
            start = time.perf_counter()
            protect_source(str(folder), Path(temporary) / "out", options.scheme, settings, protector=protector)
            seconds = time.perf_counter() - start
            loop = obvious_loop(
                scheme, files[: max(1, round(chosen.loop * min(1, options.share * 5)))], Path(temporary) / "loop"
            )
            memory = peak_memory_mb()
        rate = count / seconds
        metrics = {
            "images_per_second": rate,
            "share_of_network": rate / alone,
            "ratio_to_loop": rate / loop,
            "peak_memory_mb": memory,
        }
        write_json(
            options.results / f"{Path(options.scheme).stem}-{chosen.name}-{protector.name}.json",
            record(
                task="throughput",
                scheme=scheme_label(scheme),
                data=chosen.name,
                n=count,
                metrics=metrics,
                seconds=seconds,
            ),
        )
        print(
            f"{chosen.name}: {rate:.1f} images/s end to end, {alone:.1f} the network alone ({rate / alone:.0%}), "
            f"{loop:.1f} the obvious loop ({rate / loop:.1f} times), {memory:.0f} MB, {protector.name}, "
            f"{os.cpu_count()} processors"
        )


def scheme_label(scheme: Scheme) -> str:
    return str(getattr(scheme, "label", scheme.name))


if __name__ == "__main__":
    main()
