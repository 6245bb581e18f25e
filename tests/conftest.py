"""Real images for every test: photographs that dependencies ship, and the development data when it is there."""

import os
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

SHARED = Path(__file__).resolve().parents[2] / "shared" / "data"


@pytest.fixture(autouse=True, scope="session")
def _threads() -> None:
    if "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(min(2, os.cpu_count() or 1))


@pytest.fixture(autouse=True)
def _private_cache(tmp_path, monkeypatch) -> None:
    """No test reads or leaves decoded images in the user's cache."""
    monkeypatch.setenv("IMAGEVEIL_CACHE", str(tmp_path / "cache"))


@pytest.fixture(scope="session")
def photograph() -> Tensor:
    """scikit-image's astronaut, uint8 (3, 512, 512)."""
    from skimage import data

    return torch.from_numpy(np.ascontiguousarray(data.astronaut().transpose(2, 0, 1)))


@pytest.fixture(scope="session")
def tiles(photograph: Tensor) -> Tensor:
    """256 real 32x32 images, uint8 (256, 3, 32, 32): the astronaut cut into squares."""
    return photograph.unfold(1, 32, 32).unfold(2, 32, 32).permute(1, 2, 0, 3, 4).reshape(-1, 3, 32, 32).contiguous()
