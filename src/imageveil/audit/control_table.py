"""The table of positive controls: cases where an attack is known to work, and the figure it must reach."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from imageveil.attacks.brute_force import short_key
from imageveil.errors import UsageError
from imageveil.schemes import SCHEMES, Scheme
from imageveil.schemes.controls import KeylessControl, SecretControl
from imageveil.schemes.keyed import KeyedScheme


@dataclass(frozen=True, kw_only=True)
class Control:
    """One row of the table.

    Attributes:
        attack: name of the attack.
        scheme: name of a scheme that needs no training; or `learned`, for which a small one is trained, its run is
            handed to the attack as `stolen`, and `target` is a multiple of the error that its log ends with.
        metric: the figure that is judged.
        target: what it must reach, compared at as many decimals as `decimals`.
        at_most: the figure must stay below the target instead: an error, or a floor.
        peer: another attack and a share; that share of what it reached on the same scheme is the target, if higher.
        threat: the threat model.
        values: fields of the attack that differ from its defaults.
        tolerance: where given, the figure must lie this near to the target, above or below.
        decimals: decimals of the target.
        block: pixels on a block's side; None takes the scheme's default.
        pairs: number of pairs under the threat `pairs`.
        images: protected images at the attacker's disposal.
        key_bits: bits of a key that is cut short; None takes a whole key.
        pieces: whether the control is for large images that blocks of 16 pixels cut into pieces.
    """

    attack: str
    scheme: str
    metric: str
    target: float
    threat: str = "ciphertext"
    values: dict[str, Any] = field(default_factory=dict)
    tolerance: float | None = None
    at_most: bool = False
    peer: tuple[str, float] | None = None
    decimals: int = 3
    block: int | None = None
    pairs: int = 1
    images: int = 1000
    key_bits: int | None = None
    pieces: bool = False

    @property
    def name(self) -> str:
        """File name of the record."""
        pairs = f"-{self.pairs}-pairs" if self.threat == "pairs" else ""
        return f"{self.attack}-{self.scheme}{pairs}-{self.metric.replace('_', '-')}"

    def passed(self, value: float) -> bool:
        """Whether a figure reaches the target."""
        if self.tolerance is not None:
            return abs(round(value, self.decimals) - self.target) <= self.tolerance + 1e-9
        if self.at_most:
            return round(value, self.decimals) < self.target
        return round(value, self.decimals) >= self.target

    def make_scheme(self, seed: int) -> Scheme:
        """The scheme with a key that only the seed decides, so that a control can be repeated; it protects nobody."""
        kind = SCHEMES[self.scheme]
        secret = hashlib.sha256(f"control {seed}".encode()).digest()
        if self.key_bits is not None:
            secret = short_key(int.from_bytes(secret, "big") % (1 << self.key_bits))
        if issubclass(kind, KeyedScheme):
            return kind(secret, block=self.block)
        if issubclass(kind, SecretControl):
            return kind(secret)
        assert issubclass(kind, KeylessControl)
        return kind.generate()

    def measured_by_peer(self, records: Sequence[Mapping[str, Any]], *, data: str, preset: str) -> "Control":
        """The control with the target that its peer's record sets.

        Args:
            records: records of controls.
            data: name of the images.
            preset: budget of both attacks.

        Raises:
            UsageError: there is a peer, and none of the records is its own.
        """
        if self.peer is None:
            return self
        attack, share = self.peer
        wanted = {"task": "control", "attack": attack, "scheme": self.scheme, "data": data, "preset": preset}
        # Folders of records hold other JSON files too.
        figures = [
            float(found["metrics"][self.metric])
            for found in records
            if isinstance(found, dict) and all(found.get(name) == value for name, value in wanted.items())
        ]
        if not figures:
            raise UsageError(
                f"the control of {self.attack} on {self.scheme} is held against what {attack} reaches there with the "
                f"preset {preset}; run that first: {command(attack)} --preset {preset}"
            )
        return replace(self, target=max(self.target, round(share * max(figures), self.decimals)))


def _pairs(scheme: str, number: int, metric: str, target: float, images: int = 2) -> Control:
    return Control(
        attack="key-recovery",
        scheme=scheme,
        threat="pairs",
        pairs=number,
        images=max(number, images),
        metric=metric,
        target=target,
    )


def _outlines(metric: str, target: float, tolerance: float | None = None) -> Control:
    return Control(
        attack="feature-reconstruction",
        scheme="pixel-different",
        values={"variant": "basic"},
        metric=metric,
        target=target,
        tolerance=tolerance,
        images=2,
    )


def _positions(scheme: str, target: float, *, at_most: bool = False) -> Control:
    return Control(
        attack="unshared-weights",
        scheme=scheme,
        threat="pairs",
        pairs=1000,
        metric="ssim",
        target=target,
        at_most=at_most,
    )


def trained_before(control: Control, folder: Path) -> dict[str, Path]:
    """Run directories below `folder` of attacks that the controls put to the same scheme under `oracle`, by name.

    Nothing for a control whose own attacker could not have asked an oracle.
    """
    able = control.threat == "gradients"
    like = [row for row in CONTROLS if able and (row.scheme, row.threat) == (control.scheme, "oracle")]
    return {row.attack: folder / row.name for row in like if not row.values}


GAN_IMAGES = 10_000
"""Protected images in the controls of the attacks that play against a discriminator: the fewer, the fewer steps."""

CONTROLS: tuple[Control, ...] = (
    Control(attack="statistics", scheme="pixel-same", metric="ssim", target=1.0),
    Control(attack="statistics", scheme="tanaka", metric="ssim", target=0.56, decimals=2),
    Control(attack="statistics", scheme="extended", metric="ssim", target=0.555),
    Control(attack="statistics", scheme="compressible", metric="ssim", target=0.555),
    _pairs("tanaka", 1, "ssim", 1.0),
    _pairs("extended", 8, "ssim", 0.999),
    _pairs("pixel-same", 2, "ssim", 1.0),
    _pairs("compressible", 2, "bytes_exact", 0.978),
    _pairs("block-shuffle", 1, "bytes_exact", 0.978),
    _pairs("block-negative", 1, "bytes_exact", 0.978),
    _pairs("block-ffx", 2, "bytes_exact", 0.978, images=1000),
    _outlines("ssim", 0.218, tolerance=0.01),
    _outlines("reid_within_gradient", 0.95),
    Control(
        attack="brute-force",
        scheme="block-shuffle",
        metric="bytes_exact",
        target=1.0,
        images=2,
        key_bits=16,
        decimals=6,
    ),
    Control(
        attack="jigsaw",
        scheme="block-permute",
        metric="puzzle_neighbours",
        target=0.8,
        decimals=2,
        block=16,
        images=2,
        pieces=True,
    ),
    Control(attack="confirmation", scheme="pixel-same", threat="oracle", metric="confirm_top1", target=1.0),
    Control(attack="inverse-network", scheme="random-conv", threat="oracle", metric="ssim", target=0.9),
    # A blurred image itself has 0.627.
    Control(attack="inverse-network", scheme="blur", threat="oracle", metric="ssim", target=0.628),
    # The log averages over augmented training images, and over steps that still improved.
    Control(attack="leaked-inverse", scheme="learned", metric="mse_var", target=1.25, at_most=True, decimals=4),
    Control(
        attack="sdar", scheme="random-conv", threat="recipe", metric="mse_var", target=0.5, at_most=True, images=25_000
    ),
    # From the mean image the search fits what was seen and stays at 0.81 of the variance (docs/attacks.md).
    Control(
        attack="gradients",
        scheme="random-conv",
        threat="gradients",
        values={"start": "inverse"},
        metric="mse_var",
        target=0.2,
        at_most=True,
    ),
    # A thumbnail of 4x4 pixels has 0.30.
    Control(attack="gan", scheme="tanaka", metric="ssim", target=0.3, decimals=2, images=GAN_IMAGES),
    # A grey copy of the plain image has 0.93, the protected images 0.84 to 0.92.
    Control(attack="gan", scheme="colour-order", metric="ssim", target=0.95, images=GAN_IMAGES),
    # The inverse network must reach 0.9.
    Control(
        attack="gan", scheme="random-conv", metric="ssim", target=0.45, images=GAN_IMAGES, peer=("inverse-network", 0.5)
    ),
    # From few images the generator and its classifier learn labels by heart, under textures that nothing has.
    Control(attack="sia-gan", scheme="tanaka", metric="ssim", target=0.3, images=25_000, peer=("gan", 1.0)),
    _positions("pixel-same", 0.95),
    # The mean image, the best blind guess, has 0.128. No affine map is to be had here: more would mean that something
    # leaks from the judged images to the attack. (How far a byte lies from mid-grey stays, and names some images.)
    _positions("pixel-different", 0.14, at_most=True),
)


def command(*attacks: str, out: str = "FOLDER") -> str:
    """How to run the controls of some attacks, and of those that they are held against; of all where none is named."""
    needed = list(attacks)
    for attack in needed:  # It grows: a peer has peers of its own.
        needed += [row.peer[0] for row in CONTROLS if row.attack == attack and row.peer and row.peer[0] not in needed]
    return " ".join(["imageveil controls --data DATA --out", out, *(f"--only {attack}" for attack in needed)])
