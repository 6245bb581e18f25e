"""The seed of a scheme that is to be secret: drawn from the operating system, kept beside the run that it decides.

A learned scheme has no secret but what decides its training: everyone has the recipe, and images may be public.
"""

from pathlib import Path

import torch
from torch import Tensor

from imageveil.errors import RunError
from imageveil.images.sinks import write_files
from imageveil.networks.unet import FIELD_PERIOD
from imageveil.schemes.keys import KEY_BYTES, derive, key_stream, new_master_key
from imageveil.training.device import Device
from imageveil.training.loop import SMALL_SEEDS, step_generator

SEED_FILE = "seed"


def kept_seed(folder: Path, device: Device) -> int:
    """The seed that was drawn for the run in a folder, or a fresh one of 256 bits, kept there for its owner only.

    Raises:
        RunError: the file cannot be written, or holds no seed.
    """
    path = folder / SEED_FILE
    if device.rank == 0 and not path.exists():
        write_files([(path, new_master_key().hex().encode() + b"\n")], private=True)
    device.wait()
    try:
        master = bytes.fromhex(path.read_text())
        if len(master) != KEY_BYTES:
            raise ValueError("of another length")
    except (OSError, ValueError) as error:
        raise RunError(f"{path} is damaged; use another directory, or delete this one to begin again") from error
    return int.from_bytes(master, "big")


def own_field(seed: int, channels: int) -> Tensor:
    """An owner's own fixed pattern for a transformation network, float32 (channels, period, period) in [-1, 1].

    A drawn seed is spent on it in full; torch's generator would take 32 bits of it.
    """
    shape = (channels, FIELD_PERIOD, FIELD_PERIOD)
    if seed < SMALL_SEEDS:
        return torch.empty(shape).uniform_(-1, 1, generator=step_generator(seed, 0, stream=4))
    key = derive(str(seed).encode(), "learned/field")
    words = key_stream(key, 4 * channels * FIELD_PERIOD**2).view("<u4")
    return torch.from_numpy(words / 2.0**31 - 1).float().view(shape)
