"""A scheme of which only its results are known: plain images with their protected selves, matched by name."""

from collections.abc import Mapping, Sequence
from pathlib import PurePosixPath
from typing import Any, Self

import torch
from torch import Tensor

from imageveil.errors import UsageError
from imageveil.images.arrays import ImageArrays
from imageveil.schemes import SCHEMES, Scheme

UNKNOWN = "unknown"
LEAST_PAIRS = 10


class RecordedScheme(Scheme):
    """Looks protected images up instead of making them.

    Args:
        protected: uint8 (N, 3, H', W').
        keys: the identity of each.
        label: what to call it in records.
        algorithm: name of the published scheme, or `unknown`.
        block: pixels on a block's side, if the algorithm has blocks.
    """

    published = "not said"

    def __init__(
        self,
        protected: Tensor,
        keys: Sequence[str],
        *,
        label: str,
        algorithm: str = UNKNOWN,
        block: int | None = None,
    ) -> None:
        self.protected, self.label, self.algorithm = protected, label, algorithm
        self.places = {key: number for number, key in enumerate(keys)}
        kind = SCHEMES.get(algorithm)
        self.block = block
        # Of the class in other schemes; here they follow from what the owner says of the images.
        self.name = algorithm  # type: ignore[misc]
        self.needs_ids = kind is not None and kind.needs_ids  # type: ignore[misc]

    def protect(
        self, images: Tensor, *, ids: Sequence[str] | None = None, generator: torch.Generator | None = None
    ) -> Tensor:
        """The recorded images of these identities; see `Scheme.protect`.

        Raises:
            UsageError: an image is not among those recorded.
        """
        if ids is None or any(key not in self.places for key in ids):
            raise UsageError(f"{self.label} holds protected images only; no other image can be protected with it")
        return self.protected[torch.tensor([self.places[key] for key in ids], dtype=torch.long)]

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """The protected images and what is known of them."""
        known = {"keys": list(self.places), "label": self.label, "algorithm": self.algorithm, "block": self.block}
        return {"protected": self.protected}, known

    @classmethod
    def from_state(cls, tensors: Mapping[str, Tensor], metadata: Mapping[str, Any]) -> Self:
        """Build it from what `state` returned."""
        known = {name: metadata[name] for name in ("label", "algorithm", "block")}
        return cls(tensors["protected"], metadata["keys"], **known)


def check_algorithm(algorithm: str | None) -> str:
    """The name of a published scheme, or `unknown` for None.

    Raises:
        UsageError: there is no such scheme.
    """
    if algorithm is not None and algorithm not in SCHEMES:
        raise UsageError(f"--algorithm {algorithm}: no such scheme; choose one of: {', '.join(sorted(SCHEMES))}")
    return algorithm or UNKNOWN


def whole_blocks(protected: ImageArrays, algorithm: str, block: int | None) -> int | None:
    """Pixels on a block's side: those given, or an algorithm's default; None where it has no blocks.

    Raises:
        UsageError: the images do not consist of such blocks.
    """
    side: int | None = block if block is not None else getattr(SCHEMES.get(algorithm), "default_block", None)
    height, width = protected.images.shape[-2:]
    if side is not None and (height % side or width % side):
        raise UsageError(
            f"images of {width}x{height} pixels in {protected.name} do not consist of blocks of {side}; say with "
            "--block which they were protected in"
        )
    return side


def match(
    protected: ImageArrays, plain: ImageArrays, *, algorithm: str | None = None, block: int | None = None
) -> tuple[RecordedScheme, ImageArrays]:
    """Pair protected images with plain ones of the same name, whatever their endings.

    Returns:
        The scheme, and the plain images that have a protected self, under the protected ones' labels.

    Raises:
        UsageError: fewer than ten images have a partner, protected images are smaller than plain ones, or they do not
            consist of whole blocks.
    """
    places = {_stem(key): number for number, key in enumerate(plain.keys)}
    found = [(number, places[_stem(key)]) for number, key in enumerate(protected.keys) if _stem(key) in places]
    if len(found) < LEAST_PAIRS:
        raise UsageError(
            f"only {len(found)} of {len(protected)} protected images have a plain image of the same name in "
            f"{plain.name}; name them alike, or leave --data out to run without judging"
        )
    mine, theirs = (torch.tensor(side) for side in zip(*found, strict=True))
    sizes = protected.images.shape[-2:], plain.images.shape[-2:]
    if any(ours < needed for ours, needed in zip(*sizes, strict=True)):
        raise UsageError(f"the protected images of {protected.name} are smaller than the plain ones of {plain.name}")
    pictures, owned = protected.subset(mine), plain.subset(theirs)
    labelled = pictures if pictures.labels is not None else owned
    named = check_algorithm(algorithm)
    scheme = RecordedScheme(
        pictures.images,
        owned.keys,
        label=protected.name,
        algorithm=named,
        block=whole_blocks(protected, named, block),
    )
    matched = ImageArrays(
        name=owned.name, images=owned.images, labels=labelled.labels, classes=labelled.classes, keys=owned.keys
    )
    return scheme, matched


def _stem(key: str) -> str:
    return PurePosixPath(key).with_suffix("").as_posix()
