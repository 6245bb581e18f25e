"""Every hyper-parameter of a run as typed values.

A preset is a function that returns a frozen configuration. `paper` follows the paper, `quick` is what two cores do in
an hour, `demo` in a minute, and `smoke` runs in seconds for tests.
"""

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any, TypeVar

from imageveil.errors import UsageError

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class ClassifierConfig:
    """How a classifier is trained.

    Attributes:
        network: `quick`, `vgg13` or `resnet18`.
        width: factor on the network's widths.
        epochs: passes over the training images.
        batch: images a step.
        optimizer: `muon` (filters by Muon, the rest by SGD) or `sgd`.
        filter_lr: Muon's step for filters.
        lr: SGD's learning rate.
        shift_scale: factor on that rate for the shifts of batch norm, with `muon`.
        momentum: SGD's Nesterov momentum.
        weight_decay: SGD's weight decay.
        schedule: `linear` (to zero), `one-cycle`, or `steps` (divided by 5 at 30, 60 and 80 % of the run).
        label_smoothing: share of the target spread over all labels.
        padding: pixels of the random crop.
        reflect: border of the crop by reflection, else black.
        averaging: decay of the running average of the weights that is judged; 0 judges the last weights.
    """

    network: str = "quick"
    width: float = 1.0
    epochs: int = 10
    batch: int = 1000
    optimizer: str = "muon"
    filter_lr: float = 0.18
    lr: float = 0.05
    shift_scale: float = 16.0
    momentum: float = 0.85
    weight_decay: float = 2e-3
    schedule: str = "linear"
    label_smoothing: float = 0.2
    padding: int = 2
    reflect: bool = True
    averaging: float = 0.95


def classifier_paper() -> ClassifierConfig:
    """ResNet-18, 200 epochs, the paper's schedule (section 4 of the paper)."""
    return ClassifierConfig(
        network="resnet18",
        epochs=200,
        batch=128,
        optimizer="sgd",
        lr=0.1,
        momentum=0.9,
        weight_decay=5e-4,
        schedule="steps",
        label_smoothing=0.0,
        padding=4,
        reflect=False,
        averaging=0.0,
    )


def classifier_quick() -> ClassifierConfig:
    """The recipe every table is made with: a small early-pooling network, a dozen epochs."""
    return ClassifierConfig()


def classifier_theta() -> ClassifierConfig:
    """h_theta: VGG13 with batch norm on plain images."""
    return ClassifierConfig(network="vgg13", epochs=9)


def classifier_demo() -> ClassifierConfig:
    """A narrow network for the few hundred photographs of the demo."""
    return ClassifierConfig(width=0.25, epochs=10, batch=32, padding=8)


def classifier_smoke() -> ClassifierConfig:
    """Seconds, for tests."""
    return ClassifierConfig(width=0.125, epochs=2, batch=64)


CLASSIFIER_PRESETS: dict[str, Callable[[], ClassifierConfig]] = {
    "paper": classifier_paper,
    "quick": classifier_quick,
    "theta": classifier_theta,
    "demo": classifier_demo,
    "smoke": classifier_smoke,
}


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

    eps: float = 1.0
    alpha: float = 0.1
    iterations: int = 50
    images: int = 2000
    batch: int = 250


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

    steps: int
    batch: int = 128
    widths: tuple[int, ...] = (24, 48, 128, 192)
    top_skip: bool = True
    head: str = "sigmoid"
    field: int = 0
    backward_widths: tuple[int, ...] = (16, 48, 96)
    lr: float = 2e-4
    discriminator_lr: float = 2e-4
    constant_rate: bool = False
    lambda_: float = 0.0
    discriminator_width: int = 32
    discriminator_strided: int = 2
    two_way: bool = False
    gamma1: float = 0.0
    margin: float = 0.0
    gamma2: float = 0.0
    gamma3: float = 0.0
    joint: float = 0.0
    distil: float = 0.0
    distil_levels: int = 0
    viewer: float = 0.0
    viewer_bound: float = 0.92
    viewer_widths: tuple[int, ...] = (16, 48, 96)
    warm_epochs: int = 0
    rounding: bool = True
    zoom: float = 0.0
    padding: int = 2
    preliminary: PreliminaryConfig = PreliminaryConfig()


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
    """Continue from a shipped scheme with an owner's own seed and images, in minutes (`train --init`)."""
    return replace(transformation_quick(), steps=400, lr=5e-4, distil=0.0, warm_epochs=0)


def transformation_without_gan() -> TransformationConfig:
    """A transformation network without a GAN (Ito et al. 2020, arXiv 2008.03143), in the width and budget of `quick`.

    The loss of a frozen plain classifier minus 0.01 times the perceptual distance, here of relu1_2.
    """
    return TransformationConfig(steps=3000, lr=1e-3, gamma1=-0.01, gamma2=1.0)


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


def choose(presets: Mapping[str, Callable[[], T]], name: str, overrides: list[str] | None = None) -> T:
    """Return a preset with some values replaced.

    Args:
        presets: preset functions by name.
        name: which one.
        overrides: texts `key=value`, checked against the type of the field.

    Raises:
        UsageError: unknown preset or key, or a value of the wrong type.
    """
    from pydantic import TypeAdapter, ValidationError

    if name not in presets:
        raise UsageError(f"unknown preset {name!r}; use one of: {', '.join(presets)}")
    config = presets[name]()
    values = asdict(config)  # type: ignore[call-overload]
    for text in overrides or []:
        key, equals, value = text.partition("=")
        if not equals or key not in values:
            raise UsageError(f"--set {text!r}: expected key=value with one of: {', '.join(values)}")
        values[key] = value.split(",") if isinstance(values[key], tuple) else value
    try:
        return TypeAdapter(type(config)).validate_python(values)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"])
        raise UsageError(f"--set {place}: {first['msg'].lower()} (got {first['input']!r})") from error


def as_json(config: Any) -> dict[str, Any]:
    """A configuration as a plain dict."""
    return asdict(config)
