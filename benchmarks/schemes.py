"""How fast the keyed schemes protect 10,000 images of 32x32, beside a plain loop and a bare copy, in one run.

    python benchmarks/schemes.py --data path/to/cifar10 --out results/throughput
    python benchmarks/schemes.py --out results/throughput --table

The plain loop is the algorithm as its source writes it down, in NumPy: for every image, for every block (or pixel),
split, negate, gather, merge. Key material is laid out before the clock starts for schemes with one key, and derived
inside the loop, with the same functions, for the scheme with a key per image. The loop is timed on a few images and
scaled to all of them (--loop-images); its output is compared with the package's, byte for byte. Loop, copy and scheme
take turns, and each counts with its best time, so that other work on the machine touches all of them alike.

`ratio_to_loop` is against that loop. A loop that treats each image with whole-image NumPy expressions instead takes
about 3 to 40 us an image, where a bare copy takes about 1 us, so no implementation could be 50 times faster than it.
"""

import argparse
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from imageveil.images.arrays import load_arrays
from imageveil.records import made_on, read_records, record, write_json
from imageveil.schemes import SCHEMES
from imageveil.schemes.compressible import CompressibleScheme, quarter_turns
from imageveil.schemes.keyed import KeyedScheme
from imageveil.schemes.keys import image_streams
from imageveil.schemes.pixelwise import ORDERS, key_codes, key_size

Loop = Callable[[np.ndarray, list[str]], np.ndarray]
BLOCKS = {"patch-permutation": 4}
"""Block sizes other than the default: transformers for 32x32 images take patches of 4 pixels."""
REQUIRED = {"pixel-different": 10, "extended": 10}
OTHERS = 50


def each_block(block: int, change: Callable[[int, np.ndarray], np.ndarray]) -> Loop:
    """A loop over images (N, H, W, 3) and their blocks; `change` gets a block's number and its flat bytes."""

    def loop(images: np.ndarray, ids: list[str]) -> np.ndarray:
        out = np.empty_like(images)
        for image, result in zip(images, out, strict=True):
            number = 0
            for row in range(0, image.shape[0], block):
                for column in range(0, image.shape[1], block):
                    cell = image[row : row + block, column : column + block]
                    changed = change(number, cell.reshape(-1))
                    result[row : row + block, column : column + block] = changed.reshape(cell.shape)
                    number += 1
        return out

    return loop


def learnable(cell: np.ndarray, order: np.ndarray, reverse: np.ndarray) -> np.ndarray:
    halves = np.concatenate([cell & 15, cell >> 4])
    halves = np.where(reverse, 15 - halves, halves)[order]
    low, high = np.split(halves, 2)
    merged: np.ndarray = low | (high << 4)
    return merged


def moved(loop: Loop, block: int, order: np.ndarray) -> Loop:
    """After `loop`, block b of the result is block order[b]."""

    def both(images: np.ndarray, ids: list[str]) -> np.ndarray:
        out = np.empty_like(images)
        for image, result in zip(loop(images, ids), out, strict=True):
            across = image.shape[1] // block
            for number, source in enumerate(order):
                row, column = block * (number // across), block * (number % across)
                y, x = block * (source // across), block * (source % across)
                result[row : row + block, column : column + block] = image[y : y + block, x : x + block]
        return out

    return both


def pixel_loop(keys: Callable[[str], tuple[np.ndarray, np.ndarray]]) -> Loop:
    def loop(images: np.ndarray, ids: list[str]) -> np.ndarray:
        out = np.empty_like(images)
        for image, result, identity in zip(images, out, ids, strict=True):
            signs, orders = keys(identity)
            for row in range(image.shape[0]):
                for column in range(image.shape[1]):
                    pixel = np.where(signs[:, row, column], 255 - image[row, column], image[row, column])
                    result[row, column] = pixel[ORDERS[orders[row, column]]]
        return out

    return loop


def compressible_loop(scheme: CompressibleScheme) -> Loop:
    blocks, turns, negative, colours = scheme.key_arrays(32, 32)
    # In the order of the plain blocks, since this loop moves the blocks last.
    of_plain = np.argsort(blocks)
    turns, negative, colours = (
        quarter_turns(scheme.block)[turns[of_plain]],
        negative[of_plain],
        ORDERS[colours[of_plain]],
    )

    def change(number: int, cell: np.ndarray) -> np.ndarray:
        pixels: np.ndarray = cell.reshape(-1, 3)[turns[number]][:, colours[number]]
        return 255 - pixels if negative[number] else pixels

    return moved(each_block(scheme.block, change), scheme.block, blocks)


def plain_loop(scheme: Any) -> Loop:
    """The plain loop of a keyed scheme, with that scheme's own key, for 32x32 images."""
    block = scheme.block
    name = scheme.name
    if name == "tanaka":
        order, reverse = scheme.key_arrays()
        return each_block(block, lambda number, cell: learnable(cell, order, reverse))
    if name == "extended":
        orders, reverses, blocks = scheme.key_arrays(32, 32)
        loop = each_block(block, lambda number, cell: learnable(cell, orders[number], reverses[number]))
        return moved(loop, block, blocks)
    if name in ("pixel-same", "pixel-different"):
        purpose, size = f"{name}/32x32", key_size(32, 32)
        if name == "pixel-same":
            flips, swaps = scheme.key_masks(32, 32)
            signs = (flips[0] == 255).numpy()
            probe = torch.arange(3, dtype=torch.uint8).view(1, 3, 1, 1).expand(1, 3, 32, 32).contiguous()
            named = _orders(probe, swaps)
            return pixel_loop(lambda identity: (signs, named))

        def keys(identity: str) -> tuple[np.ndarray, np.ndarray]:
            signs, orders = key_codes(image_streams(scheme.master, purpose, [identity], size), 32, 32)
            return signs[0], orders[0]

        return pixel_loop(keys)
    if name == "compressible":
        return compressible_loop(scheme)
    if name == "block-shuffle":
        order = scheme.key_order()
        return each_block(block, lambda number, cell: cell[order])
    if name == "block-negative":
        negated = scheme.place_map(block, block).negated.view(3, -1).T.flatten().numpy()
        return each_block(block, lambda number, cell: np.where(negated, 255 - cell, cell))
    if name == "block-ffx":
        chosen, table = scheme.chosen.numpy(), scheme.table.numpy()
        return each_block(block, lambda number, cell: np.where(chosen, table[cell], cell))
    if name == "patch-permutation":
        order = scheme.byte_order()
        return moved(each_block(block, lambda number, cell: cell[order]), block, scheme.patch_order(32, 32))
    raise ValueError(name)


def _orders(probe: torch.Tensor, swaps: torch.Tensor) -> np.ndarray:
    """The colour order 0..5 of every pixel, seen from what becomes of the colours 0, 1, 2; (32, 32)."""
    from imageveil.schemes.pixelwise import change_pixels

    seen = change_pixels(probe, torch.zeros_like(probe), swaps)[0].flatten(1).T.tolist()
    return np.array([ORDERS.tolist().index(pixel) for pixel in seen]).reshape(32, 32)


def photograph_tiles() -> torch.Tensor:
    """Real 32x32 images without any data set: scikit-image's photographs cut into squares, uint8 (N, 3, 32, 32)."""
    from skimage import data

    cut = []
    for photograph in (data.astronaut(), data.coffee(), data.cat()):
        pixels = torch.from_numpy(np.ascontiguousarray(photograph.transpose(2, 0, 1)))
        cut.append(pixels.unfold(1, 32, 16).unfold(2, 32, 16).permute(1, 2, 0, 3, 4).reshape(-1, 3, 32, 32))
    return torch.cat(cut)


def best(*works: Callable[[], object], rounds: int) -> list[float]:
    """The best time of each in seconds; they take turns."""
    times = [float("inf")] * len(works)
    for _ in range(rounds):
        for place, work in enumerate(works):
            begun = time.perf_counter()
            work()
            times[place] = min(times[place], time.perf_counter() - begun)
    return times


def measure(scheme: KeyedScheme, images: torch.Tensor, loop_images: int, rounds: int) -> dict[str, float]:
    """Seconds for all images: of the plain loop (scaled), a bare copy, and the scheme."""
    ids = [f"{number}.png" for number in range(len(images))]
    few = images[:loop_images].permute(0, 2, 3, 1).contiguous().numpy()
    loop = plain_loop(scheme)
    expected = scheme.protect(images[:loop_images], ids=ids[:loop_images])
    assert (loop(few, ids[:loop_images]) == expected.permute(0, 2, 3, 1).numpy()).all(), scheme.name
    target = torch.empty_like(images)
    scheme.protect(images, ids=ids)
    loop_seconds, copy, seconds = best(
        lambda: loop(few, ids[:loop_images]),
        lambda: target.copy_(images),
        lambda: scheme.protect(images, ids=ids),
        rounds=rounds,
    )
    return {"loop": loop_seconds * len(images) / loop_images, "copy": copy, "scheme": seconds}


def table(results: Path) -> str:
    """The records as a Markdown table."""
    lines = [
        "| scheme | images a second | times the plain loop | asked for | of a bare copy's rate |",
        "|---|---|---|---|---|",
    ]
    found = [r for r in read_records(results) if r["task"] == "throughput" and "ratio_to_copy" in r["metrics"]]
    for each in found:
        m = each["metrics"]
        lines.append(
            f"| `{each['scheme']}` | {m['images_per_second']:,.0f} | {m['ratio_to_loop']:.0f} "
            f"| {REQUIRED.get(each['scheme'], OTHERS)} | {m['ratio_to_copy']:.1%} |"
        )
    return "\n".join([*lines, "", made_on(found)])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", help="folder, Parquet or name of a data set of 32x32 images; else photograph tiles")
    parser.add_argument("--images", type=int, default=10_000)
    parser.add_argument("--loop-images", type=int, default=200)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--out", type=Path, help="folder for the records; without it nothing is written")
    parser.add_argument("--table", action="store_true", help="print the records below --out")
    options = parser.parse_args()
    if options.table:
        print(table(options.out or Path("results/throughput")))
        return
    torch.set_num_threads(options.threads)
    arrays = load_arrays(options.data, "test") if options.data else None
    source = photograph_tiles() if arrays is None else arrays.images
    images = source[torch.arange(options.images) % len(source)].contiguous()
    print(f"{'scheme':18}{'us/image':>10}{'loop':>10}{'copy':>8}{'x loop':>9}{'x copy':>8}  required")
    for name in sorted(SCHEMES):
        kind = SCHEMES[name]
        if not issubclass(kind, KeyedScheme) or kind.kind != "key":
            continue
        scheme = kind(bytes(range(32)), block=BLOCKS.get(name))
        seconds = measure(scheme, images, min(options.loop_images, len(images)), options.rounds)
        micro = {key: value / len(images) * 1e6 for key, value in seconds.items()}
        metrics = {
            "images_per_second": len(images) / seconds["scheme"],
            "ratio_to_loop": seconds["loop"] / seconds["scheme"],
            "ratio_to_copy": seconds["copy"] / seconds["scheme"],
        }
        required = REQUIRED.get(name, OTHERS)
        verdict = "met" if metrics["ratio_to_loop"] >= required else "MISSED"
        print(
            f"{name:18}{micro['scheme']:10.2f}{micro['loop']:10.1f}{micro['copy']:8.2f}"
            f"{metrics['ratio_to_loop']:9.0f}{metrics['ratio_to_copy']:8.2f}  {required} {verdict}"
        )
        if options.out is not None:
            values = record(
                task="throughput",
                scheme=name,
                data="photograph-tiles" if arrays is None else arrays.name,
                n=len(images),
                metrics=metrics,
                seconds=seconds["scheme"],
            )
            write_json(options.out / f"{name}.json", values)


if __name__ == "__main__":
    main()
