"""How transformation networks are learned: the paper to the letter, what ships, and the ablations."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal

from imageveil.presets.ranges import Count, Finite, Natural, Rate, Share, UpToAll, Weight, Widths


@dataclass(frozen=True, kw_only=True)
class PreliminaryConfig:
    """How P is made (Eq. 1 to 3).

    Attributes:
        eps: largest change of a value, of the [0, 1] range.
        alpha: step of one iteration.
        iterations: number of steps.
        images: how many images, class-balanced, P is made of; 0 for all.
        batch: images at once.
    """

    eps: UpToAll = 1.0
    alpha: Rate = 0.1
    iterations: Count = 50
    images: Natural = 2000
    batch: Count = 250


@dataclass(frozen=True, kw_only=True)
class TransformationConfig:
    """How a transformation network is learned. A weight of zero leaves the term and its networks out.

    Attributes:
        steps: number of steps.
        batch: images a step.
        widths: channels of G_AB, from full resolution down.
        top_skip: see `UNetConfig`.
        head: see `UNetConfig`.
        field: see `UNetConfig`.
        backward_widths: channels of G_BA.
        lr: Adam's rate, for all networks.
        discriminator_lr: Adam's rate for F_A and F_B.
        constant_rate: keep the rate; otherwise it falls to zero along a cosine.
        lambda_: weight of the adversarial terms (Eq. 4).
        discriminator_width: channels of the first layer of F_A and F_B.
        discriminator_strided: strided layers of F_A and F_B.
        two_way: also go from P to plain images and back (the second halves of Eq. 4, 6, 8, 9).
        gamma1: weight of the perceptual distance (Eq. 6), negative to maximise it.
        margin: no reward for a perceptual distance beyond this; 0 for none, as in the paper.
        gamma2: weight of h_theta's loss on protected images (Eq. 8).
        gamma3: weight of the reconstruction error (Eq. 9).
        joint: weight of the loss of a classifier that learns along on protected images.
        distil: weight of its distance from a plain classifier's features.
        distil_levels: how many levels of features are compared, from the finest on; 0 for all. The deepest know the
            labels of the training images by heart; finer ones know what an image of any kind shows.
        viewer: weight of the reward for what a viewer that learns along gets wrong.
        viewer_bound: no reward beyond this share of the variance.
        viewer_widths: channels of the viewer.
        warm_epochs: epochs of training the encoder as a plain classifier first; `joint` and `distil` start from it.
        rounding: model the 8-bit rounding of protected images as noise.
        zoom: share of each batch that is shown enlarged two to four times, without its label.
        padding: pixels of the random crop.
        preliminary: how P is made; used only by `lambda_`, and by `two_way`.
    """

    steps: Count
    batch: Count = 128
    widths: Widths = (24, 48, 128, 192)
    top_skip: bool = True
    head: Literal["sigmoid", "contrast", "linear"] = "sigmoid"
    field: Natural = 0
    backward_widths: Widths = (16, 48, 96)
    lr: Rate = 2e-4
    discriminator_lr: Rate = 2e-4
    constant_rate: bool = False
    lambda_: Weight = 0.0
    discriminator_width: Count = 32
    discriminator_strided: Count = 2
    two_way: bool = False
    gamma1: Finite = 0.0
    margin: Weight = 0.0
    gamma2: Weight = 0.0
    gamma3: Weight = 0.0
    joint: Weight = 0.0
    distil: Weight = 0.0
    distil_levels: Natural = 0
    viewer: Weight = 0.0
    viewer_bound: Rate = 0.92
    viewer_widths: Widths = (16, 48, 96)
    warm_epochs: Natural = 0
    rounding: bool = True
    zoom: Share = 0.0
    padding: Natural = 2
    preliminary: PreliminaryConfig = PreliminaryConfig()

    @property
    def needs_classifier(self) -> bool:
        """Whether h_theta is used: in the objective, or to make P."""
        return bool(self.gamma2 or self.lambda_ or self.two_way)


def transformation_paper() -> TransformationConfig:
    """The paper's objective and weights at full width; a budget of steps stands for its 5000 epochs."""
    return TransformationConfig(
        steps=100_000,
        batch=64,
        widths=(64, 128, 256, 512),
        backward_widths=(64, 128, 256, 512),
        constant_rate=True,
        lambda_=0.4,
        discriminator_width=64,
        two_way=True,
        gamma1=-1.0,
        gamma2=0.4,
        gamma3=0.9,
        rounding=False,
        preliminary=PreliminaryConfig(images=0),
    )


def transformation_literal() -> TransformationConfig:
    """The paper's objective to the letter in the budget and width of `quick`."""
    return TransformationConfig(
        steps=1500,
        batch=64,
        backward_widths=(24, 48, 128, 192),
        constant_rate=True,
        lambda_=0.4,
        two_way=True,
        gamma1=-1.0,
        gamma2=0.4,
        gamma3=0.9,
        rounding=False,
    )


def transformation_quick() -> TransformationConfig:
    """What is shipped as `gan-cifar10`: hide from a viewer that learns along, keep what a classifier sees."""
    return TransformationConfig(
        steps=3000,
        top_skip=False,
        head="contrast",
        field=2,
        lr=1e-3,
        gamma3=1.5,
        joint=0.3,
        distil=2.0,
        distil_levels=2,
        viewer=1.0,
        viewer_bound=0.75,
        warm_epochs=16,
        zoom=0.25,
    )


def transformation_private() -> TransformationConfig:
    """Continue from a shipped scheme with an owner's own seed and images, in fewer steps (`train --init`)."""
    return replace(transformation_quick(), steps=400, lr=5e-4, distil=0.0, warm_epochs=0)


def transformation_without_gan() -> TransformationConfig:
    """A transformation network without a GAN (Ito et al. 2020, arXiv 2008.03143), in the width and budget of `quick`.

    The loss of a frozen plain classifier minus a weight times the perceptual distance. Chosen here: features of relu1_2
    for relu2_2, divided by their mean as in Eq. 7, at which the published weight, 0.01, hides next to nothing, so 0.05
    (`benchmarks/transform_weight.py`); Adam with a cosine for SGD in steps; and the noise that stands for rounding to
    8 bits.
    """
    return TransformationConfig(steps=3000, lr=1e-3, gamma1=-0.05, gamma2=1.0)


def transformation_smoke() -> TransformationConfig:
    """Every term at once, in seconds, for tests."""
    return TransformationConfig(
        steps=4,
        batch=8,
        widths=(4, 8, 8),
        backward_widths=(4, 8, 8),
        viewer_widths=(4, 8, 8),
        head="contrast",
        field=1,
        lambda_=0.4,
        discriminator_width=4,
        two_way=True,
        gamma1=-1.0,
        margin=3.0,
        gamma2=0.4,
        gamma3=0.9,
        joint=1.0,
        distil=0.1,
        viewer=1.0,
        warm_epochs=1,
        zoom=0.25,
        preliminary=PreliminaryConfig(iterations=2, images=20, batch=10),
    )


TRANSFORMATION_PRESETS: dict[str, Callable[[], TransformationConfig]] = {
    "paper": transformation_paper,
    "quick": transformation_quick,
    "literal": transformation_literal,
    "transform": transformation_without_gan,
    "private": transformation_private,
    "smoke": transformation_smoke,
}
