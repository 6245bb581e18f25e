"""A scheme as a transform that drops into `torchvision.transforms.v2.Compose`."""

import os

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from imageveil.errors import UsageError
from imageveil.images.decode import decode_open
from imageveil.schemes.base import Scheme, load_scheme


class VisualProtection(nn.Module):
    """Protects single images or batches.

    Takes and returns a PIL image, or a uint8 tensor (3, H, W) or (N, 3, H, W). PIL images become RGB and upright as
    `imageveil protect` makes them, of whatever mode they are. torchvision is not needed.

    Args:
        scheme: a scheme, its shipped name, or the path of its file.
    """

    def __init__(self, scheme: Scheme | str | os.PathLike[str]) -> None:
        super().__init__()
        self.scheme = scheme if isinstance(scheme, Scheme) else load_scheme(scheme)
        if self.scheme.needs_ids:
            raise UsageError(
                f"{self.scheme.name} needs an id for every image; call its protect(images, ids=...) instead"
            )

    def forward(self, image: Image.Image | Tensor) -> Image.Image | Tensor:
        """Return the protected image or batch, of the type that was given."""
        if isinstance(image, Image.Image):
            pixels = torch.from_numpy(np.array(decode_open(image.copy()).image)).permute(2, 0, 1)
            out = self.scheme.protect(pixels[None])[0]
            return Image.fromarray(out.permute(1, 2, 0).numpy())
        if image.dtype != torch.uint8 or image.ndim not in (3, 4) or image.shape[-3] != 3:
            raise UsageError(
                f"VisualProtection takes uint8 RGB tensors (3, H, W) or (N, 3, H, W), not {image.dtype} "
                f"{tuple(image.shape)}; put it before ToDtype and Normalize"
            )
        return self.scheme.protect(image) if image.ndim == 4 else self.scheme.protect(image[None])[0]
