"""Threat models: what an attacker is handed. An attack gets one `Knowledge` and can reach nothing else.

Every attacker knows the published algorithm (its name and block size, not the key or weights), the protected images
with their labels, and unpaired plain images of the same kind. Beyond that

- `ciphertext` knows nothing;
- `recipe` has the classifier that the cloud trained and the public recipe of the scheme;
- `pairs` has some plain images together with their protected selves;
- `oracle` may have any plain image protected;
- `gradients` holds the differentiable transformation itself.

The functions of these names build a `Knowledge` from a scheme and training images. Tensors are copied, so that no view
leads back to images that were left out; the images an attack is judged on never come in here.
"""

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from imageveil.errors import UsageError
from imageveil.images.arrays import ImageArrays
from imageveil.schemes.base import Scheme, digest

THREATS = ("ciphertext", "recipe", "pairs", "oracle", "gradients")
"""All threat models, as records name them."""

BATCH_PIXELS = 500 * 32 * 32

FINGERPRINTED = 1000
"""Images of a set that tell it from another: reading all pixels of a large set would take seconds."""

CHUNK = 1000

Transformation = Callable[[Tensor], Tensor]


class Oracle(Protocol):
    """Protects any plain batch, uint8 to uint8."""

    def __call__(self, images: Tensor, occasion: str = "") -> Tensor:
        """Protect images, each under an identity of its own.

        Args:
            images: uint8 (N, 3, H, W).
            occasion: what they are asked for. A scheme with a key per image gives every image of every occasion
                another key, and the same one when an interrupted run asks again.
        """


@dataclass(frozen=True, kw_only=True)
class PublicScheme:
    """What is published about a scheme.

    Attributes:
        name: the algorithm, as `SCHEMES` calls it.
        block: pixels on a block's side, or None where there are no blocks.
        key_per_image: whether every image has a key of its own.
    """

    name: str
    block: int | None
    key_per_image: bool


@dataclass(frozen=True, kw_only=True)
class Pairs:
    """Plain images, uint8 (k, 3, H, W), and the same images protected, uint8 (k, 3, H', W')."""

    plain: Tensor
    protected: Tensor

    def __len__(self) -> int:
        return len(self.plain)

    def first(self, number: int) -> "Pairs":
        """At most the first `number` pairs."""
        return Pairs(plain=self.plain[:number], protected=self.protected[:number])


@dataclass(frozen=True, kw_only=True)
class Knowledge:
    """Everything one attacker has.

    Attributes:
        threat: the threat model.
        scheme: the published algorithm.
        protected: protected images, uint8 (N, 3, H', W'), as the cloud has them.
        labels: their classes, int64 (N,), or None where the data has none.
        plain: unpaired plain images of the same kind, uint8 (M, 3, H, W); none of them is among the protected ones.
        plain_labels: their classes, int64 (M,), or None.
        known_pairs: under `pairs`, plain images with their protected selves.
        oracle: under `oracle` and `gradients`, protects any plain batch.
        transformation: under `gradients`, the differentiable h, float [0, 1] to float [0, 1].
        classifier: under `recipe`, the cloud's classifier, protected floats in [0, 1] to logits; None for an attack
            that has no use for it.
        recipe: under `recipe`, what is public about the making of the scheme.
    """

    threat: str
    scheme: PublicScheme
    protected: Tensor
    labels: Tensor | None
    plain: Tensor
    plain_labels: Tensor | None
    known_pairs: Pairs | None = None
    oracle: Oracle | None = None
    transformation: Transformation | None = None
    classifier: Transformation | None = None
    recipe: Mapping[str, Any] = field(default_factory=dict)

    def pairs(self, number: int) -> Pairs:
        """At most `number` pairs: those known, or plain images sent through the oracle.

        Raises:
            UsageError: this attacker can have no pairs.
        """
        if self.known_pairs is not None:
            return self.known_pairs.first(number)
        if self.oracle is None:
            raise UsageError(f"an attacker under the threat {self.threat!r} has no pairs; use --threat pairs or oracle")
        plain = self.plain[:number].clone()
        return Pairs(plain=plain, protected=self.oracle(plain, "pairs"))

    def fingerprint(self, own: str = "") -> str:
        """A short digest of what decides what an attack learns from this, the threat model apart.

        Two threat models that grant the same images give the same, so that a network trained under one of them can be
        used again under the other.

        Args:
            own: says what else the attacker learned from, such as the digest of a scheme of its own.
        """
        pairs = self.known_pairs
        tensors = {
            "protected": self.protected,
            "labels": self.labels,
            "plain": self.plain,
            "plain_labels": self.plain_labels,
            "pairs_plain": None if pairs is None else pairs.plain,
            "pairs_protected": None if pairs is None else pairs.protected,
        }
        # A function has no content that could be told; in `Knowledge` made from a scheme there is none.
        recipe = {name: value for name, value in self.recipe.items() if not callable(value)}
        weights = digest(self.classifier.state_dict()) if isinstance(self.classifier, nn.Module) else ""
        return fingerprint(tensors, repr(self.scheme), json.dumps(recipe, sort_keys=True, default=str), weights, own)

    def mean_image(self) -> Tensor:
        """Mean of the unpaired plain images, float32 (3, H, W) on the scale 0..255."""
        total = torch.zeros(self.plain.shape[1:], dtype=torch.float64)
        for part in torch.split(self.plain, CHUNK):
            # Never the whole set as floats, which takes four times its memory.
            total += part.sum(dim=0, dtype=torch.float64)
        return (total / len(self.plain)).float()


def fingerprint(tensors: Mapping[str, Tensor | None], *words: str) -> str:
    """A short digest of sets of images, their labels and some words.

    Args:
        tensors: by name. Of sets of images (N, ...) at most about two thousand, evenly spread, are read.
        words: what else belongs to it.

    Returns:
        16 hexadecimal digits.
    """
    read = {
        f"{name} {tuple(tensor.shape)}": tensor if tensor.ndim < 2 else tensor[:: max(1, len(tensor) // FINGERPRINTED)]
        for name, tensor in tensors.items()
        if tensor is not None
    }
    return hashlib.sha256("\n".join([digest(read), *words]).encode()).hexdigest()[:16]


def protect_batches(scheme: Scheme, images: Tensor, ids: list[str] | None) -> Tensor:
    """Protect many images batch by batch: uint8 (N, 3, H, W) to uint8 (N, 3, H', W')."""
    size = max(1, BATCH_PIXELS // (images.shape[-1] * images.shape[-2]))
    parts = range(0, len(images), size)
    return torch.cat(
        [scheme.protect(images[i : i + size], ids=None if ids is None else ids[i : i + size]) for i in parts]
    )


def ciphertext(
    scheme: Scheme,
    train: ImageArrays,
    *,
    plain: ImageArrays | None = None,
    images: int | None = None,
    seed: int = 0,
    base: Knowledge | None = None,
) -> Knowledge:
    """The paper's setting: half T1 of the training images protected, the other half T2 plain and unpaired.

    Labels of plain images from elsewhere are handed on only where they name the same classes.

    Args:
        scheme: the scheme under attack.
        train: the owner's training images.
        plain: unpaired plain images from elsewhere, of the same size, in place of T2.
        images: use only so many of T1; None takes all.
        seed: decides the halves.
        base: what this function returned for the same arguments, so that nothing is protected twice.

    Raises:
        UsageError: there are fewer than four training images, or `plain` has another size.
    """
    if base is not None:
        return base
    first, second = halves(train, images=images, seed=seed)
    unpaired = second if plain is None else plain
    if unpaired.images.shape[1:] != train.images.shape[1:]:
        raise UsageError(
            f"the unpaired plain images of {unpaired.name} differ in size from {train.name}; give images of one size"
        )
    same_classes = unpaired.classes == train.classes
    return Knowledge(
        threat="ciphertext",
        scheme=PublicScheme(name=scheme.name, block=getattr(scheme, "block", None), key_per_image=scheme.needs_ids),
        protected=protect_batches(scheme, first.images, first.keys),
        labels=None if first.labels is None else first.labels.clone(),
        plain=unpaired.images.clone(),
        plain_labels=None if unpaired.labels is None or not same_classes else unpaired.labels.clone(),
    )


def recipe(
    scheme: Scheme, train: ImageArrays, *, classifier: Transformation | None, public: Mapping[str, Any], **options: Any
) -> Knowledge:
    """As `ciphertext` (which takes the other options), with the cloud's classifier and the public recipe."""
    known = ciphertext(scheme, train, **options)
    return replace(known, threat="recipe", classifier=classifier, recipe=dict(public))


def pairs(scheme: Scheme, train: ImageArrays, *, number: int, **options: Any) -> Knowledge:
    """As `ciphertext`, with the plain images of the first `number` protected ones.

    Raises:
        UsageError: there are fewer protected images than that, or `number` is not positive.
    """
    known = ciphertext(scheme, train, **options)
    if not 1 <= number <= len(known.protected):
        raise UsageError(f"--pairs must be from 1 to {len(known.protected)} here, not {number}")
    first, _ = halves(train, images=options.get("images"), seed=options.get("seed", 0))
    given = Pairs(plain=first.images[:number].clone(), protected=known.protected[:number].clone())
    return replace(known, threat="pairs", known_pairs=given)


def oracle(scheme: Scheme, train: ImageArrays, **options: Any) -> Knowledge:
    """As `ciphertext`, with a function that protects any plain batch, each image under an identity of its own."""
    return replace(ciphertext(scheme, train, **options), threat="oracle", oracle=protector(scheme))


def gradients(scheme: Scheme, train: ImageArrays, **options: Any) -> Knowledge:
    """As `oracle`, with the differentiable transformation.

    Raises:
        UsageError: the scheme has none.
    """
    forward = getattr(scheme, "forward", None)
    if forward is None:
        raise UsageError(f"{scheme.label} is no network, so that nobody has its gradients; use --threat oracle")

    def transformation(images: Tensor) -> Tensor:
        out: Tensor = forward(images)
        return out

    known = oracle(scheme, train, **options)
    return replace(known, threat="gradients", transformation=transformation)


def halves(train: ImageArrays, *, images: int | None, seed: int) -> tuple[ImageArrays, ImageArrays]:
    """Split training images into T1 (cut to `images`) and T2.

    Raises:
        UsageError: there are fewer than four images, or `images` is not positive.
    """
    if len(train) < 4:
        raise UsageError(f"{train.name} has {len(train)} training images; an attack needs at least four")
    if images is not None and images < 1:
        raise UsageError(f"--images must be positive, not {images}")
    order = torch.randperm(len(train), generator=torch.Generator().manual_seed(seed))
    half = len(train) // 2
    return train.subset(order[:half][:images]), train.subset(order[half:])


def protector(scheme: Scheme) -> Oracle:
    """An oracle of a scheme."""

    def protect(images: Tensor, occasion: str = "") -> Tensor:
        # Nothing is counted from call to call: a run that is resumed would count from the start again.
        ids = [f"oracle/{occasion}/{number}" for number in range(len(images))] if scheme.needs_ids else None
        return protect_batches(scheme, images, ids)

    return protect
