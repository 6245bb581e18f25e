"""The demo's results in words, pictures and curves."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from imageveil import __version__
from imageveil.audit.charts import Chart, Series
from imageveil.audit.metrics import ssim
from imageveil.audit.report import Curves, Page, Picture, Section, Sheet, Table, Text
from imageveil.audit.sheets import scale_for, sheet
from imageveil.audit.similarity import best_matcher
from imageveil.images.arrays import ImageArrays

PER_CLASS = 2
SHOWN = 16


@dataclass(frozen=True, kw_only=True)
class Photograph:
    """One image before and after, uint8 (3, H, W)."""

    name: str
    plain: Tensor
    protected: Tensor


@dataclass(frozen=True, kw_only=True)
class Trained:
    """One side of the comparison.

    Attributes:
        name: `plain` or `protected`.
        accuracy: share of right answers on the test images.
        interval: 95 % interval of it.
        seconds: spent in training steps.
        protect_seconds: part of them spent protecting.
        log: step, loss and accuracy along the way.
    """

    name: str
    accuracy: float
    interval: tuple[float, float]
    seconds: float
    protect_seconds: float
    log: Sequence[dict[str, float]]


def demo_page(
    *,
    label: str,
    public: bool,
    train: ImageArrays,
    test: ImageArrays,
    left_out: int,
    protected: Tensor,
    photographs: Sequence[Photograph],
    similarity: dict[str, Any],
    trained: Sequence[Trained],
) -> Page:
    """Put the page together.

    Args:
        label: name of the scheme.
        public: whether it ships with the package.
        train: training images.
        test: test images, labelled.
        left_out: images of the data that were not used.
        protected: the test images, protected.
        photographs: images at their own size.
        similarity: record of the test images.
        trained: the plain and the protected side.
    """
    plain_side, protected_side = trained
    lead = (
        f"The scheme {label} turned every photograph below into an image that is meant to show nothing of it. A small "
        f"classifier that never saw anything but such images names {protected_side.accuracy:.0%} of {len(test)} "
        f"protected test photographs; the same classifier trained on plain ones names {plain_side.accuracy:.0%} of "
        f"the plain ones; guessing, about {1 / len(train.classes):.0%}."
    )
    sections: list[Section] = [
        Sheet(
            heading="Photographs at their own size",
            rows=[
                [
                    Picture(caption=f"{item.name}, plain", png=sheet([item.plain])),
                    Picture(
                        caption=f"protected (SSIM {float(ssim(item.plain[None], item.protected[None])):.3f})",
                        png=sheet([item.protected]),
                    ),
                ]
                for item in photographs
            ],
            note="From scikit-image's collection. SSIM is 1 for a copy; two unrelated photographs have about 0.1.",
        ),
        _set_sheet(test, protected),
        _curves(trained),
        _accuracy_table(train, test, left_out, trained),
        _similarity_table(similarity),
        Text(heading="What this is worth", paragraphs=_worth(label, public, similarity)),
    ]
    footer = f"imageveil {__version__} ({similarity['commit']}), on {similarity['device']}: {similarity['command']}"
    return Page(
        title="Photographs, protected, and a classifier that learns from them",
        lead=lead,
        sections=sections,
        footer=footer,
    )


def _set_sheet(test: ImageArrays, protected: Tensor) -> Sheet:
    labels = test.require_labels()
    chosen = torch.cat([(labels == label).nonzero()[:PER_CLASS, 0] for label in sorted(set(labels.tolist()))])[:SHOWN]
    scale = scale_for(test.images[:1])
    names = list(dict.fromkeys(test.classes[int(labels[index])].replace("_", " ") for index in chosen))
    batches = (("plain", test.images[chosen]), ("protected", protected[chosen]))
    return Sheet(
        heading=f"Test images of {test.name}",
        rows=[
            [
                Picture(caption=caption, png=sheet(images, columns=4, scale=scale), pixelated=scale > 1)
                for caption, images in batches
            ]
        ],
        note=f"The first images of each class, in the same places on both sides: {', '.join(names)}.",
    )


def _curves(trained: Sequence[Trained]) -> Curves:
    def chart(title: str, key: str, *, percent: bool) -> Chart:
        series = tuple(
            Series(name=side.name, x=[line["step"] for line in side.log], y=[line[key] for line in side.log])
            for side in trained
        )
        return Chart(title=title, x_label="training step", series=series, percent=percent)

    return Curves(
        heading="Learning from plain and from protected images",
        charts=[
            chart("Loss on training images", "loss", percent=False),
            chart("Accuracy on training images", "accuracy", percent=True),
        ],
        note="Means over the steps since the point before, with augmentation; the same network, recipe and seed.",
    )


def _accuracy_table(train: ImageArrays, test: ImageArrays, left_out: int, trained: Sequence[Trained]) -> Table:
    rows = [
        (
            f"trained and tested on {side.name} images",
            f"{side.accuracy:.1%}",
            f"{side.interval[0]:.1%} to {side.interval[1]:.1%}",
            f"{side.seconds:.0f} s",
            f"{side.protect_seconds:.0f} s" if side.protect_seconds else "",
        )
        for side in trained
    ]
    cut = f" {left_out:,} more images of the set were left out to keep the demo short." if left_out else ""
    return Table(
        heading="Accuracy on test images",
        columns=("classifier", "accuracy", "95 % interval", "training", "of it protecting"),
        rows=rows,
        note=f"{len(train):,} training and {len(test):,} test images of {len(train.classes)} classes; guessing gives "
        f"about {1 / len(train.classes):.1%}. Training images were shifted and mirrored first, then protected, "
        f"anew in every epoch. One seed, so differences of a few images mean nothing.{cut}",
    )


def _similarity_table(record: dict[str, Any]) -> Table:
    metrics, intervals, floors = record["metrics"], record["intervals"], record["floors"]

    def shown(name: str, value: float | None) -> str:
        if value is None:
            return ""
        return f"{value:.1%}" if name.startswith("reid") else f"{value:.3f}"

    rows = []
    names = {
        "ssim": "SSIM (1 is a copy)",
        "mse_var": "squared error / variance (0 is a copy)",
        "reid_top1": f"right one of {metrics['reid_top1_candidates']:.0f} images found",
    }
    if "reid_within" in metrics:
        names["reid_within"] = f"right one of {metrics['reid_within_candidates']:.0f} of its class found"
    for name, text in names.items():
        low, high = intervals[name]
        floor = {kind: shown(name, floors.get(kind, {}).get(name)) for kind in ("blind", "label_only", "chance")}
        interval = f"{shown(name, low)} to {shown(name, high)}"
        rows.append((text, shown(name, metrics[name]), interval, floor["blind"], floor["label_only"], floor["chance"]))
    found = "reid_within" if "reid_within" in metrics else "reid_top1"
    removed = f"{found}_mean_removed"
    low, high = intervals[removed]
    text = names[found] + ", mean protected image subtracted"
    interval = f"{shown(removed, low)} to {shown(removed, high)}"
    rows.append((text, shown(removed, metrics[removed]), interval, "", "", shown(found, floors["chance"][found])))
    return Table(
        heading="What the protected images themselves still show",
        columns=("measure", "protected", "95 % interval", "best blind guess", "best guess from label", "chance"),
        rows=rows,
        note=f"{record['n']} test images, 8-bit. An image is looked for with the best of four matchers, here "
        f"{best_matcher(metrics, found)}. The two columns of guesses say what somebody reaches who never sees the "
        "protected image. All but the last row are what a viewer gets, without any attempt to undo the protection; "
        "the last one is for a viewer who has many protected images and subtracts what they have in common.",
    )


def _worth(label: str, public: bool, record: dict[str, Any]) -> list[str]:
    metrics, intervals, floors = record["metrics"], record["intervals"], record["floors"]
    name = "reid_within" if "reid_within" in metrics else "reid_top1"
    rate, chance, low = metrics[name], floors["chance"][name], intervals[name][0]
    among = "of its class " if name == "reid_within" else ""
    seen = (
        f"Simple matching finds the photograph behind a protected image among {metrics[f'{name}_candidates']:.0f} "
        f"{among}in {rate:.1%} of cases, where guessing finds {chance:.1%}: "
    )
    removed, removed_low = metrics[f"{name}_mean_removed"], intervals[f"{name}_mean_removed"][0]
    if low > chance:
        seen += "these protected images do still tell photographs apart, even for somebody who does not attack them."
    else:
        seen += "no more than guessing, as far as this many images can tell."
        if removed_low > chance:
            seen += (
                f" But subtract from each what all protected images have in common, and it is {removed:.1%}: they do "
                "carry the photograph, out of sight."
            )
    ownership = (
        f"{label} ships with imageveil and is public: anyone who has the package can protect images of their own with "
        "it, and learn from such pairs to undo it."
        if public
        else f"{label} is a scheme file of yours. Whoever gets hold of it can protect images of their own, and learn "
        "from such pairs to undo it."
    )
    return [
        f"Protection is meant to hide images from view; the pictures above show how far it does. {seen}",
        f"{ownership} The same holds for whoever has plain images together with their protected selves by other "
        "means: a network that is given enough pairs learns the way back. Hiding from view is all that is shown here.",
        "Protected images with labels are enough to train on, so they do carry what tells the classes apart. A "
        "scheme that was itself taught with labels of similar images brings some of that knowledge along, and a "
        "comparison with plain images on a set this small then flatters it.",
    ]
