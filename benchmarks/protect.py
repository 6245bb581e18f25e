"""Images a second of `imageveil protect`, beside the network alone and beside the obvious loop, in one run.

    python benchmarks/protect.py [--scheme SCHEME] [--cifar10 FOLDER] [--share 0.1] [--engine auto]
    python benchmarks/protect.py --table

Three sets: 20,000 32x32 PNG files (CIFAR-10 where it is given, else cut from photographs), 2,000 JPEG files of 96x96,
and 10 JPEG files of twelve megapixels, the last two cut and enlarged from the photographs that scikit-image ships.
`--share` shrinks every set. Each set is protected three ways:

- end to end: `imageveil protect` from files to files; the engine is open, workers start within it;
- the network alone: the same engine, on pixels that lie decoded in memory, in the batches and tiles that it likes;
- the obvious loop: Pillow opens a file, eager PyTorch in float32 protects it, Pillow saves it; on part of the files, in
  a process of its own, which knows nothing of this package's settings.

`--sets 100-megapixel` protects one photograph of that size, for its memory alone.

Writes `results/throughput/*.json`: `images_per_second` end to end, `share_of_network`, `ratio_to_loop`,
`peak_memory_mb` (memory of this process and all its workers together, at its highest), and the processor time
an image takes by step, in microseconds: `decode_us`, `network_us`, `encode_us`, `write_us`. `--table` prints what is
written there.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
import warnings
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from imageveil.deploy.bulk import ProtectOptions, open_protector, protect_source
from imageveil.deploy.listing import list_source
from imageveil.deploy.tiles import Protector
from imageveil.deploy.workers import Origin, decode_part
from imageveil.images.sinks import encode, write_files
from imageveil.records import made_on, read_records, record, write_json
from imageveil.schemes import load_scheme


@dataclass(frozen=True)
class Set:
    name: str
    files: int
    side: tuple[int, int]
    suffix: str
    loop: int  # files that the obvious loop is timed on; 0 for a set that is protected for its memory alone


SETS = (
    Set("cifar10", 20_000, (32, 32), ".png", 400),
    Set("photos96-sized", 2_000, (96, 96), ".jpg", 100),
    Set("12-megapixel", 10, (4000, 3000), ".jpg", 1),
    Set("100-megapixel", 1, (10_000, 10_000), ".jpg", 0),
)
TILES = "tiles"
"""What records call files of the size of CIFAR-10 that are cut from photographs."""
STEPS = ("decode_us", "network_us", "encode_us", "write_us")


def photographs() -> list[Image.Image]:
    from skimage import data

    return [Image.fromarray(getattr(data, name)()) for name in ("astronaut", "coffee", "chelsea", "rocket")]


def make(chosen: Set, count: int, folder: Path, cifar10: str | None) -> None:
    """Write `count` files into ten classes; those of an earlier call are kept."""
    if len(list(folder.rglob(f"*{chosen.suffix}"))) == count:
        return
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
            left = int(chance.integers(0, photo.width - width + 1))
            top = int(chance.integers(0, photo.height - height + 1))
            image = photo.crop((left, top, left + width, top + height)).resize(chosen.side)
        image.save(path, quality=92)


def network_alone(protector: Protector, chosen: Set, files: Sequence[Path], seconds: float) -> float:
    """Images a second on decoded pixels, for about `seconds`."""
    many = max(1, min(len(files), 2**22 // (chosen.side[0] * chosen.side[1])))
    pixels = np.stack([np.asarray(Image.open(path).convert("RGB")) for path in files[:many]])
    ids = [str(number) for number in range(len(pixels))]
    if many > 1:
        protector(pixels[: many // 4], ids)  # the first batch of a shape chooses its kernels
    done, start = 0, time.perf_counter()
    while not done or time.perf_counter() - start < seconds:
        protector(pixels, ids)
        done += len(pixels)
    return done / (time.perf_counter() - start)


def steps_alone(protector: Protector, folder: Path, alone: float, temporary: Path) -> dict[str, float]:
    """Processor time an image takes by step, in microseconds; all but the network on one unit's first images."""
    listing = list_source(str(folder))
    items = listing.items[:512]
    times, begun = [], time.process_time()
    part = decode_part(Origin(kind=listing.kind, root=listing.root), items, 0)
    times.append(time.process_time() - begun)
    pixels = [image for group in part.groups for image in group.pixels]
    protected = [image for group in part.groups for image in protector(group.pixels[:64], [""] * len(group.pixels))]
    begun = time.process_time()
    blobs = [encode(image, "png") for image in protected]
    encoding = (time.process_time() - begun) / len(blobs)
    begun = time.process_time()
    write_files((temporary / "steps" / f"{number}.png", blob) for number, blob in enumerate(blobs))
    writing = (time.process_time() - begun) / len(blobs)
    streams = protector.streams.count
    values = (times[0] / len(pixels), streams / alone, encoding, writing)
    return {name: value * 1e6 for name, value in zip(STEPS, values, strict=True)}


def obvious_loop(scheme_name: str, files: Sequence[Path], out: Path) -> float:
    """Images a second, one image at a time."""
    warnings.simplefilter("ignore")
    scheme = load_scheme(scheme_name)

    def one(path: Path) -> None:
        pixels = torch.from_numpy(np.array(Image.open(path).convert("RGB"))).permute(2, 0, 1)[None]
        protected = scheme.protect(pixels)[0].permute(1, 2, 0).numpy()
        Image.fromarray(protected).save(out / (path.stem + ".png"))

    if len(files) > 1:
        one(files[0])
    start = time.perf_counter()
    for path in files:
        one(path)
    return len(files) / (time.perf_counter() - start)


def loop_in_own_process(scheme: str, files: Sequence[Path], out: Path) -> float:
    out.mkdir()
    words = [sys.executable, __file__, "--scheme", scheme, "--only-loop", str(out)]
    run = subprocess.run(
        words, input="\n".join(map(str, files)), stdout=subprocess.PIPE, text=True, check=True, env=dict(os.environ)
    )
    return float(json.loads(run.stdout.splitlines()[-1]))


class Memory:
    """Memory of this process and all below it, looked at ten times a second; for Linux."""

    def __init__(self) -> None:
        self.peak, self.stopped = 0, threading.Event()
        self.thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> "Memory":
        self.thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stopped.set()
        self.thread.join()

    def _watch(self) -> None:
        while not self.stopped.wait(0.1):
            self.peak = max(self.peak, resident(os.getpid()))


def resident(pid: int, *, files: bool = True) -> int:
    """Bytes of a process and its descendants in memory; programs and libraries count for the first process only.

    The exact share of every page, which the system can tell too, takes so long to add up that it slows the run.
    """
    total = 0
    with suppress(OSError):  # ended meanwhile
        _, pages, shared, *_ = map(int, Path(f"/proc/{pid}/statm").read_text().split())
        total = (pages if files else pages - shared) * os.sysconf("SC_PAGE_SIZE")
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        total += sum(resident(int(child), files=False) for child in children)
    return total


def measure(
    chosen: Set, count: int, files_at: Path, temporary: Path, protector: Protector, options: argparse.Namespace
) -> tuple[dict[str, float], float]:
    """Metrics of a set, and the seconds from files to files."""
    settings = ProtectOptions(
        engine=options.engine, precision=options.precision, workers=options.workers, quiet=True, overwrite=True
    )
    files = sorted(path for path in files_at.rglob("*") if path.is_file())
    metrics: dict[str, float] = {}
    alone = network_alone(protector, chosen, files, options.seconds) if chosen.loop else 0.0
    with Memory() as memory:
        start = time.perf_counter()
        protect_source(str(files_at), temporary / "out", options.scheme, settings, protector=protector)
        seconds = time.perf_counter() - start
    check(files[:: max(1, count // 20)], files_at, temporary / "out", protector)
    metrics["images_per_second"] = count / seconds
    metrics["peak_memory_mb"] = memory.peak / 2**20
    if chosen.loop:
        timed = files[: max(1, round(chosen.loop * min(1, options.share * 5)))]
        loop = loop_in_own_process(options.scheme, timed, temporary / "loop")
        metrics["share_of_network"] = count / seconds / alone
        metrics["ratio_to_loop"] = count / seconds / loop
        metrics["network_images_per_second"] = alone
        metrics["loop_images_per_second"] = loop
        metrics |= steps_alone(protector, files_at, alone, temporary)
    return metrics, seconds


def check(files: Sequence[Path], source: Path, out: Path, protector: Protector) -> None:
    """What was written is what the engine makes of the files; looked at for small images."""
    for path in files:
        with Image.open(path) as image:
            plain = np.asarray(image.convert("RGB"))
        if plain.size > 10**6:
            return
        with Image.open((out / path.relative_to(source)).with_suffix(".png")) as image:
            difference = np.abs(np.asarray(image).astype(int) - protector(plain[None], [""])[0])
        assert difference.max() <= 1, f"{path} was not written as it should be"


def table(results: Path) -> str:
    """The records of this benchmark as a Markdown table."""
    lines = [
        "| files | engine | images/s | the network alone | share | the obvious loop | ratio | peak memory, MB "
        "| decode, network, encode, write: us of processor time an image |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    names = [SETS[0].name, TILES, *(chosen.name for chosen in SETS[1:])]
    found = [each for each in read_records(results) if each["task"] == "throughput" and each["data"] in names]
    found = [each for each in found if "peak_memory_mb" in each["metrics"]]
    for each in sorted(found, key=lambda e: (names.index(e["data"]), -e["metrics"]["images_per_second"])):
        m = each["metrics"]
        cells = [f"{each['n']:,} {each['data']}", each["preset"], f"{m['images_per_second']:.4g}"]
        if "ratio_to_loop" in m:
            cells += [f"{m['network_images_per_second']:.4g}", f"{m['share_of_network']:.0%}"]
            cells += [f"{m['loop_images_per_second']:.3g}", f"{m['ratio_to_loop']:.1f}"]
        else:
            cells += ["", "", "", ""]
        cells.append(f"{m['peak_memory_mb']:,.0f}")
        cells.append(", ".join(f"{m[name]:,.0f}" for name in STEPS if name in m))
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join([*lines, "", made_on(found)])


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--scheme", default="gan-cifar10")
    parser.add_argument("--cifar10", help="folder or Parquet with CIFAR-10; without it, tiles of photographs")
    parser.add_argument("--sets", nargs="*", default=[chosen.name for chosen in SETS if chosen.loop])
    parser.add_argument("--share", type=float, default=1.0, help="factor on the number of files")
    parser.add_argument("--engine", default="auto")
    parser.add_argument("--precision", default="auto")
    parser.add_argument("--workers", type=int)
    parser.add_argument("--seconds", type=float, default=20, help="time for the network alone")
    parser.add_argument("--results", type=Path, default=Path("out/bench"))
    parser.add_argument("--files", type=Path, help="where the files are made, and kept for the next run")
    parser.add_argument("--make", action="store_true", help="make the files only")
    parser.add_argument("--table", action="store_true", help="print the records that are there")
    parser.add_argument("--only-loop", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.table:
        print(table(options.results))
        return
    if options.only_loop:
        print(json.dumps(obvious_loop(options.scheme, [Path(line.strip()) for line in sys.stdin], options.only_loop)))
        return
    sets = [chosen for chosen in SETS if chosen.name in options.sets]
    with tempfile.TemporaryDirectory() as folder:
        temporary = Path(folder)
        made = {}
        for chosen in sets:
            count = max(1, round(chosen.files * options.share))
            made[chosen.name] = (options.files or temporary) / f"{chosen.name}-{count}", count
            make(chosen, count, made[chosen.name][0], options.cifar10)
        if options.make:
            return
        scheme = load_scheme(options.scheme)
        opening = time.perf_counter()
        protector = open_protector(scheme, ProtectOptions(engine=options.engine, precision=options.precision))
        print(f"{protector.name} opened in {time.perf_counter() - opening:.1f} s, {os.cpu_count()} processors")
        for chosen in sets:
            files_at, count = made[chosen.name]
            # Removed at the end: removing thousands of files would disturb the next set.
            place = temporary / "work" / chosen.name
            place.mkdir(parents=True)
            metrics, seconds = measure(chosen, count, files_at, place, protector, options)
            name = TILES if chosen.name == "cifar10" and not options.cifar10 else chosen.name
            write_json(
                options.results / f"{Path(options.scheme).stem}-{name}-{protector.name}.json",
                record(
                    task="throughput",
                    scheme=str(getattr(scheme, "label", scheme.name)),
                    data=name,
                    preset=protector.name,
                    n=count,
                    metrics=metrics,
                    seconds=seconds,
                ),
            )
            print(chosen.name, ", ".join(f"{name} {value:,.3g}" for name, value in metrics.items()), flush=True)
        print("measured; removing the files", flush=True)


if __name__ == "__main__":
    main()
