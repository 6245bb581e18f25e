"""What an attacker makes for itself who knows only the public recipe of a scheme.

`Knowledge.recipe` may hold

- `surrogate`: a scheme that the attacker made by the same recipe, as a shipped name, the path of a scheme file, or a
  function that protects uint8 images, or a sequence of them; for a learned scheme this is another training run;
- `init`: the public scheme that the private one was continued from (`imageveil train --init`), by name or path;
- `architecture`: the fields of `UNetConfig` that the transformation network has.
"""

import hashlib
import warnings
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from imageveil.attacks.knowledge import Knowledge, Oracle, fingerprint, protector
from imageveil.errors import UsageError
from imageveil.networks.unet import UNet
from imageveil.schemes import SCHEMES, Scheme
from imageveil.schemes.base import PublicSchemeWarning, digest, load_scheme
from imageveil.schemes.controls import KeylessControl, SecretControl
from imageveil.schemes.keyed import KeyedScheme
from imageveil.schemes.learned import LearnedScheme

PROBES = 8
"""Images that tell one function from another."""


@dataclass(frozen=True, kw_only=True)
class OwnScheme:
    """A scheme in the attacker's own hands.

    Attributes:
        oracle: protects plain images with it.
        digest: tells its weights or key from others.
    """

    oracle: Oracle
    digest: str

    @classmethod
    def of(cls, scheme: Scheme) -> "OwnScheme":
        """Take a scheme over."""
        return cls(oracle=protector(scheme), digest=digest(scheme.state()[0]))


def open_quietly(name: str) -> OwnScheme:
    """Open a scheme by name or path, without the notice to users of public ones.

    Raises:
        UsageError: there is no such scheme.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", PublicSchemeWarning)
        return OwnScheme.of(load_scheme(name))


def together(schemes: Sequence[OwnScheme]) -> OwnScheme:
    """Several schemes as one that gives each its share of the images, another share on every occasion.

    What is learned from all of them leans less on what only one of them has (domain randomisation, Tobin et al. 2017,
    arXiv 1703.06907).
    """
    if len(schemes) == 1:
        return schemes[0]

    def protect(images: Tensor, occasion: str = "") -> Tensor:
        first = zlib.crc32(occasion.encode()) % len(schemes)
        shares = [range((first + number) % len(schemes), len(images), len(schemes)) for number in range(len(schemes))]
        parts = [scheme.oracle(images[share], occasion) for scheme, share in zip(schemes, shares, strict=True)]
        return torch.cat(parts)[torch.tensor([at for share in shares for at in share]).argsort()]

    return OwnScheme(oracle=protect, digest=" ".join(scheme.digest for scheme in schemes))


def own_scheme(knowledge: Knowledge, seed: int, *, made: Sequence[str] = ()) -> OwnScheme:
    """A scheme of the attacker's own: what the recipe says, or the public algorithm under a key of its own.

    Args:
        knowledge: what the attacker has.
        seed: decides the key.
        made: schemes that go before what the recipe says, by name or path.

    Raises:
        UsageError: the scheme is learned and the recipe holds nothing made by it.
    """
    chosen = made or knowledge.recipe.get("surrogate") or knowledge.recipe.get("init")
    if chosen is not None:
        several: Sequence[Any] = chosen if isinstance(chosen, list | tuple) else [chosen]
        return together([_take(one, knowledge.plain[:PROBES]) for one in several])
    kind = SCHEMES.get(knowledge.scheme.name)
    secret = hashlib.sha256(f"an attacker's own key {seed}".encode()).digest()
    if kind is not None and issubclass(kind, KeyedScheme):
        return OwnScheme.of(kind(secret, block=knowledge.scheme.block))
    if kind is not None and issubclass(kind, SecretControl):
        return OwnScheme.of(kind(secret))
    if kind is not None and issubclass(kind, KeylessControl):
        return OwnScheme.of(kind.generate())
    raise UsageError(
        f"under the threat recipe an attacker of {knowledge.scheme.name} needs a scheme of its own, trained by the "
        "same recipe; name it with --set surrogate=FILE, in an audit with --surrogate FILE"
    )


def _take(made: str | Path | Oracle, probes: Tensor) -> OwnScheme:
    if callable(made):
        return OwnScheme(oracle=made, digest=fingerprint({"probes": made(probes)}))
    return open_quietly(str(made))


def public_network(name: str) -> UNet:
    """A copy of the transformation network of a public scheme, by name or path, to continue from.

    Raises:
        UsageError: there is no such scheme, or it is not a learned one.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", PublicSchemeWarning)
        scheme = load_scheme(name)
    if not isinstance(scheme, LearnedScheme):
        raise UsageError(f"{name} is no learned scheme, so that nothing can be continued from it")
    return scheme.network
