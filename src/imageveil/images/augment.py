"""Random crop and horizontal flip for a whole batch at once, on the device the batch is on."""

import torch
import torch.nn.functional as F
from torch import Tensor


def crop_and_flip(
    images: Tensor, generator: torch.Generator, *, padding: int, reflect: bool = True, mirrored: Tensor | None = None
) -> Tensor:
    """Shift every image by up to `padding` pixels and mirror half of them.

    Args:
        images: uint8 (N, 3, H, W).
        generator: source of randomness, on the CPU.
        padding: pixels added on every side before the crop.
        reflect: fill the border by reflection; otherwise with black, as the paper does.
        mirrored: bool (N,), which images to mirror; None draws them.

    Returns:
        The augmented batch, same type and shape.
    """
    count, _, height, width = images.shape
    rows = torch.randint(0, 2 * padding + 1, (count,), generator=generator)
    columns = torch.randint(0, 2 * padding + 1, (count,), generator=generator)
    drawn = torch.rand(count, generator=generator) < 0.5
    mirrored = drawn if mirrored is None else mirrored
    # Gather by index, one (N, H) and one (N, W) table: a single pass without a loop over offsets.
    y = torch.arange(height) + rows[:, None] - padding
    x = torch.arange(width) + columns[:, None] - padding
    x = torch.where(mirrored[:, None], x.flip(1), x)
    outside = ((y < 0) | (y >= height))[:, :, None] | ((x < 0) | (x >= width))[:, None, :]
    y, x = _reflect(y, height), _reflect(x, width)
    flat = (y[:, :, None] * width + x[:, None, :]).view(count, 1, -1).to(images.device)
    out = images.reshape(count, 3, -1).gather(2, flat.expand(-1, 3, -1)).view_as(images)
    return out if reflect else out.masked_fill(outside[:, None].to(images.device), 0)


def _reflect(index: Tensor, size: int) -> Tensor:
    """Mirror indices outside 0..size-1 about the border pixels."""
    return (size - 1) - (size - 1 - index.abs()).abs()


def zoomed(images: Tensor, generator: torch.Generator, *, scale: int) -> Tensor:
    """Enlarge random windows of float images (N, 3, H, W) in [0, 1] by `scale`, to the original size.

    Larger photographs have smoother neighbourhoods than 32x32 ones; this shows a network that kind of content.
    """
    height, width = images.shape[2:]
    h, w = -(-height // scale), -(-width // scale)
    top = int(torch.randint(0, height - h + 1, (1,), generator=generator))
    left = int(torch.randint(0, width - w + 1, (1,), generator=generator))
    window = images[:, :, top : top + h, left : left + w]
    out = F.interpolate(window, size=(height, width), mode="bicubic", align_corners=False, antialias=False)
    return out.clamp(0, 1)
