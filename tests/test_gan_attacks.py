"""Attacks that play against a discriminator or learn a map for every position."""

import math
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from imageveil.attacks import Conditions, Knowledge, gan, make_attack, sia_gan
from imageveil.attacks.class_reader import SHIFT, ClassReader
from imageveil.attacks.colours import ColourTransfer, quantiles, turned_axes
from imageveil.attacks.knowledge import Pairs, PublicScheme
from imageveil.attacks.learning import seeded, to_images
from imageveil.attacks.sia_gan import skewed_otherwise, turn_if_negative
from imageveil.attacks.unpaired import Generated, Unpaired, duel, is_negative
from imageveil.audit.control_table import CONTROLS, Control
from imageveil.errors import UsageError
from imageveil.networks.attackers import (
    AttackDiscriminator,
    PositionMap,
    SpectralConv,
    block_generator,
    pixel_generator,
    start_weights,
)
from imageveil.networks.sia_gan import SelfAttention, SIADiscriminator, sia_generator
from imageveil.networks.unet import UNet
from imageveil.schemes import SCHEMES
from imageveil.training.device import Device

CONDITIONS = Conditions(device=Device(torch=torch.device("cpu"), bf16=False))
KEY = bytes(range(32))


def known(name: str, plain: Tensor, unpaired: Tensor, *, threat: str = "ciphertext", block: int | None = None):
    """Knowledge of a scheme: small real images protected, others plain."""
    scheme = SCHEMES[name]() if name == "none" else SCHEMES[name](KEY)
    protected = scheme.protect(plain, ids=[str(number) for number in range(len(plain))])
    return Knowledge(
        threat=threat,
        scheme=PublicScheme(name=name, block=block or getattr(scheme, "block", None), key_per_image=scheme.needs_ids),
        protected=protected,
        labels=torch.arange(len(plain)) % 3,
        plain=unpaired,
        plain_labels=torch.arange(len(unpaired)) % 4,
        known_pairs=Pairs(plain=plain, protected=protected) if threat == "pairs" else None,
    )


def floats(*shape: int) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(0))


def trained(network: nn.Module, size: int = 16) -> nn.Module:
    """The network with batch statistics of something, in eval mode."""
    with torch.no_grad():
        network(floats(4, 3, size, size))
    return network.eval()


# What a network can see


def changed(network: nn.Module, size: int = 16) -> Tensor:
    """Where the output moves when one pixel of the input does, bool (size, size)."""
    images = floats(1, 3, size, size)
    other = images.clone()
    other[:, :, 5, 9] = 1 - other[:, :, 5, 9]
    with torch.no_grad():
        return (network(images) != network(other)).any(dim=1)[0]


@torch.no_grad()
def test_a_generator_sees_its_pixel_or_its_block_only():
    for network, side in ((pixel_generator(), 1), (block_generator(4), 4), (block_generator(8), 8)):
        moved = changed(trained(network))
        assert moved[5, 9]
        top, left = 5 // side * side, 9 // side * side
        moved[top : top + side, left : left + side] = False
        assert not moved.any()


@torch.no_grad()
def test_generators_keep_size_and_range():
    for network in (pixel_generator(), block_generator(4), sia_generator(10, 13, 4, channels=8)):
        images = network.eval()(floats(2, 3, 10, 13))
        assert images.shape == (2, 3, 10, 13) and images.dtype == torch.float32
        assert images.min() >= 0 and images.max() <= 1


def test_published_widths():
    assert [m.out_channels for m in block_generator(4).modules() if isinstance(m, nn.Conv2d)] == [48, 48, 512, 3]
    assert [m.out_channels for m in pixel_generator().modules() if isinstance(m, nn.Conv2d)] == [64, 128, 256, 3]
    convolutions = [m for m in SIADiscriminator(32, 32).modules() if isinstance(m, SpectralConv)]
    assert [m.shape[0] for m in convolutions] == [128, 128, 256, 256, 512, 512, 1024]
    shapes = [tuple(m.shape) for m in sia_generator(32, 32, 4).modules() if isinstance(m, SpectralConv)]
    assert shapes == [(64, 16, 3, 3), *[(64, 64, 3, 3)] * 7, (3, 64, 3, 3)]


@torch.no_grad()
def test_discriminator_passes_maps_of_16_8_5_and_1_and_any_size():
    network = AttackDiscriminator(8)
    sides = [32]
    for layer in network.layers:
        layer.register_forward_hook(lambda _module, _given, out: sides.append(out.shape[-1]))
    images = floats(2, 3, 32, 32)
    scores = network(images)
    assert list(dict.fromkeys(sides)) == [32, 16, 8, 5] and scores.shape == (2,)
    network.eval()
    assert torch.allclose(network(images), network.layers(images * 2 - 1)[:, 0, :3, :3].amax((1, 2)))
    large = floats(1, 3, 96, 96)
    assert torch.allclose(network(large), network.layers(large * 2 - 1).amax((1, 2, 3)))
    assert network(floats(1, 3, 16, 16)).shape == (1,)
    assert SIADiscriminator(96, 32, channels=16)(floats(2, 3, 96, 32)).shape == (2,)


def test_first_weights_are_the_published_ones():
    for network in (AttackDiscriminator(), block_generator(4), unet_of(24)):
        torch.manual_seed(0)
        network.apply(start_weights)
        for module in network.modules():
            if isinstance(module, nn.Conv2d | nn.ConvTranspose2d) and module.weight.numel() > 2000:
                assert module.weight.std().item() == pytest.approx(0.02, rel=0.1)
            if isinstance(module, nn.BatchNorm2d):
                assert module.weight.mean().item() == pytest.approx(1, abs=0.02) and not module.bias.any()


def unet_of(width: int) -> nn.Module:
    return make_attack("gan", {"width": width}).make_generator(PublicScheme(name="x", block=None, key_per_image=False))


@torch.no_grad()
def test_spectral_norm_is_one():
    layer = SpectralConv(8, 16, 3)
    for _ in range(200):
        layer.filters()
    assert float(torch.linalg.matrix_norm(layer.filters()[0], 2)) == pytest.approx(1, abs=1e-3)


@torch.no_grad()
def test_self_attention_is_the_plain_formula():
    layer, hidden = SelfAttention(16), floats(2, 16, 4, 5)
    layer.share.fill_(0.7)
    query, key, value = (part(hidden).flatten(2) for part in (layer.query, layer.key, layer.value))
    for image in range(2):
        weights = torch.softmax(query[image].T @ key[image], dim=1)
        expected = hidden[image].flatten(1) + 0.7 * value[image] @ weights.T
        assert torch.allclose(layer(hidden)[image].flatten(1), expected, atol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("hidden", [0, 16])
def test_position_map_equals_a_plain_loop(hidden):
    network, images = PositionMap(3, 4, hidden), floats(2, 3, 3, 4)
    out = network(images)
    for row in range(3):
        for column in range(4):
            place = 4 * row + column
            for image in range(2):
                values = images[image, :, row, column] * 2 - 1
                for layer, (weight, bias) in enumerate(zip(network.weights, network.biases, strict=True)):
                    values = weight[place] @ (values.relu() if layer else values) + bias[place]
                assert torch.allclose(out[image, :, row, column], (values + 1) / 2, atol=1e-6)


# One step


def test_a_step_moves_each_network_by_its_own_loss(tiles):
    generator, discriminator = seeded(CONDITIONS, pixel_generator, lambda: AttackDiscriminator(8), start=start_weights)
    discriminator.eval()  # or else its spectral norm moves with every call
    optimizers = [torch.optim.SGD(network.parameters(), lr=0.0) for network in (generator, discriminator)]
    images = tiles[:16].float() / 255
    losses = duel(generator, discriminator, optimizers, images[:6], images[6:], CONDITIONS.device)
    # Nobody knows anything yet.
    assert losses["discriminator"].item() == pytest.approx(2 * math.log(2), abs=0.1)
    assert losses["generator"].item() == pytest.approx(math.log(2), abs=0.1)
    kept = [weight.grad.clone() for weight in discriminator.parameters()]
    assert all(gradient.any() for gradient in kept)
    assert all(weight.requires_grad for weight in discriminator.parameters())
    assert any(weight.grad.any() for weight in generator.parameters())
    # The generator's step left the discriminator's gradient alone.
    scores = discriminator(torch.cat([images[6:], generator(images[:6]).detach()]))
    told = nn.functional.softplus(-scores[:10]).mean() + nn.functional.softplus(scores[10:]).mean()
    discriminator.zero_grad()
    told.backward()
    for weight, gradient in zip(discriminator.parameters(), kept, strict=True):
        assert torch.allclose(weight.grad, gradient, rtol=1e-3, atol=1e-6)


# Whole attacks

NETWORK = PublicScheme(name="x", block=None, key_per_image=False)


def constant_duel(tiles: Tensor, everywhere: bool) -> float:
    """The discriminator's loss where all its scores are one number."""
    discriminator = AttackDiscriminator(everywhere=everywhere)
    for parameter in discriminator.layers[4].parameters():
        nn.init.zeros_(parameter)
    generator = nn.Conv2d(3, 3, 1)
    optimizers = [torch.optim.SGD(network.parameters(), lr=0.0) for network in (generator, discriminator)]
    images = tiles[:12].float() / 255
    losses = duel(generator, discriminator, optimizers, images[:8], images[8:], CONDITIONS.device)
    return losses["discriminator"].item()


SMALL = {
    "gan": {"epochs": 2, "batch": 16, "width": 4, "protected": 48},
    "sia-gan": {"epochs": 2, "batch": 16, "width": 4, "discriminator": 16, "protected": 48},
    "unshared-weights": {"epochs": 2, "batch": 16, "protected": 48},
}


@pytest.mark.parametrize(
    ("name", "scheme"),
    [
        ("gan", "tanaka"),
        ("gan", "colour-order"),
        ("gan", "random-conv"),
        ("sia-gan", "tanaka"),
        ("unshared-weights", "none"),
    ],
)
def test_resumed_equals_uninterrupted_and_repeated(name, scheme, tiles, tmp_path):
    # After so few steps guesses are nearly flat: matched with plain colours those of all seeds would be one grey.
    attack = make_attack(name, SMALL[name] | ({"colours": "no"} if name == "gan" else {}))
    # 18 pixels on a side: `tanaka` pads to 20.
    given = known(scheme, tiles[:48, :, :18, :18].contiguous(), tiles[100:140, :, :18, :18].contiguous())
    whole = attack.fit(given, CONDITIONS).reconstruct(given.protected)
    assert whole.shape == given.protected.shape and whole.dtype == torch.uint8
    parts = replace(CONDITIONS, folder=tmp_path)
    attack.fit(given, parts, stop_after=4)
    assert torch.equal(attack.fit(given, parts).reconstruct(given.protected), whole)
    other = attack.fit(given, replace(CONDITIONS, seed=1)).reconstruct(given.protected)
    assert not torch.equal(other, whole)


def test_block_positions_start_alike():
    filters = sia_generator(8, 12, 4, channels=8).layers[0].filters
    assert filters.weight.shape[0] == 6 and torch.equal(filters().std(dim=0), torch.zeros_like(filters.weight[0]))


@pytest.mark.parametrize(("alike", "same"), [(0.9, True), (0.5, False), (0.0, False)])
def test_block_positions_learn_alike_for_their_share(alike, same, tiles, tmp_path):
    attack = make_attack("sia-gan", SMALL["sia-gan"] | {"alike": alike})
    parts = replace(CONDITIONS, folder=tmp_path)
    attack.fit(known("none", tiles[:48], tiles[100:140]), parts, stop_after=5)  # of 6
    state = load_file(tmp_path / "checkpoint" / "state.safetensors")
    [weight] = [value for key, value in state.items() if key.endswith("generator.layers.0.filters.weight")]
    assert (weight.std(dim=0).max() < 1e-6) == same


def test_gradients_of_block_positions_are_their_mean(tiles):
    layer = sia_generator(8, 12, 4, channels=8).layers[0]
    layer(tiles[:5, :, :8, :12].float() / 255).square().sum().backward()
    own = [weight.grad.reshape(6, -1).clone() for weight in layer.parameters()]
    layer.average_gradients()
    for weight, gradients in zip(layer.parameters(), own, strict=True):
        assert gradients.std(dim=0).max() > 0
        assert torch.allclose(weight.grad.reshape(6, -1), gradients.mean(dim=0).expand_as(gradients))


def test_brightness_tells_a_negative_that_mean_images_do_not(tiles):
    # Bright ones are rare, as at night: squares of what was spread evenly.
    light = torch.rand(len(tiles), 1, 1, 1, generator=torch.Generator().manual_seed(0)).pow(3)
    shown = (tiles * light).to(torch.uint8)
    half, other = shown[::2], shown[1::2]
    assert skewed_otherwise(255 - half, other) and not skewed_otherwise(half, other)
    assert not skewed_otherwise(255 - half[:4], other)  # of four images it may be chance
    assert not skewed_otherwise(torch.full_like(half, 128), other)


@pytest.mark.parametrize("negative", [True, False])
def test_sia_gan_turns_a_generator_of_negatives_once(negative, tiles, monkeypatch):
    generator = sia_generator(32, 32, 4, channels=4)
    given = known("none", tiles[:64], tiles[64:128])
    before = to_images(generator.eval(), given.protected, CONDITIONS)
    monkeypatch.setattr(sia_gan, "skewed_otherwise", lambda guesses, plain: negative)
    turn_if_negative(generator, given, CONDITIONS)
    assert generator.training
    after = to_images(generator.eval(), given.protected, CONDITIONS)
    # A value between two bytes is rounded either way.
    assert ((255 - after if negative else after).int() - before.int()).abs().max() <= 1
    assert torch.equal(before, after) != negative


def test_sia_gan_looks_at_the_sign_before_some_steps(tiles, monkeypatch):
    looked: list[int] = []
    monkeypatch.setattr(sia_gan, "SIGN_STEPS", (1, 3, 60))
    monkeypatch.setattr(sia_gan, "turn_if_negative", lambda generator, *_: looked.append(len(seen)))
    seen: list[Tensor] = []
    monkeypatch.setattr(ClassReader, "losses", lambda own, guess, *_: seen.append(guess) or {})
    make_attack("sia-gan", SMALL["sia-gan"]).fit(known("none", tiles[:48], tiles[100:140]), CONDITIONS)
    assert len(seen) == 6 and looked == [1, 3]


def test_processes_turn_a_generator_alike(tiles, monkeypatch):
    """Each has batch statistics of its own share; the decision must not depend on them."""
    generators = [sia_generator(32, 32, 4, channels=4) for _ in range(2)]
    generators[1].load_state_dict(generators[0].state_dict())
    for generator, share in zip(generators, (tiles[:8], 255 - tiles[8:16]), strict=True):
        generator(share.float() / 255)
    buffers = [[buffer.clone() for buffer in one.buffers() if buffer.is_floating_point()] for one in generators]
    judged: list[Tensor] = []
    monkeypatch.setattr(sia_gan, "skewed_otherwise", lambda guesses, plain: judged.append(guesses) or True)
    for rank, generator in enumerate(generators):
        others = iter(buffers[1 - rank])
        monkeypatch.setattr(torch.distributed, "all_reduce", lambda buffer, others=others: buffer.add_(next(others)))
        here = replace(CONDITIONS, device=replace(CONDITIONS.device, rank=rank, world=2))
        turn_if_negative(generator, known("none", tiles[:64], tiles[64:128]), here)
    assert torch.equal(*judged)


def test_a_classifier_of_generated_images_sees_them_shifted(tiles, monkeypatch):
    """What a generator draws for it must hold wherever it lies, and be learned from."""
    given = known("none", tiles[:48], tiles[100:140])
    reader = ClassReader(given, CONDITIONS, 4)
    seen = []
    monkeypatch.setattr(reader, "loss", lambda images, labels: seen.append((images, labels)))
    chosen = torch.arange(16), torch.arange(20, 36)
    whole = given.plain[chosen[1]].float() / 255
    guess = whole.clone().requires_grad_()
    reader.losses(guess, whole, chosen, 0)
    (first, labels), (plain, plain_labels) = seen
    assert torch.equal(labels, given.labels[:16]) and torch.equal(plain_labels, given.plain_labels[20:36])
    first.sum().backward()
    assert guess.grad.abs().sum() > 0
    inside, steps = slice(SHIFT, -SHIFT), range(-SHIFT, SHIFT + 1)
    for view, image in zip(plain, whole, strict=True):
        moved = [turned.roll((y, x), (1, 2)) for turned in (image, image.flip(2)) for y in steps for x in steps]
        assert any(torch.equal(view[:, inside, inside], one[:, inside, inside]) for one in moved)
    assert not torch.equal(plain, whole) and not torch.equal(first, plain)
    reader.losses(guess, whole, chosen, 0)
    reader.losses(guess, whole, chosen, 1)
    assert torch.equal(seen[2][0], first) and not torch.equal(seen[4][0], first)


def test_labels_teach_the_unet_alone_at_first(tiles, tmp_path):
    given = known("random-conv", tiles[:64], tiles[100:180])
    values = {"epochs": 10, "batch": 32, "width": 4, "protected": 64}  # 20 steps
    before = weights_after(given, values, 1, tmp_path / "a")
    alone = weights_after(given, values, 2, tmp_path / "b")
    both = weights_after(given, values, 3, tmp_path / "c")
    assert {key.split(".")[0] for key in before} == {"generator", "discriminator", "classifier"}
    for key, value in before.items():
        if key.startswith("discriminator") and "left" not in key:
            assert torch.equal(alone[key], value) and not torch.equal(both[key], value)
    assert any(not torch.equal(alone[key], value) for key, value in before.items() if key.startswith("generator"))
    published = weights_after(given, values | {"labels": "no"}, 1, tmp_path / "d")
    unlabelled = weights_after(replace(given, labels=None), values, 1, tmp_path / "e")
    assert {key.split(".")[0] for key in published} == {"generator", "discriminator"}
    assert published.keys() == unlabelled.keys()
    assert all(torch.equal(value, unlabelled[key]) for key, value in published.items())
    blocks = weights_after(known("tanaka", tiles[:64], tiles[100:180]), values, 1, tmp_path / "f")
    assert {key.split(".")[0] for key in blocks} == {"generator", "discriminator"}
    with pytest.raises(UsageError, match="labels=some: use one of"):
        make_attack("gan", {"labels": "some"})


def test_a_record_says_whether_labels_taught_a_generator(tiles):
    def figure(name: str, scheme: str, **values) -> list[float | None]:
        """The figure `labels` with all labels, with those of the protected images alone, and with none."""
        labelled = known(scheme, tiles[:32], tiles[100:140])
        half = replace(labelled, plain_labels=None)
        attack = make_attack(name, SMALL[name] | {"epochs": 1, "protected": 32} | values)
        every = labelled, half, replace(half, labels=None)
        return [attack.fit(given, CONDITIONS).figures().get("labels") for given in every]

    # Without plain images nothing ties a class to how it looks.
    assert figure("sia-gan", "tanaka") == figure("gan", "random-conv") == [1, 0, 0]
    assert figure("gan", "random-conv", labels="no") == [0, 0, 0]
    assert figure("gan", "tanaka") == [None, None, None]
    asked = make_attack("gan", SMALL["gan"] | {"epochs": 1, "protected": 32, "labels": "yes"})
    for scheme in ("random-conv", "tanaka", "colour-order"):
        given = known(scheme, tiles[:32], tiles[100:140])
        assert asked.fit(given, CONDITIONS).figures()["labels"] == 1
        for lacking in ("labels", "plain_labels"):
            with pytest.raises(UsageError, match="labels=yes needs protected and plain images with labels"):
                asked.fit(replace(given, **{lacking: None}), CONDITIONS)


def test_rates_of_the_pixel_generator_fall(tiles, monkeypatch):
    rates: list[float] = []

    def noted(generator, discriminator, optimizers, *rest):
        rates.append(optimizers[0].param_groups[0]["lr"])
        assert optimizers[1].param_groups[0]["lr"] == rates[-1]
        return duel(generator, discriminator, optimizers, *rest)

    monkeypatch.setattr(gan, "duel", noted)
    values = {"epochs": 4, "batch": 32, "protected": 64, "rate": 1e-3}  # 8 steps
    pixels, blocks = (known(name, tiles[:64], tiles[100:180]) for name in ("colour-order", "tanaka"))
    make_attack("gan", values).fit(pixels, CONDITIONS)
    assert rates == pytest.approx([1e-3 * (1 + math.cos(math.pi * step / 8)) / 2 for step in range(8)])
    for given, more in ((pixels, {"falling": "no"}), (blocks, {})):
        rates.clear()
        make_attack("gan", values | more).fit(given, CONDITIONS)
        assert set(rates) == {1e-3}
    with pytest.raises(UsageError, match="falling=some: use one of"):
        make_attack("gan", {"falling": "some"})


def weights_after(given: Knowledge, values: dict, steps: int, folder) -> dict[str, Tensor]:
    """Weights of the networks of `gan` after some steps, by name."""
    make_attack("gan", values).fit(given, replace(CONDITIONS, folder=folder), stop_after=steps)
    state = load_file(folder / "checkpoint" / "state.safetensors")
    return {key.split("networks.")[1]: value for key, value in state.items() if "networks." in key}


def test_large_images_and_missing_labels(photograph):
    large = (
        photograph.unfold(1, 96, 96).unfold(2, 96, 96).permute(1, 2, 0, 3, 4).reshape(-1, 3, 96, 96)[:8].contiguous()
    )
    given = replace(known("none", large[:4], large[4:]), labels=None, plain_labels=None)
    for name in ("gan", "sia-gan", "unshared-weights"):
        attack = make_attack(name, SMALL[name] | {"epochs": 1, "batch": 4, "protected": 4})
        assert attack.fit(given, CONDITIONS).reconstruct(large[:2]).shape == (2, 3, 96, 96)


@pytest.mark.parametrize(("name", "scheme"), [("sia-gan", "tanaka"), ("gan", "random-conv"), ("gan", "tanaka")])
def test_a_step_has_two_images_of_either_kind(name, scheme, tiles):
    small = tiles[:, :, :16, :16].contiguous()
    attack = make_attack(name, SMALL[name] | {"epochs": 1, "protected": 2})
    block = 16 if (name, scheme) == ("gan", "tanaka") else None  # the whole image
    given = known(scheme, small[:2], small[2:4], block=block)
    assert attack.fit(given, CONDITIONS).reconstruct(given.protected).shape == (2, 3, 16, 16)
    one_protected = replace(given, protected=given.protected[:1], labels=given.labels[:1])
    one_plain = replace(given, plain=given.plain[:1], plain_labels=given.plain_labels[:1])
    for values, fewer in (({}, one_protected), ({}, one_plain), ({"batch": 1}, given), ({"protected": 1}, given)):
        with pytest.raises(UsageError, match=f"{name} needs at least two protected and two plain images a step"):
            replace(attack, **values).fit(fewer, CONDITIONS)
    # Two processes share every batch.
    with pytest.raises(UsageError, match="for every process"):
        Unpaired(given, 2, replace(CONDITIONS, device=replace(CONDITIONS.device, world=2))).require_two(name)


def test_few_or_large_images_get_as_many_steps_as_the_controls(tiles):
    def batches(number: int, side: int = 32, **options) -> Unpaired:
        images = torch.zeros(1, dtype=torch.uint8).expand(number, 3, side, side)
        return Unpaired(known("none", images, images), 64, CONDITIONS, **options)

    assert [batches(number).per_epoch for number in (10, 10_000, 25_000)] == [156, 156, 390]
    assert batches(900, most=256).per_epoch == 4 and batches(100, most=256).per_epoch == 4
    large = batches(900, side=96)
    assert (large.per_epoch, large.batch, batches(900, side=96, full=True).batch) == (156, 8, 64)
    assert make_attack("gan", preset="paper").full_batch and not make_attack("gan").full_batch
    # Every image is used before any is used again.
    few = batches(20)
    assert sorted(few.indices(0)[0].tolist()) == list(range(20))


def test_where_the_discriminator_looks(tiles):
    """As published it does not look at the lower and right border; against pixels and networks it does."""
    pixels, blocks = (PublicScheme(name="x", block=side, key_per_image=False) for side in (1, 4))
    for scheme, everywhere in ((blocks, False), (pixels, True), (NETWORK, True)):
        discriminator = make_attack("gan").make_discriminator(scheme)
        images = (tiles[:4] / 255).requires_grad_()
        scores = discriminator(images)
        assert scores.shape == ((4, 25) if everywhere else (4,))
        scores.sum().backward()
        seen = images.grad.abs().amax(dim=(0, 1)) > 0
        assert seen[:16, :16].any() and bool(seen[28:].any() or seen[:, 28:].any()) == everywhere
        assert make_attack("gan", {"places": "all"}).make_discriminator(scheme).everywhere
    # Every place counts alike, so that the loss stays on one scale.
    both = [constant_duel(tiles, everywhere) for everywhere in (False, True)]
    assert both[0] == pytest.approx(both[1])
    with pytest.raises(UsageError, match="places=some: use one of"):
        make_attack("gan", {"places": "some"})


def test_generators_are_chosen_by_what_is_published():
    attack = make_attack("gan")
    schemes = {block: PublicScheme(name="x", block=block, key_per_image=False) for block in (None, 1, 8)}
    assert isinstance(attack.make_generator(schemes[None]), UNet)
    assert attack.make_generator(schemes[1]).layers[0].kernel_size == (1, 1)
    assert attack.make_generator(schemes[8]).layers[0].kernel_size == (8, 8)
    assert make_attack("gan", {"generator": "block"}).make_generator(schemes[1]).layers[0].kernel_size == (4, 4)
    assert make_attack("gan", {"generator": "pixel"}).make_generator(schemes[8]).layers[0].kernel_size == (1, 1)


def test_wrong_values_are_one_sentence():
    with pytest.raises(UsageError, match="pixel, block, unet"):
        make_attack("gan", {"generator": "vae"})
    with pytest.raises(UsageError, match="0 or more"):
        make_attack("unshared-weights", {"hidden": -1})


def corner(tiles: Tensor) -> Tensor:
    """Four 8x8 views of every tile, uint8 (1024, 3, 8, 8)."""
    return torch.cat([tiles[:, :, y : y + 8, x : x + 8] for y in (0, 16) for x in (0, 16)]).contiguous()


@pytest.mark.parametrize("hidden", [0, 16])
def test_pairs_give_every_position_its_map(hidden, tiles):
    images = corner(tiles)[torch.randperm(1024, generator=torch.Generator().manual_seed(0))]
    scheme = SCHEMES["pixel-same"](KEY)
    given = known("pixel-same", images[:800], images[:8], threat="pairs")
    values = {"hidden": hidden, "batch": 32, "epochs": 20}
    found = make_attack("unshared-weights", values).fit(given, CONDITIONS)
    judged = images[800:]
    error = (found.reconstruct(scheme.protect(judged)).float() - judged.float()).square().mean()
    assert error < 0.05 * judged.float().var(dim=0).mean()


def test_a_pixel_generator_learns_how_bright_plain_images_are(tiles):
    # Dark pictures: their negatives are bright, which a discriminator sees at once.
    dark = tiles // 2
    given = replace(known("none", dark[:128], dark[128:], block=1), protected=255 - dark[:128])
    attack = make_attack("gan", {"epochs": 6, "batch": 16, "rate": 1e-3, "protected": 128})
    shown = attack.fit(given, CONDITIONS).reconstruct(255 - dark[:128]).float()
    errors = [(guess - dark[:128].float()).square().mean() for guess in (shown, 255 - dark[:128].float())]
    assert errors[0] < 0.3 * errors[1]


def test_mean_images_tell_a_negative(photograph):
    # Windows of one photograph, most of them brighter above than below.
    rows = torch.arange(0, 160, 8)
    windows = torch.stack([photograph[:, y : y + 32, x : x + 32] for y in rows for x in range(0, 320, 16)])
    slope = torch.linspace(40, -40, 32)[:, None]
    images = (windows.float() * 0.6 + 51 + slope).clamp(0, 255).byte()
    half, other = images[::2], images[1::2]
    assert is_negative(255 - half, other) and not is_negative(half, other)
    faint = (128 + (half.float() - 128) / 4).byte()
    assert is_negative(255 - faint, other) and not is_negative(faint, other)
    # The negative of a dark image is bright, whichever way its brightness runs.
    assert not is_negative(63 - half // 4, other // 4)
    # Where no picture shows in the mean, nothing is turned.
    assert not is_negative(half[torch.randperm(len(half))][..., torch.randperm(32), :], other)


class Negatives(nn.Module):
    def forward(self, images: Tensor) -> Tensor:
        return 1 - images


def test_what_a_generator_learned_as_negatives_is_turned(tiles):
    bright_above = (tiles.float() * 0.5 + 64 + torch.linspace(40, -40, 32)[:, None]).byte()
    given = known("none", bright_above[::2], bright_above[1::2])
    found = Generated(Negatives(), CONDITIONS, given)
    assert torch.equal(found.reconstruct(bright_above[:4]), bright_above[:4]) and found.figures() == {"negated": 1}
    # Pairs have settled it.
    found = Generated(Negatives(), CONDITIONS)
    assert torch.equal(found.reconstruct(bright_above[:4]), 255 - bright_above[:4]) and found.figures() == {}


class Tint(nn.Module):
    """Faint red and strong blue."""

    def forward(self, images: Tensor) -> Tensor:
        return images * torch.tensor([0.5, 1, 0.7]).view(3, 1, 1) + torch.tensor([0.2, 0, 0.3]).view(3, 1, 1)


def test_guesses_get_the_colours_of_plain_images(tiles):
    given = known("none", tiles[::2], tiles[1::2])
    kept, matched = (Generated(Tint(), CONDITIONS, given, colours=colours) for colours in (False, True))
    assert matched.figures() == {"negated": 0, "colours_matched": 1} and kept.figures()["colours_matched"] == 0
    judged = tiles[:8]
    errors = [(found.reconstruct(judged).float() - judged.float()).abs().mean() for found in (kept, matched)]
    assert errors[0] > 20 and errors[1] < 5
    # Negatives are turned first: bright above, dark below, as the plain ones.
    slope = (tiles.float() * 0.5 + 64 + torch.linspace(40, -40, 32)[:, None]).byte()
    found = Generated(Negatives(), CONDITIONS, known("none", slope, slope), colours=True)
    assert found.negative and torch.equal(found.reconstruct(slope[:4]), slope[:4])


def test_colours_are_transferred(tiles):
    half, other = tiles[::2], tiles[1::2]
    kept = ColourTransfer(half, half)(half)
    assert kept.dtype == torch.uint8 and kept.shape == half.shape and (kept.int() - half.int()).abs().max() <= 2
    # What was bent along a colour is straightened, and what was mixed between colours nearly so.
    bent = torch.stack([half[:, 0], half[:, 1] // 2 + 20, (half[:, 2].float() ** 2 / 255).byte()], dim=1)
    mixed = torch.einsum("oc,nchw->nohw", torch.tensor([[0.8, 0.2, 0], [0, 0.8, 0.2], [0.2, 0, 0.8]]), half.float())
    mixed = mixed.round().byte()
    for changed in (bent, mixed):
        back = ColourTransfer(changed, half)(changed)
        errors = [(images.float() - half.float()).square().mean() for images in (changed, back)]
        assert errors[1] < 0.25 * errors[0]
    # Of the other half of the photograph the whole distribution is taken over: along no axis are quantiles far apart.
    shown = ColourTransfer(mixed, other)(mixed)
    for number in (0, 50, 51):
        ours, theirs = (
            quantiles(images.permute(0, 2, 3, 1).reshape(-1, 3).float().numpy() @ turned_axes(number))[:, 50:-50]
            for images in (shown, other)
        )
        assert abs(ours - theirs).max() <= 8
    for number in range(3):
        axes = turned_axes(number)
        assert abs(axes @ axes.T - turned_axes(0)).max() < 1e-6


def test_only_guesses_for_pixels_get_plain_colours(tiles):
    pixels, blocks = (known(name, tiles[:64], tiles[100:180]) for name in ("colour-order", "tanaka"))
    for given, choice, wanted in ((pixels, "auto", 1), (pixels, "no", 0), (blocks, "auto", 0), (blocks, "yes", 1)):
        values = {"epochs": 1, "batch": 32, "protected": 64, "colours": choice}
        assert make_attack("gan", values).fit(given, CONDITIONS).figures()["colours_matched"] == wanted
    with pytest.raises(UsageError, match="colours=some: use one of"):
        make_attack("gan", {"colours": "some"})


# Controls


def test_a_target_is_read_off_the_peers_record():
    control = Control(attack="sia-gan", scheme="tanaka", metric="ssim", target=0.3, peer=("gan", 0.5))
    one = {"task": "control", "attack": "gan", "scheme": "tanaka", "data": "c", "preset": "quick"}
    records = [one | {"metrics": {"ssim": 0.9}}, one | {"metrics": {"ssim": 2.0}, "scheme": "extended"}]
    assert control.measured_by_peer(records, data="c", preset="quick").target == 0.45
    records[0]["metrics"]["ssim"] = 0.4
    assert control.measured_by_peer(records, data="c", preset="quick").target == 0.3
    for data, preset in (("d", "quick"), ("c", "paper")):
        with pytest.raises(UsageError, match="--only gan"):
            control.measured_by_peer(records, data=data, preset=preset)
    assert replace(control, peer=None).measured_by_peer([], data="c", preset="quick").target == 0.3


def test_a_figure_may_have_to_stay_below():
    control = Control(attack="x", scheme="y", metric="ssim", target=0.14, at_most=True)
    assert control.passed(0.139) and not control.passed(0.14)
    assert any(row.at_most for row in CONTROLS)
