"""How classifiers are trained: h_theta of the paper, and those that every table judges with."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import Field

from imageveil.presets.ranges import Count, Natural, Rate, Share, UpToAll, Weight


@dataclass(frozen=True, kw_only=True)
class ClassifierConfig:
    """How a classifier is trained.

    Attributes:
        network: `quick`, `vgg13` or `resnet18`.
        width: factor on the network's widths, of which the smallest is 64.
        epochs: passes over the training images.
        batch: images a step.
        optimizer: `muon` (filters by Muon, the rest by SGD) or `sgd`.
        filter_lr: Muon's step for filters.
        lr: SGD's learning rate.
        head_lr: SGD's learning rate of the last layer, with `muon`.
        shift_lr: SGD's learning rate of the shifts of batch norm, with `muon`; they bear far more than weights do.
        whitening_share: share of the run after which the shifts of a whitening layer stay as they are, with `muon`.
        momentum: SGD's momentum.
        nesterov: of Nesterov's kind.
        weight_decay: SGD's weight decay; with `muon` the share by which what SGD learns shrinks in a step at first.
        schedule: `linear` (to zero), `one-cycle`, `cosine`, or `steps` (divided by 5 at 30, 60 and 80 % of the run).
        label_smoothing: share of the target spread over all labels.
        padding: pixels of the random crop.
        reflect: border of the crop by reflection, else black.
        alternate: mirror an image in every other epoch, so that two epochs show both sides of all (Jordan 2024);
            otherwise at random.
        averaging: share of the run that the running average of the weights spans, which is judged; 0 judges the last
            weights.
    """

    network: Literal["quick", "vgg13", "resnet18"] = "quick"
    width: Annotated[float, Field(ge=1 / 64, allow_inf_nan=False)] = 1.0
    epochs: Count = 10
    batch: Count = 1000
    optimizer: Literal["muon", "sgd"] = "muon"
    filter_lr: Rate = 0.18
    lr: Rate = 0.05
    head_lr: Rate = 0.01
    shift_lr: Rate = 53.0
    whitening_share: UpToAll = 0.375
    momentum: Annotated[float, Field(gt=0, lt=1)] = 0.85
    nesterov: bool = True
    weight_decay: Weight = 2e-3
    schedule: Literal["linear", "one-cycle", "cosine", "steps"] = "linear"
    label_smoothing: Share = 0.2
    padding: Natural = 2
    reflect: bool = True
    alternate: bool = True
    averaging: Share = 0.03


def classifier_paper() -> ClassifierConfig:
    """ResNet-18, 200 epochs, the paper's schedule (section 4 of the paper)."""
    return ClassifierConfig(
        network="resnet18",
        epochs=200,
        batch=128,
        optimizer="sgd",
        lr=0.1,
        momentum=0.9,
        nesterov=False,
        weight_decay=5e-4,
        schedule="steps",
        label_smoothing=0.0,
        padding=4,
        reflect=False,
        alternate=False,
        averaging=0.0,
    )


def classifier_quick() -> ClassifierConfig:
    """The recipe for tables of schemes: a small early-pooling network, ten epochs."""
    return ClassifierConfig()


def classifier_narrow() -> ClassifierConfig:
    """As `quick` at a quarter of its widths: minutes where a processor without bf16 takes an hour for `quick`."""
    return ClassifierConfig(width=0.25)


def classifier_theta() -> ClassifierConfig:
    """h_theta: VGG13 with batch norm on plain images."""
    return ClassifierConfig(network="vgg13", epochs=13, head_lr=0.05, shift_lr=0.8, weight_decay=1e-4)


def classifier_demo() -> ClassifierConfig:
    """A narrow network for the few hundred photographs of the demo; SGD's rates fall with the images a step."""
    return ClassifierConfig(width=0.25, epochs=10, batch=32, head_lr=5e-4, shift_lr=2.5, weight_decay=1e-4, padding=8)


def classifier_smoke() -> ClassifierConfig:
    """Seconds, for tests."""
    return ClassifierConfig(width=0.125, epochs=2, batch=64, head_lr=1e-3, shift_lr=2.5, weight_decay=1e-4)


CLASSIFIER_PRESETS: dict[str, Callable[[], ClassifierConfig]] = {
    "paper": classifier_paper,
    "quick": classifier_quick,
    "narrow": classifier_narrow,
    "theta": classifier_theta,
    "demo": classifier_demo,
    "smoke": classifier_smoke,
}
