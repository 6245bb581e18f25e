"""The scheme inside the package: public and said to be, small, and hiding what it claims to hide."""

import numpy as np
import pytest
import torch
from PIL import Image

import imageveil
from imageveil.audit.metrics import ssim
from imageveil.errors import UsageError
from imageveil.schemes import SCHEMES
from imageveil.schemes.base import PublicSchemeWarning, resolve_scheme, shipped_schemes
from imageveil.schemes.describe import describe


@pytest.fixture(scope="module")
def shipped() -> imageveil.Scheme:
    with pytest.warns(PublicSchemeWarning, match="public"):
        return imageveil.load_scheme("gan-cifar10")


def test_it_is_small_and_described():
    assert "gan-cifar10" in shipped_schemes()
    path, public = resolve_scheme("gan-cifar10")
    assert public and path.stat().st_size < 8_000_000


def test_info_says_what_was_measured():
    lines = describe("gan-cifar10").splitlines()
    at = lines.index("  cifar10, similarity:")
    assert float(lines[at + 1].removeprefix("    ssim: ")) < 0.06 and "public" in lines[-1]


def test_it_hides_photographs(shipped, tiles, photograph):
    assert ssim(tiles, shipped.protect(tiles)).mean() < 0.06
    protected = shipped.protect(photograph[None])
    assert ssim(photograph[None], protected).mean() < 0.06
    # Brightness and contrast of every block, which the eye follows, are the same everywhere.
    weights = torch.tensor([0.299, 0.587, 0.114]).view(1, 3, 1, 1)
    blocks = (protected * weights).sum(dim=1).unfold(1, 4, 4).unfold(2, 4, 4)
    assert blocks.mean(dim=(3, 4)).std() < 1 and blocks.std(dim=(3, 4)).std() < 3


def test_it_keeps_images_apart(shipped, tiles):
    protected = shipped.protect(tiles).float()
    common = protected.mean(dim=0)
    assert (protected - common).std() > 3


def test_same_image_same_output_whatever_the_batch(shipped, tiles):
    alone = torch.cat([shipped.protect(tile[None]) for tile in tiles[:4]])
    assert (alone.int() - shipped.protect(tiles[:4]).int()).abs().max() <= 1


@pytest.mark.filterwarnings("ignore::imageveil.schemes.base.PublicSchemeWarning")
def test_it_drops_into_torchvision(tiles):
    v2 = pytest.importorskip("torchvision.transforms.v2")
    protect = imageveil.VisualProtection("gan-cifar10")
    picture = Image.fromarray(tiles[0].permute(1, 2, 0).numpy())
    pipeline = v2.Compose([v2.PILToTensor(), protect, v2.ToDtype(torch.float32, scale=True)])
    out = pipeline(picture)
    assert out.dtype == torch.float32 and out.shape == (3, 32, 32) and out.max() <= 1
    assert np.array_equal(np.asarray(protect(picture)), (out * 255).round().byte().permute(1, 2, 0).numpy())
    assert torch.equal(protect(tiles[:2])[0], protect(tiles[0]))
    with pytest.raises(UsageError, match="uint8 RGB"):
        protect(tiles[:2].float())
    with pytest.raises(UsageError, match="id for every image"):
        imageveil.VisualProtection(SCHEMES["pixel-different"].generate())
