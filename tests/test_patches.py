"""Patch permutation: a converted vision transformer gives equal outputs on protected images."""

import pytest
import torch
from torch import nn

from imageveil.errors import UsageError
from imageveil.schemes import SCHEMES

PATCH = 8


class SmallTransformer(nn.Module):
    """A vision transformer with a class token, two layers and 10 classes, for 32x48 images."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Conv2d(3, 48, PATCH, stride=PATCH)
        self.token = nn.Parameter(torch.randn(1, 1, 48))
        self.positions = nn.Parameter(torch.randn(1, 1 + 4 * 6, 48))
        layer = nn.TransformerEncoderLayer(48, 4, 96, dropout=0.0, batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, 2)
        self.head = nn.Linear(48, 10)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        patches = self.embedding(images).flatten(2).transpose(1, 2)
        tokens = torch.cat([self.token.expand(len(images), -1, -1), patches], dim=1) + self.positions
        return self.head(self.encoder(tokens)[:, 0])


@torch.no_grad()
def test_converted_transformer_gives_equal_outputs(photograph):
    torch.manual_seed(0)
    plain = torch.stack([photograph[:, y : y + 32, y : y + 48] for y in range(0, 400, 50)])
    scheme = SCHEMES["patch-permutation"](bytes(range(32)), block=PATCH)
    protected = scheme.protect(plain)
    model = SmallTransformer().eval()
    expected = model(plain.float() / 255)
    assert (model(protected.float() / 255) - expected).abs().max() > 0.1
    model.embedding.weight.copy_(scheme.convert_embedding(model.embedding.weight))
    model.positions.copy_(scheme.convert_positions(model.positions, 32, 48))
    torch.testing.assert_close(model(protected.float() / 255), expected, atol=1e-5, rtol=1e-4)


def test_models_that_do_not_fit_are_refused():
    scheme = SCHEMES["patch-permutation"](bytes(range(32)), block=PATCH)
    with pytest.raises(UsageError, match="patches of 8 pixels"):
        scheme.convert_embedding(torch.zeros(48, 3, 16, 16))
    with pytest.raises(UsageError, match="do not suffice"):
        scheme.convert_positions(torch.zeros(1, 10, 48), 32, 48)
