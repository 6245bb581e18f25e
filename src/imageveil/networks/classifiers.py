"""The classifiers by name, as files and presets speak of them."""

from collections.abc import Mapping
from typing import Any

from torch import nn

from imageveil.errors import UsageError
from imageveil.networks.resnet import ResNet18
from imageveil.networks.vgg import VGG13, QuickNet

CLASSIFIERS: Mapping[str, type[nn.Module]] = {"quick": QuickNet, "vgg13": VGG13, "resnet18": ResNet18}


def describe_classifier(name: str, classes: int, *, width: float = 1.0, inputs: int = 3) -> dict[str, Any]:
    """The arguments that make a classifier.

    Args:
        name: of `CLASSIFIERS`.
        classes: number of labels.
        width: factor on the network's widths; VGG13 has none.
        inputs: channels of the input; VGG13 takes images only.

    Raises:
        UsageError: there is no such network, or it does not take so many channels.
    """
    if name == "quick":
        return {"classes": classes, "widths": [round(each * width) for each in (64, 256, 256)], "inputs": inputs}
    if name == "resnet18":
        return {"classes": classes, "width": round(64 * width), "inputs": inputs}
    if name == "vgg13":
        if inputs != 3:
            raise UsageError("vgg13 takes images only; put the adaptation network in front of quick or resnet18")
        return {"classes": classes}
    raise UsageError(f"unknown network {name!r}; use quick, vgg13 or resnet18")
