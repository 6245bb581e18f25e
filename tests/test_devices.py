"""Networks on one device, images on another, without a second device: torch's `meta` holds shapes and no numbers.

An operation on tensors of both raises as it would between processor and GPU. What comes back from there is zeros.
"""

import contextlib
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from imageveil.attacks import ATTACKS, Conditions, make_attack
from imageveil.attacks.base import Matcher
from imageveil.audit.accuracy import classify
from imageveil.audit.attack import build_knowledge
from imageveil.audit.cloud import Cloud
from imageveil.images.arrays import ImageArrays
from imageveil.networks.unet import UNet, UNetConfig
from imageveil.presets import CLASSIFIER_PRESETS, TRANSFORMATION_PRESETS
from imageveil.schemes import SCHEMES, load_scheme
from imageveil.schemes.learned import LearnedScheme
from imageveil.training.device import Device
from imageveil.training.pipeline import train_scheme

KEY = bytes(range(32))
META = torch.device("meta")


@pytest.fixture
def elsewhere(monkeypatch) -> Device:
    """The other device, with what `meta` itself cannot do: give back numbers, and autocast."""
    stays = {name: getattr(Tensor, name) for name in ("cpu", "to", "item", "tolist", "copy_")}
    autocast = torch.autocast

    def zeros(tensor: Tensor) -> Tensor:
        return torch.zeros(tensor.shape, dtype=tensor.dtype)

    def to(tensor: Tensor, *args, **kwargs) -> Tensor:
        target = kwargs.get("device", args[0] if args else None)
        target = target.device if isinstance(target, Tensor) else target
        leaves = tensor.is_meta and isinstance(target, str | torch.device) and torch.device(target).type == "cpu"
        return zeros(tensor) if leaves else stays["to"](tensor, *args, **kwargs)

    def number(tensor: Tensor) -> float:
        return 0.5 if tensor.is_meta else stays["item"](tensor)

    def copy(own: Tensor, other: Tensor, *rest) -> Tensor:
        return own.zero_() if other.is_meta and not own.is_meta else stays["copy_"](own, other, *rest)

    monkeypatch.setattr(Tensor, "to", to)
    monkeypatch.setattr(Tensor, "copy_", copy)
    monkeypatch.setattr(Tensor, "cpu", lambda own: zeros(own) if own.is_meta else stays["cpu"](own))
    monkeypatch.setattr(Tensor, "tolist", lambda own: stays["tolist"](zeros(own) if own.is_meta else own))
    monkeypatch.setattr(Tensor, "item", number)
    monkeypatch.setattr(Tensor, "__float__", lambda own: float(number(own)))
    monkeypatch.setattr(Tensor, "__int__", lambda own: int(number(own)))
    monkeypatch.setattr(
        torch, "autocast", lambda kind, *a, **k: contextlib.nullcontext() if kind == "meta" else autocast(kind, *a, **k)
    )
    return Device(torch=META, bf16=False)


def small_network() -> LearnedScheme:
    torch.manual_seed(0)
    return LearnedScheme(UNet(UNetConfig(widths=(4, 8))))


def owners(tiles: Tensor) -> ImageArrays:
    labels, keys = torch.arange(len(tiles)) % 2, [str(number) for number in range(len(tiles))]
    return ImageArrays(name="tiles", images=tiles, labels=labels, classes=["a", "b"], keys=keys)


TRIALS = [
    (name, dict(values), kind.threats[0] if name != "confirmation" else "oracle")
    for name, kind in sorted(ATTACKS.items())
    if kind.budgets and name != "leaked-inverse"  # an inverse network, or one that is read from a file
    for values in kind.variants
]


@pytest.mark.parametrize(("name", "values", "threat"), TRIALS)
def test_attacks_keep_networks_and_images_on_one_device(name, values, threat, tiles, elsewhere):
    cloud = Cloud(preset="smoke", device=elsewhere, seed=0) if threat == "recipe" else None
    known = build_knowledge(threat, small_network().to(META), owners(tiles[:64]), pairs=20, seed=0, cloud=cloud)
    if threat == "recipe":
        known = replace(known, recipe={**known.recipe, "surrogate": lambda images, *_: 255 - images})
    attack = make_attack(name, values, preset="smoke")
    attack = replace(attack, **{field: 2 for field in ("steps", "epochs") if hasattr(attack, field)})
    found = attack.fit(known, Conditions(device=elsewhere))
    few = known.protected[:4]
    if isinstance(found, Matcher):
        assert found.scores(few, known.plain[:3]).shape == (4, 3)
    else:
        shown = found.reconstruct(few, known.labels[:4])
        assert shown.shape == few.shape and shown.dtype == torch.uint8 and not shown.is_meta


def test_a_scheme_is_computed_where_it_was_sent(tiles, elsewhere):
    scheme = small_network()
    assert scheme.to(META) is scheme and all(weight.is_meta for weight in scheme.network.parameters())
    protected = scheme.protect(tiles[:4])
    assert protected.shape == (4, 3, 32, 32) and not protected.is_meta
    keyed = SCHEMES["tanaka"](KEY)
    assert torch.equal(keyed.to(META).protect(tiles[:4]), SCHEMES["tanaka"](KEY).protect(tiles[:4]))


@pytest.mark.filterwarnings("ignore:.*copying from a non-meta parameter")
def test_training_keeps_networks_and_images_on_one_device(tiles, elsewhere, tmp_path):
    images, classifier = owners(tiles[:64]), replace(CLASSIFIER_PRESETS["smoke"](), epochs=1, batch=32)
    done = classify(
        images,
        images,
        config=classifier,
        preset="smoke",
        scheme=small_network(),
        augment="live",
        seed=0,
        device=elsewhere,
    )
    assert done["n"] == 64
    config = replace(TRANSFORMATION_PRESETS["smoke"](), widths=(4, 8), steps=2, batch=16)
    made = train_scheme(
        images, tmp_path, preset="smoke", config=config, classifier_config=classifier, seed=0, device=elsewhere
    )
    assert load_scheme(made).protect(tiles[:2]).shape == (2, 3, 32, 32)
