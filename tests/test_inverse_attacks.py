"""The attacks that learn or search the way back: first layers, losses, resuming, and small real successes."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from imageveil.attacks import Conditions, Knowledge, inverse_network, make_attack
from imageveil.attacks.gradients import Search, total_variation
from imageveil.attacks.inverse_network import InverseNetwork, TrainingPairs, make_front
from imageveil.attacks.knowledge import Pairs, PublicScheme, protector
from imageveil.attacks.leaked_inverse import Stolen
from imageveil.attacks.learning import batch_for
from imageveil.attacks.losses import LOSSES, make_loss, sign_free, ssim
from imageveil.attacks.sdar import Decoded, Game, make_simulator
from imageveil.attacks.surrogates import own_scheme
from imageveil.errors import UsageError
from imageveil.images.augment import crop_and_flip
from imageveil.networks.reconstructors import (
    BlockFront,
    DenseFront,
    LabelFront,
    PositionFront,
    Reconstructor,
)
from imageveil.networks.sdar import ConvSimulator, LabelledCritic
from imageveil.networks.unet import UNet, UNetConfig
from imageveil.schemes import SCHEMES
from imageveil.training.device import Device

CPU = Device(torch=torch.device("cpu"), bf16=False)
TINY = {"widths": (8, 12), "batch": 16, "padding": 1}


def known(threat: str, scheme: str, plain: Tensor, **options) -> Knowledge:
    """What an attacker has of 32 protected squares."""
    made = SCHEMES[scheme](bytes(range(32))) if scheme != "blur" else SCHEMES[scheme]()
    labels = torch.arange(len(plain)) % 2
    given = {
        "pairs": {"known_pairs": Pairs(plain=plain, protected=protector(made)(plain))},
        "oracle": {"oracle": protector(made)},
        "gradients": {"oracle": protector(made), "transformation": getattr(made, "forward", None)},
    }
    return Knowledge(
        threat=threat,
        scheme=PublicScheme(name=scheme, block=getattr(made, "block", None), key_per_image=made.needs_ids),
        protected=made.protect(plain[:32], ids=[str(number) for number in range(32)]),
        labels=labels[:32],
        plain=plain,
        plain_labels=labels,
        **(given.get(threat, {}) | options),
    )


def shares_of_variance(guess: Tensor, plain: Tensor) -> float:
    error = (guess.float() - plain.float()).square().mean()
    return float(error / (plain.float() - plain.float().mean(dim=0)).square().mean())


# First layers


def test_a_step_costs_the_same_for_larger_images():
    assert batch_for(128, torch.empty(5, 3, 32, 32)) == 128 and batch_for(128, torch.empty(5, 3, 16, 16)) == 128
    assert batch_for(128, torch.empty(5, 3, 96, 96)) == 14 and batch_for(32, torch.empty(5, 3, 96, 96)) == 8
    assert batch_for(4, torch.empty(5, 3, 96, 96)) == 4


def test_block_front_is_the_same_small_network_for_every_block(tiles):
    torch.manual_seed(0)
    front = BlockFront(4, halves=True).eval()
    images = tiles[:2].float() / 255
    out = front(images)
    assert out.shape == (2, front.channels, 32, 32)
    for top, left in ((0, 0), (8, 20), (28, 28)):
        alone = front(images[:, :, top : top + 4, left : left + 4])
        assert torch.allclose(out[:, :, top : top + 4, left : left + 4], alone, atol=1e-5)
    changed = images.clone()
    changed[:, :, 5, 9] = 1 - changed[:, :, 5, 9]
    moved = (front(changed) - out).abs().amax(dim=(0, 1)) > 1e-6
    assert moved[4:8, 8:12].any()
    moved[4:8, 8:12] = False
    assert not moved.any()


def test_position_front_is_one_affine_map_a_pixel(tiles):
    torch.manual_seed(0)
    front = PositionFront((32, 32))
    torch.nn.init.normal_(front.weight)
    torch.nn.init.normal_(front.bias)
    images = tiles[:2].float() / 255
    out = front(images)
    for row, column in ((0, 0), (3, 17), (31, 31)):
        slow = torch.stack([front.weight[:, :, row, column] @ (image[:, row, column] - 0.5) for image in images])
        assert torch.allclose(out[:, :, row, column], slow + front.bias[:, row, column], atol=1e-5)


@pytest.mark.parametrize("name", ["extended", "compressible"])
def test_dense_front_undoes_keys_that_move_blocks(name, photograph):
    # 16x16 squares: fewer unknowns than images, as at 32x32 with some ten thousand.
    views = photograph.unfold(1, 16, 4).unfold(2, 16, 4).permute(1, 2, 0, 3, 4).reshape(-1, 3, 16, 16)
    picked = torch.randperm(len(views), generator=torch.Generator().manual_seed(0))[:3200]
    plain = views[picked].contiguous()
    protected = SCHEMES[name](bytes(32)).protect(plain)
    front = DenseFront((16, 16), halves=name == "extended")
    front.solve(protected[:3000], plain[:3000], ridge=1e-6)
    guess = front(protected[3000:].float() / 255) + 0.5
    assert shares_of_variance(guess * 255, plain[3000:]) < 0.02


def test_front_follows_from_the_algorithm():
    def front(name, size=(32, 32), block=4):
        return type(make_front("auto", PublicScheme(name=name, block=block, key_per_image=False), size)).__name__

    assert front("tanaka") == "BlockFront" and front("pixel-same", block=1) == "PositionFront"
    assert front("extended") == "DenseFront" and front("extended", (96, 96)) == "BlockFront"
    assert front("learned", block=None) == front("blur", block=None) == "FieldFront"
    scheme = PublicScheme(name="tanaka", block=4, key_per_image=False)
    for name, size in (("wide", (32, 32)), ("block", (30, 32)), ("dense", (96, 96))):
        with pytest.raises(UsageError, match="front"):
            make_front(name, scheme, size)
    # Without blocks there is no smaller one than `plain`.
    assert front("shuffle", (96, 96), block=None) == "FieldFront"
    for block, advised in ((4, "block"), (None, "plain")):
        with pytest.raises(UsageError, match=f"use front={advised}"):
            make_front("dense", replace(scheme, block=block), (96, 96))


@pytest.mark.parametrize("network", ["unet", "residual"])
@pytest.mark.parametrize("size", [(32, 32), (25, 27)])
def test_reconstructors_keep_the_size(network, size):
    front = make_front("field", PublicScheme(name="learned", block=None, key_per_image=False), size)
    out = Reconstructor(front, network=network, widths=(8, 12, 16))(torch.rand(2, 3, *size))
    assert out.shape == (2, 3, *size) and out.dtype == torch.float32
    labels = torch.tensor([0, 1])
    assert Reconstructor(LabelFront(size, 2), widths=(8, 12))(torch.rand(2, 3, *size), labels).shape == (2, 3, *size)
    assert LabelledCritic(2, width=8)(torch.rand(2, 3, *size), labels).shape == (2,)


def test_simulator_has_the_public_architecture(tiles):
    scheme = SCHEMES["random-conv"](bytes(32))
    simulator = ConvSimulator(scheme.widths, 0.2)
    # With the scheme's weights it is the scheme up to its scale.
    convolutions = [layer for layer in simulator.layers if isinstance(layer, torch.nn.Conv2d)]
    for layer, weight in zip(convolutions, scheme.weights, strict=True):
        layer.weight.data, layer.bias.data = weight.clone(), torch.zeros(len(weight))
    images = tiles[:4].float() / 255
    scaled = (simulator(images) - 0.5) * scheme.scale.view(3, 1, 1) + scheme.shift.view(3, 1, 1)
    shown = scaled.detach().round().clamp(0, 255)
    assert float((shown - scheme.protect(tiles[:4]).float()).abs().max()) <= 1
    given = known("recipe", "random-conv", tiles, recipe={})
    assert isinstance(make_simulator(given), ConvSimulator)
    learned = replace(given, scheme=replace(given.scheme, name="learned"))
    with pytest.raises(UsageError, match="architecture"):
        make_simulator(learned)
    shape = {"widths": [4, 8], "head": "contrast", "top_skip": True}
    simulator = make_simulator(replace(learned, recipe={"architecture": shape}))
    assert simulator.config == UNetConfig(widths=(4, 8), head="contrast")


@pytest.mark.parametrize("name", ["random-conv", "blur"])
def test_differentiable_controls_agree_with_their_images(name, tiles):
    scheme = SCHEMES[name](bytes(32)) if name == "random-conv" else SCHEMES[name]()
    images = (tiles[:4].float() / 255).requires_grad_()
    out = scheme.forward(images)
    assert float((out.detach() * 255 - scheme.protect(tiles[:4]).float()).abs().max()) < 0.51
    out.sum().backward()
    assert images.grad.abs().max() > 0


# Losses


def test_ssim_is_that_of_scikit_image(tiles):
    from skimage.metrics import structural_similarity

    other = F.avg_pool2d(tiles[:12].float(), 3, stride=1, padding=1).round().byte()
    ours = ssim(other.float() / 255, tiles[:12].float() / 255)
    theirs = [
        structural_similarity(a.numpy(), b.numpy(), channel_axis=0, data_range=255)
        for a, b in zip(tiles[:12], other, strict=True)
    ]
    assert np.allclose(ours.numpy(), theirs, atol=1e-4)


def test_sign_free_takes_an_image_or_its_negative(tiles):
    plain = tiles[:6].float() / 255
    guess = (0.7 * plain + 0.1).requires_grad_()
    mixed = torch.cat([guess[:3], 1 - guess[3:]])
    assert torch.allclose(sign_free(guess, plain), sign_free(1 - guess, plain))
    assert torch.allclose(sign_free(mixed, plain), sign_free(guess, plain))
    assert sign_free(guess, plain) <= F.mse_loss(guess, plain)
    assert float(sign_free(1 - plain, plain)) < 1e-12


def test_losses_are_least_at_the_image(tiles):
    plain = tiles[40:44].float() / 255
    for name in LOSSES:
        loss = make_loss(name, CPU)
        guess = (plain * 0.8).requires_grad_()
        worse = loss(guess, plain)
        worse.backward()
        assert float(loss(plain, plain)) < 1e-5 < float(worse.detach()) and guess.grad.abs().max() > 0
    with pytest.raises(UsageError, match="mse-ssim"):
        make_loss("huber", CPU)


# Training


@pytest.mark.parametrize("values", [{}, {"network": "residual", "loss": "mse-ssim"}], ids=["unet", "residual"])
def test_inverse_resumed_equals_uninterrupted(values, tiles, tmp_path):
    attack = make_attack("inverse-network", {"steps": 6, **TINY, **values}, preset="smoke")
    given = known("oracle", "random-conv", tiles[:48])
    whole = attack.fit(given, Conditions(device=CPU, folder=tmp_path / "whole"))
    attack.fit(given, Conditions(device=CPU, folder=tmp_path / "parts"), stop_after=4)
    resumed = attack.fit(given, Conditions(device=CPU, folder=tmp_path / "parts"))
    first, second = (found.reconstruct(given.protected) for found in (whole, resumed))
    assert first.dtype == torch.uint8 and first.shape == given.protected.shape
    assert torch.equal(first, second)
    assert whole.figures() == {"training_images": 48.0}
    other = attack.fit(given, Conditions(device=CPU, seed=1)).reconstruct(given.protected)
    assert not torch.equal(first, other)


def test_known_pairs_are_not_augmented_and_an_oracle_is_asked_again(tiles):
    asked = []

    def oracle(images, occasion):
        asked.append(images)
        return 255 - images

    given = known("oracle", "blur", tiles[:32], oracle=oracle)
    make_attack("inverse-network", {"steps": 6, "renew": 2, **TINY}, preset="smoke").fit(given, Conditions(device=CPU))
    # Six steps of 16 are three epochs of 32: two views.
    assert len(asked) == 2 and not torch.equal(asked[0], asked[1])
    fixed = TrainingPairs(known("pairs", "blur", tiles[:32]), None, seed=0, renew=1, padding=2)
    assert fixed.at(0) is fixed.at(3) and len(fixed) == 32
    with pytest.raises(UsageError, match="threat"):
        make_attack("inverse-network").fit(replace(given, threat="ciphertext"))


def test_resumed_equals_uninterrupted_where_every_image_has_a_key(tiles, tmp_path):
    attack = make_attack("inverse-network", {"steps": 12, "renew": 1, **TINY}, preset="smoke")
    whole = attack.fit(known("oracle", "pixel-different", tiles[:48]), Conditions(device=CPU))
    parts = Conditions(device=CPU, folder=tmp_path)
    # As after a kill, the rest has an oracle that was never asked. Three steps are an epoch.
    attack.fit(known("oracle", "pixel-different", tiles[:48]), parts, stop_after=4)
    resumed = attack.fit(known("oracle", "pixel-different", tiles[:48]), parts)
    assert torch.equal(whole.reconstruct(tiles[:8]), resumed.reconstruct(tiles[:8]))


def test_views_of_many_images_are_drawn_in_parts(tiles, monkeypatch):
    monkeypatch.setattr(inverse_network, "VIEW_PIXELS", 10 * 32 * 32)
    taken = []

    def watched(images, generator, **options):
        taken.append(len(images))
        return crop_and_flip(images, generator, **options)

    monkeypatch.setattr(inverse_network, "crop_and_flip", watched)
    pairs = TrainingPairs(known("oracle", "blur", tiles[:32]), protector(SCHEMES["none"]()), seed=0, renew=1, padding=2)
    first, second = pairs.at(0).plain, pairs.at(1).plain
    assert taken == [10, 10, 10, 2] * 2 and len(first) == 32 and not torch.equal(first, second)


def test_a_run_belongs_to_the_scheme_that_its_attacker_made(tiles, tmp_path):
    attack, folder = make_attack("inverse-network", {"steps": 2, **TINY}), Conditions(device=CPU, folder=tmp_path)
    given = known("recipe", "pixel-same", tiles[:32])
    SCHEMES["pixel-same"](bytes(32)).save(tmp_path / "one")
    SCHEMES["pixel-same"](bytes([1] * 32)).save(tmp_path / "two")
    first, other = (replace(given, recipe={"surrogate": str(tmp_path / name)}) for name in ("one", "two"))
    replace(attack, surrogate=(str(tmp_path / "one"),)).fit(given, folder)
    SCHEMES["pixel-same"](bytes([1] * 32)).save(tmp_path / "one")
    with pytest.raises(UsageError, match="given"):
        replace(attack, surrogate=(str(tmp_path / "one"),)).fit(given, folder)
    assert own_scheme(first, 0).digest == own_scheme(other, 0).digest != own_scheme(given, 0).digest
    negative, same = ({"surrogate": change} for change in (lambda x, *_: 255 - x, lambda x, *_: x))
    assert own_scheme(replace(given, recipe=negative), 0).digest != own_scheme(replace(given, recipe=same), 0).digest


def test_several_schemes_of_the_attackers_own_share_the_images(tiles):
    given = known("recipe", "pixel-same", tiles[:32])
    ways = [lambda x, *_: 255 - x, lambda x, *_: x, lambda x, *_: x.flip(-1)]
    own = own_scheme(replace(given, recipe={"surrogate": ways}), 0)
    images, dealt = tiles[:32], set()
    for occasion in ("views 0", "views 1", "views 2", "views 3", "views 4"):
        shown = own.oracle(images, occasion)
        took = [
            [torch.equal(one, way(image)) for way in ways].index(True) for one, image in zip(shown, images, strict=True)
        ]
        assert took == [(took[0] + at) % 3 for at in range(32)]
        dealt.add(took[0])
        assert torch.equal(own.oracle(images, occasion), shown)
    assert len(dealt) > 1  # an image does not stay with one scheme
    assert own.oracle(images[:2], "views 0").shape == (2, 3, 32, 32)
    assert own.digest != own_scheme(replace(given, recipe={"surrogate": ways[:2]}), 0).digest


def test_only_an_attacker_under_recipe_has_a_use_for_a_surrogate(tiles, tmp_path):
    SCHEMES["pixel-same"](bytes([1] * 32)).save(tmp_path / "own")
    values = {"surrogate": (str(tmp_path / "own"),)}
    attack = make_attack("inverse-network", {"steps": 1, **TINY, **values})
    attack.fit(known("recipe", "pixel-same", tiles[:32]), Conditions(device=CPU))
    for threat in ("pairs", "oracle"):
        with pytest.raises(UsageError, match=f"surrogate=.* is for the threat recipe, not {threat}"):
            attack.fit(known(threat, "pixel-same", tiles[:32]), Conditions(device=CPU))
    assert InverseNetwork.threats_against("pixel-same", values, {}) == ("recipe",)
    assert InverseNetwork.threats_against("pixel-same", {}, {}) == InverseNetwork.threats


def test_inverse_learns_position_keys(tiles):
    attack = make_attack("inverse-network", {"steps": 80, "lr": 1e-2, "widths": (8, 12), "batch": 64}, preset="smoke")
    given = known("pairs", "pixel-same", tiles[:192])
    scheme = SCHEMES["pixel-same"](bytes(range(32)))
    guess = attack.fit(given, Conditions(device=CPU)).reconstruct(scheme.protect(tiles[192:]))
    # The mean image is at 1, and the protected image itself at more.
    assert shares_of_variance(guess, tiles[192:]) < 0.7


def test_recipe_draws_a_key_of_its_own(tiles):
    given = known("recipe", "pixel-same", tiles[:32])
    own = own_scheme(given, 0).oracle
    assert torch.equal(own(tiles[:4]), own_scheme(given, 0).oracle(tiles[:4]))
    assert not torch.equal(own(tiles[:4]), own_scheme(given, 1).oracle(tiles[:4]))
    negative = own_scheme(replace(given, recipe={"surrogate": lambda x, *_: 255 - x}), 0)
    assert torch.equal(negative.oracle(tiles[:4]), 255 - tiles[:4])
    learned = replace(given, scheme=PublicScheme(name="learned", block=None, key_per_image=False))
    with pytest.raises(UsageError, match="surrogate"):
        own_scheme(learned, 0)
    public = own_scheme(replace(learned, recipe={"init": "gan-cifar10"}), 0)
    assert public.oracle(tiles[:2]).shape == (2, 3, 32, 32)


def test_sdar_resumes_and_takes_labels(tiles, tmp_path):
    weight = torch.randn(2, 3, generator=torch.Generator().manual_seed(0))
    given = known("recipe", "random-conv", tiles[:48], classifier=lambda x: x.mean(dim=(2, 3)) @ weight.T)
    attack = make_attack("sdar", {"steps": 5, **TINY}, preset="smoke")
    whole = attack.fit(given, Conditions(device=CPU, folder=tmp_path / "whole"))
    attack.fit(given, Conditions(device=CPU, folder=tmp_path / "parts"), stop_after=2)
    resumed = attack.fit(given, Conditions(device=CPU, folder=tmp_path / "parts"))
    first, second = (found.reconstruct(given.protected, given.labels) for found in (whole, resumed))
    assert torch.equal(first, second) and first.shape == given.protected.shape
    assert not torch.equal(first, whole.reconstruct(given.protected, 1 - given.labels))
    assert whole.reconstruct(given.protected[:3]).shape == (3, 3, 32, 32)
    with pytest.raises(UsageError, match="labels"):
        attack.fit(replace(given, labels=None))
    with pytest.raises(UsageError, match="labels of the same classes"):
        attack.fit(replace(given, plain_labels=None))


def test_the_decoder_of_sdar_normalises_as_protected_images_ask(tiles):
    given = known("recipe", "random-conv", tiles[:48], classifier=lambda x: x.mean(dim=(2, 3)))
    attack = make_attack("sdar", {"steps": 3, **TINY}, preset="smoke")
    decoder = attack.fit(given, Conditions(device=CPU)).decoder
    layer = next(module for module in decoder.modules() if isinstance(module, torch.nn.BatchNorm2d))
    seen: list[Tensor] = []
    with layer.register_forward_pre_hook(lambda _layer, inputs: seen.append(inputs[0])):
        decoder(given.protected[:48].float() / 255, given.labels[:48])
    assert torch.allclose(layer.running_mean, seen[0].mean(dim=(0, 2, 3)), atol=1e-5)
    spread = torch.stack([part.var(dim=(0, 2, 3)) for part in seen[0].split(16)]).mean(dim=0)
    assert torch.allclose(layer.running_var, spread, rtol=1e-4)


def test_a_step_of_sdar_moves_each_network_by_its_own_loss(tiles):
    given = known("recipe", "random-conv", tiles[:48], classifier=lambda x: x.mean(dim=(2, 3)))
    values = TINY | {"lambda1": 0.7, "lambda2": 0.3, "flips": 0.0, "padding": 0}
    game = Game(make_attack("sdar", values, preset="smoke"), given, Conditions(device=CPU))
    calls: dict[str, list[tuple[Tensor, Tensor]]] = {"protected_critic": [], "plain_critic": []}
    for name, judged in calls.items():

        def noted(_critic, inputs, scores, judged=judged):
            scores.retain_grad()
            judged.append((inputs[0].detach(), scores))

        game.networks[name].register_forward_hook(noted)
    losses = game.step(0)

    def are(images: Tensor, kept: Tensor) -> bool:
        """Whether each image is one of the kept ones, mirrored or not, up to the noise that hides their rounding."""
        both = torch.cat([kept, kept.flip(-1)]).float() / 255
        return all((both - image).abs().amax(dim=(1, 2, 3)).min() < 0.5 / 255 + 1e-6 for image in images)

    critics = 0.0
    for name, real, weight, loss in (
        ("protected_critic", given.protected, 0.7, losses["passed"]),
        ("plain_critic", given.plain, 0.3, losses["natural"]),
    ):
        # What simulator and decoder make has to pass for real; then the critic tells it from what is.
        (made, passing), (true, accepted), (same, rejected) = calls[name]
        assert torch.equal(made, same) and are(true, real) and not are(made, real)
        assert torch.allclose(passing.grad, -weight * torch.sigmoid(-passing) / len(made))
        assert torch.allclose(accepted.grad, -torch.sigmoid(-accepted) / len(true))
        assert torch.allclose(rejected.grad, torch.sigmoid(rejected) / len(made))
        assert loss.item() == pytest.approx(F.softplus(-passing).mean().item())
        critics += (F.softplus(-accepted).mean() + F.softplus(rejected).mean()).item() / 4
    assert losses["critics"].item() == pytest.approx(critics)


def test_sdar_knows_nothing_of_the_owners_seed(tiles):
    shape = {"widths": [4, 8, 8], "field": 2}
    torch.manual_seed(0)
    owners = UNet(UNetConfig(widths=(4, 8, 8), field=2)).state_dict()
    given = known("recipe", "random-conv", tiles[:32], classifier=lambda x: x.mean(dim=(2, 3)))
    learned = PublicScheme(name="learned", block=None, key_per_image=False)
    given = replace(given, scheme=learned, recipe={"architecture": shape})
    game = Game(make_attack("sdar", preset="smoke"), given, Conditions(seed=0, device=CPU))
    own = game.networks["simulator"].state_dict()
    drawn = [name for name, weight in owners.items() if weight.is_floating_point() and weight.std() > 0]
    assert len(drawn) > 3 and not any(torch.equal(owners[name], own[name]) for name in drawn)
    assert game.classes == 3  # the classifier's, of which the labels show two


def test_attacks_that_train_an_inverse_take_that_of_their_budget():
    for name in ("gradients", "leaked-inverse"):
        for budget in ("quick", "paper", "smoke"):
            there = InverseNetwork.in_budget(make_attack(name, preset=budget).inverse)
            assert there == make_attack("inverse-network", preset=budget)
        with pytest.raises(UsageError, match="no budget 'large'"):
            make_attack(name, {"inverse": "large"})


@pytest.mark.parametrize(
    ("attack", "values", "scheme", "size"),
    [
        ("gan", {}, "none", 12),
        ("sia-gan", {}, "none", 6),
        ("sia-gan", {}, "none", 8),  # with labels, of which its discriminator knows nothing
        ("unshared-weights", {}, "none", 12),
        ("inverse-network", {}, "none", 2),
        ("jigsaw", {}, "block-permute", 16),
    ],
)
def test_images_too_small_for_an_attack(attack, values, scheme, size, tiles):
    threat = "oracle" if attack == "inverse-network" else "ciphertext"
    given = known(threat, "random-conv", tiles[:32, :, :size, :size])
    given = replace(given, scheme=PublicScheme(name=scheme, block=1, key_per_image=False))
    with pytest.raises(UsageError, match="pixel"):
        make_attack(attack, values, preset="smoke").fit(given, Conditions(device=CPU))


def test_decoded_images_keep_their_labels_at_any_size():
    large = torch.zeros(70, 3, 96, 96, dtype=torch.uint8)
    labels = torch.arange(70)
    found = Decoded(lambda images, own: images + own.view(-1, 1, 1, 1) / 255, lambda x: x, Conditions(device=CPU))
    assert torch.equal(found.reconstruct(large, labels)[:, 0, 0, 0], labels.byte())


def test_leaked_inverse_needs_something_leaked(tiles, tmp_path):
    given = known("recipe", "random-conv", tiles[:32])
    given = replace(given, scheme=PublicScheme(name="learned", block=None, key_per_image=False))
    with pytest.raises(UsageError, match="public"):
        make_attack("leaked-inverse").fit(given)
    with pytest.raises(UsageError, match="stolen"):
        make_attack("leaked-inverse").fit(replace(given, threat="ciphertext"))
    with pytest.raises(UsageError, match=r"inverse\.safetensors"):
        Stolen(tmp_path, Conditions(device=CPU))


# Search


def test_gradients_find_what_a_convolution_hid(tiles):
    kernel = torch.tensor([[0.0, 0.1, 0.0], [0.1, 0.6, 0.1], [0.0, 0.1, 0.0]]).expand(3, 1, 3, 3)

    def blurred(images):
        return F.conv2d(F.pad(images, (1,) * 4, mode="replicate"), kernel, groups=3)

    given = known("gradients", "blur", tiles[:64], transformation=blurred)
    shown = (blurred(tiles[::32].float() / 255) * 255).round().byte()
    attack = make_attack("gradients", {"steps": 80, "variation": 1e-5}, preset="smoke")
    found = attack.fit(given, Conditions(device=CPU))
    guess = found.reconstruct(shown)
    assert shares_of_variance(guess, tiles[::32]) < 0.03 and guess.dtype == torch.uint8
    assert found.figures()["protected_error"] < 1e-4
    # An image's answer does not depend on those beside it.
    alone = found.reconstruct(shown[:1])
    assert int((alone.int() - guess[:1].int()).abs().max()) <= 2


def test_gradients_over_weights_and_from_a_start(tiles):
    given = known("gradients", "random-conv", tiles[:32])
    for values in ({"prior": "network", "steps": 4}, {"start": "inverse", "steps": 2}):
        found = make_attack("gradients", values, preset="smoke").fit(given, Conditions(device=CPU))
        first, second = (found.reconstruct(given.protected[:3]) for _ in range(2))
        assert torch.equal(first, second) and first.shape == (3, 3, 32, 32)
    with pytest.raises(UsageError, match="start"):
        make_attack("gradients", {"prior": "network", "start": "inverse"})


@pytest.mark.parametrize("values", [{"prior": "network", "steps": 4}, {"batch": 6, "steps": 5}])
def test_search_resumed_equals_uninterrupted(values, tiles, tmp_path, capsys):
    given = known("gradients", "random-conv", tiles[:32])
    attack = make_attack("gradients", values, preset="smoke")
    conditions = Conditions(device=CPU, folder=tmp_path / "parts")
    whole = attack.fit(given, Conditions(device=CPU))
    answer = whole.reconstruct(given.protected[:10])
    # Twice: in the midst of the second batch, and at the end of it.
    midst = attack.steps + 2
    first = Search(attack, given, None, conditions, stop_after=midst).reconstruct(given.protected[:10])
    rows = 8 if "prior" in values else 6
    assert torch.equal(first[:rows], answer[:rows]) and not first[rows:].any()
    [folder] = (tmp_path / "parts").iterdir()
    assert (tmp_path / "parts").stat().st_mode & 0o077 == 0
    Search(attack, given, None, conditions, stop_after=attack.steps - 2).reconstruct(given.protected[:10])
    lines = [json.loads(line)["step"] for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert lines == list(range(1, 2 * attack.steps + 1))
    resumed = attack.fit(given, conditions)
    assert torch.equal(resumed.reconstruct(given.protected[:10]), answer)
    assert resumed.figures() == whole.figures() and resumed.seconds_before >= 0
    # A finished search is read back, with what it took.
    capsys.readouterr()
    again = attack.fit(given, conditions)
    assert torch.equal(again.reconstruct(given.protected[:10]), answer) and again.figures() == whole.figures()
    assert again.seconds_before == json.loads((folder / "results.json").read_text())["seconds"] > 0
    assert capsys.readouterr().err == ""
    # Other images are another search, and other values of it are refused.
    assert again.reconstruct(given.protected[:3]).shape == (3, 3, 32, 32)
    assert len(list((tmp_path / "parts").iterdir())) == 2
    with pytest.raises(UsageError, match="variation"):
        replace(attack, variation=1.0).fit(given, conditions).reconstruct(given.protected[:10])


def test_gradients_start_from_an_inverse_network_that_was_trained_before(tiles, tmp_path):
    given = known("gradients", "random-conv", tiles[:32])
    before = Conditions(seed=3, device=CPU, folder=tmp_path / "before")
    inverse = make_attack("inverse-network", TINY | {"steps": 3}).fit(
        known("oracle", "random-conv", tiles[:32]), before
    )
    attack = make_attack("gradients", {"start": "inverse", "steps": 1}, preset="smoke")
    trained = {"inverse-network": tmp_path / "before", "gan": tmp_path}
    found = attack.fit(given, Conditions(device=CPU, folder=tmp_path / "own", trained=trained))
    assert torch.equal(found.first.reconstruct(given.protected), inverse.reconstruct(given.protected))
    assert not (tmp_path / "own").exists()
    # Nor is it repeated in the account of time.
    assert found.seconds_before == json.loads((tmp_path / "before" / "results.json").read_text())["seconds"] > 0
    # Another attacker's network is left alone.
    stranger = replace(given, protected=255 - given.protected)
    assert attack.fit(stranger, Conditions(device=CPU, trained=trained)).seconds_before == 0
    # One that is not finished is no use: another is trained.
    (tmp_path / "before" / "results.json").unlink()
    found = attack.fit(given, Conditions(device=CPU, folder=tmp_path / "own", trained=trained))
    assert (tmp_path / "own" / "results.json").is_file()
    assert not torch.equal(found.first.reconstruct(given.protected), inverse.reconstruct(given.protected))


def test_total_variation():
    images = torch.zeros(2, 3, 4, 4)
    images[1, :, 2:] = 1
    assert torch.allclose(total_variation(images), torch.tensor([0.0, 1 / 3]))


# Confirmation


def test_trained_matcher_sees_through_noise(tiles):
    generator = torch.Generator().manual_seed(0)

    def noisy(images, occasion=""):
        noise = 40 * torch.randn(images.shape, generator=generator)
        return (255 - images.float() + noise).round().clamp(0, 255).byte()

    given = known("oracle", "blur", tiles[:224], oracle=noisy)
    values = {"matcher": "trained", "steps": 60, "lr": 3e-3, "batch": 64, "renew": 1, "widths": (8, 16, 32)}
    found = make_attack("confirmation", values, preset="smoke").fit(given, Conditions(device=CPU))
    scores = found.scores(noisy(tiles[224:]), tiles[224:])
    assert scores.shape == (32, 32)
    assert float((scores.argmax(dim=1) == torch.arange(32)).float().mean()) > 0.2


def test_values_that_cannot_be_are_refused():
    for name, values in (
        ("inverse-network", {"network": "vit"}),
        ("inverse-network", {"steps": 0}),
        ("gradients", {"prior": "text"}),
        ("gradients", {"start": "noise"}),
        ("sdar", {"flips": 2.0}),
        ("confirmation", {"matcher": "eye"}),
    ):
        with pytest.raises(UsageError):
            make_attack(name, values)
