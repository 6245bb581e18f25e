"""Trainers: the same seed gives the same numbers, a resumed run equals an uninterrupted one, processes agree."""

import copy
import errno
import json
import os
import shutil
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from imageveil.audit.accuracy import classify
from imageveil.errors import RunError, UsageError
from imageveil.images.arrays import ImageArrays
from imageveil.networks.feature_extractor import FeatureExtractor
from imageveil.networks.unet import EncoderClassifier, UNet, UNetConfig, block_contrast
from imageveil.networks.vgg import QuickNet
from imageveil.presets import CLASSIFIER_PRESETS, TRANSFORMATION_PRESETS, TransformationConfig, choose
from imageveil.processor import this_processor
from imageveil.schemes import SCHEMES, load_scheme
from imageveil.training.classifier import (
    Protection,
    build_classifier,
    load_classifier,
    predict,
    save_classifier,
    train_classifier,
)
from imageveil.training.device import Device, open_device
from imageveil.training.loop import epoch_batches, run_steps, step_generator
from imageveil.training.objectives import viewer_scores
from imageveil.training.optimizers import build_optimizers, orthogonalise, schedule, set_rates
from imageveil.training.pipeline import balanced_subset, train_scheme
from imageveil.training.preliminary import preliminary_protection
from imageveil.training.run_directory import RunDirectory, flatten_state, unflatten_state, write_tensors
from imageveil.training.seeds import own_field
from imageveil.training.transformation import (
    Ingredients,
    TransformationTrainer,
    forward_shape,
    train_transformation,
)

CPU = Device(torch=torch.device("cpu"), bf16=False)
# A fifth of the run for the average, so that there is one in so few steps.
CLASSIFIER = replace(CLASSIFIER_PRESETS["smoke"](), epochs=2, batch=32, averaging=0.2)
TRANSFORMATION = TRANSFORMATION_PRESETS["smoke"]()
PLAIN = {"gamma1": 0, "gamma2": 0, "gamma3": 0, "lambda_": 0, "two_way": False, "joint": 0, "distil": 0}
"""Leaves the transformation and a viewer."""


@pytest.fixture
def data(tiles) -> ImageArrays:
    """The squares of the astronaut, labelled by the quarter of the photograph they come from."""
    row, column = torch.arange(256) // 16, torch.arange(256) % 16
    labels = 2 * (row // 8) + column // 8
    keys = [f"{index:03d}" for index in range(256)]
    return ImageArrays(name="quarters", images=tiles, labels=labels, classes=["a", "b", "c", "d"], keys=keys)


def weights(network: torch.nn.Module) -> torch.Tensor:
    return torch.cat([value.flatten().float() for value in network.state_dict().values()])


def test_classifier_learns_and_a_seed_decides_everything(data):
    first, _ = train_classifier(data, replace(CLASSIFIER, epochs=4), seed=1, device=CPU)
    again, _ = train_classifier(data, replace(CLASSIFIER, epochs=4), seed=1, device=CPU)
    other, _ = train_classifier(data, replace(CLASSIFIER, epochs=4), seed=2, device=CPU)
    assert torch.equal(weights(first), weights(again))
    assert not torch.equal(weights(first), weights(other))
    right = (first(data.images.float() / 255).argmax(1) == data.labels).float().mean()
    assert right > 0.4  # chance is 0.25


@pytest.mark.parametrize("alternate", [True, False])
def test_two_epochs_show_both_sides_of_every_image(data, alternate):
    mirrored = {key: image.flip(-1) for key, image in zip(data.keys, data.images, strict=True)}
    lopsided = (data.images != data.images.flip(-1)).flatten(1).any(dim=1)
    sides: dict[str, list[bool]] = {key: [] for key in data.keys}

    def watch(images, keys, generator):
        for view, key in zip(images, keys, strict=True):
            if generator is not None and len(keys) == 32:  # not the sample that whitens
                sides[key].append(torch.equal(view, mirrored[key]))
        return images

    config = replace(CLASSIFIER, padding=0, alternate=alternate)
    train_classifier(data, config, seed=0, device=CPU, protection=Protection(protect=watch))
    shown = torch.tensor(list(sides.values()))[lopsided]
    assert shown.shape[0] > 200 and shown.shape[1] == 2 and 0.35 < shown[:, 0].float().mean() < 0.65
    both = (shown[:, 0] != shown[:, 1]).float().mean()
    assert both == 1 if alternate else 0.3 < both < 0.7


def test_resumed_classifier_equals_an_uninterrupted_one(data, tmp_path):
    whole, _ = train_classifier(data, CLASSIFIER, seed=0, device=CPU)
    run = RunDirectory(tmp_path / "run", {}, CPU)
    train_classifier(data, CLASSIFIER, seed=0, device=CPU, run=run, stop_after=5)
    assert (tmp_path / "run" / "checkpoint" / "state.safetensors").is_file()
    resumed, _ = train_classifier(data, CLASSIFIER, seed=0, device=CPU, run=RunDirectory(tmp_path / "run", {}, CPU))
    assert torch.equal(weights(whole), weights(resumed))


def test_a_run_continued_in_another_precision_names_both(tmp_path):
    other = replace(CPU, bf16=True)
    run = RunDirectory(tmp_path / "run", {}, CPU)
    run.save(1, 0.0, {})
    run = RunDirectory(tmp_path / "run", {}, other)
    run.load()
    run.save(2, 0.0, {})
    again = RunDirectory(tmp_path / "run", {}, other)
    assert again.kind == other.kind
    again.load()
    assert again.kind == ", then ".join(dict.fromkeys([CPU.kind, other.kind]))


def test_protecting_once_is_part_of_the_time(data):
    def protect(images, keys, generator):
        time.sleep(0.5)
        return images

    few = data.subset(torch.arange(8))
    protection = Protection(protect=protect, live=False)
    config = replace(CLASSIFIER, epochs=1, width=1 / 64)
    _, timing = train_classifier(few, config, seed=0, device=CPU, protection=protection)
    assert timing["seconds"] > timing["protect_seconds"] > 0.5


def test_three_steps_resume_and_leave_a_scheme(data, tmp_path):
    def train(out, images=data, config=TRANSFORMATION, **options):
        return train_scheme(
            images, out, preset="smoke", config=config, classifier_config=CLASSIFIER, seed=0, device=CPU, **options
        )

    whole = train(tmp_path / "whole", test=data)
    interrupted = train(tmp_path / "interrupted", test=data)
    (tmp_path / "interrupted" / "scheme.safetensors").unlink()
    (tmp_path / "interrupted" / "transformation" / "config.json").rename(tmp_path / "config.json")
    for other in (replace(TRANSFORMATION, widths=(4, 8, 16)), replace(TRANSFORMATION, field=2)):
        with pytest.raises(UsageError, match="other settings"):
            train(tmp_path / "interrupted", config=other, test=data)
    (tmp_path / "config.json").rename(tmp_path / "interrupted" / "transformation" / "config.json")
    again = train(tmp_path / "interrupted", test=data)  # classifier, P and encoder are reused, the last step is redone
    images = data.images[:16]
    protected = load_scheme(whole).protect(images)
    assert torch.equal(protected, load_scheme(interrupted).protect(images))
    assert torch.equal(protected, load_scheme(again).protect(images))
    assert protected.shape == images.shape and not torch.equal(protected, images)
    summary = load_scheme(whole).training
    assert summary["data"] == "quarters" and summary["transformation"]["steps"] == TRANSFORMATION.steps
    with pytest.raises(UsageError, match="is finished and called 'whole'; --name mine"):
        train(tmp_path / "whole", test=data, name="mine")
    # The inverse generator stays in the run directory.
    assert (tmp_path / "whole" / "inverse.safetensors").stat().st_mode & 0o077 == 0
    assert not any("backward" in name for name in load_scheme(whole).state()[0])
    # h_theta from a file gives what training it in place gave.
    theta = tmp_path / "whole" / "classifier" / "classifier.safetensors"
    # Test images without labels, as many published sets have them, say nothing and stop nothing.
    given = train(tmp_path / "given", test=replace(data, labels=None), classifier_file=theta)
    assert torch.equal(load_scheme(given).protect(images), protected)
    small = r"classifier\.safetensors needs images of at least 16x16 pixels, not 8x8"
    for name, other, message in (
        ("other", replace(data, classes=list("wxyz")), "classes"),
        ("small", replace(data, images=data.images[:, :, :8, :8]), small),
    ):
        with pytest.raises(UsageError, match=message):
            train_scheme(
                other,
                tmp_path / name,
                preset="smoke",
                config=TRANSFORMATION,
                classifier_config=CLASSIFIER,
                seed=0,
                device=CPU,
                classifier_file=theta,
            )
    # An owner's own scheme starts from another one and becomes different.
    own = train(tmp_path / "own", init=str(whole))
    assert not torch.equal(load_scheme(own).protect(images), protected)
    # Its shape is that of the other: what asks for another one is refused, and so are terms that do not go together.
    with pytest.raises(UsageError, match=r"widths=\(4, 8, 16\) is not that of the scheme to continue from"):
        train(tmp_path / "shape", config=replace(TRANSFORMATION, widths=(4, 8, 16)), init=str(whole))
    with pytest.raises(UsageError, match="distil needs the features of a plain classifier"):
        train(tmp_path / "cold", config=replace(TRANSFORMATION, warm_epochs=0))
    # A file is known by its content: another one under the same name is refused, the same one elsewhere is not.
    shutil.copy(whole, tmp_path / "copy.safetensors")
    assert train(tmp_path / "own", init=str(tmp_path / "copy.safetensors")) == own
    shutil.copy(own, tmp_path / "copy.safetensors")
    with pytest.raises(UsageError, match=r"other settings \(init\)"):
        train(tmp_path / "own", init=str(tmp_path / "copy.safetensors"))
    network, classes = load_classifier(theta)
    network.head.weight.data *= 2
    save_classifier(theta, network, CLASSIFIER, classes)
    with pytest.raises(UsageError, match=r"other settings \(classifier\)"):
        train(tmp_path / "given", test=data, classifier_file=theta)
    with pytest.raises(UsageError, match=r"other settings \(images_sha256\)"):
        train(tmp_path / "whole", images=replace(data, images=255 - data.images))


def test_without_a_seed_everyone_gets_a_scheme_of_their_own(data, tmp_path):
    few = data.subset(torch.arange(0, 256, 8))
    config = replace(TRANSFORMATION, **PLAIN, steps=2, warm_epochs=0)

    def train(out: str, seed: int | None = None, **options) -> UNet:
        path = train_scheme(
            few, tmp_path / out, preset="smoke", config=config, classifier_config=CLASSIFIER, seed=seed, device=CPU,
            **options,
        )  # fmt: skip
        return load_scheme(path).network

    first, other = train("first"), train("other")
    assert not torch.equal(first.encoder.field, other.encoder.field)
    secret = tmp_path / "first" / "seed"
    assert secret.stat().st_mode & 0o077 == 0 and len(bytes.fromhex(secret.read_text())) == 32
    # The file of the scheme does not say it; the same call in the same directory takes it up again.
    scheme = tmp_path / "first" / "scheme.safetensors"
    assert load_scheme(scheme).training["seed"] is None
    number = str(int(secret.read_text(), 16)).encode()
    for path in tmp_path.glob("first/**/*"):
        if path.is_file() and path != secret:
            content = path.read_bytes()
            assert number not in content and secret.read_bytes().strip() not in content
    scheme.unlink()
    assert torch.equal(weights(train("first")), weights(first))
    with pytest.raises(UsageError, match=r"other settings \(seed\)"):
        train("first", seed=0)
    secret.unlink()
    with pytest.raises(UsageError, match=r"other settings \(seed\)"):
        train("first")
    secret.write_text("0f")
    with pytest.raises(RunError, match="seed is damaged"):
        train("first")
    # The owner's field of a continued scheme, too, and one seed gives one scheme.
    public = str(tmp_path / "other" / "scheme.safetensors")
    mine, yours = (train(out, init=public) for out in ("mine", "yours"))
    assert not torch.equal(mine.encoder.field, yours.encoder.field)
    seeded = [weights(train(out, seed=1, init=public)) for out in ("a", "b")]
    assert torch.equal(*seeded)


def test_a_drawn_seed_is_spent_in_full():
    # torch's generator takes the low 32 bits of a seed, and these two differ in the highest.
    one, two = (1 << 255) + 5, (1 << 254) + 5
    for draw in (
        lambda seed: own_field(seed, 1),
        lambda seed: torch.rand(8, generator=step_generator(seed, 0)),
        lambda seed: epoch_batches(100, 100, seed, 0, CPU),
    ):
        assert torch.equal(draw(one), draw(one)) and not torch.equal(draw(one), draw(two))
    field = own_field(one, 2)
    assert field.shape == (2, 64, 64) and field.abs().max() <= 1
    assert abs(field.mean()) < 0.03 and field.var() == pytest.approx(1 / 3, abs=0.02)


@pytest.mark.parametrize("name", sorted(set(TRANSFORMATION_PRESETS) - {"paper"}))
def test_every_preset_takes_a_finite_step(name, data):
    torch.manual_seed(0)
    config = replace(
        TRANSFORMATION_PRESETS[name](), batch=8, steps=2, widths=(4, 8, 8, 8), backward_widths=(4, 8, 8, 8)
    )
    encoder = EncoderClassifier(forward_shape(config), 4)
    plain = build_classifier(CLASSIFIER, 4)
    given = Ingredients(
        data=data, classifier=plain, preliminary=data.images[:16], origin=torch.arange(16), encoder=encoder
    )
    trainer = TransformationTrainer(given, config, seed=0, device=CPU)
    before = weights(trainer.networks["forward"])
    values = trainer.step(0)
    assert all(torch.isfinite(value) for value in values.values())
    assert not torch.equal(before, weights(trainer.networks["forward"]))
    # What is frozen stays as it was.
    again = build_classifier(CLASSIFIER, 4)
    again.load_state_dict(plain.state_dict())
    trainer.step(1)
    assert torch.equal(weights(plain), weights(again))


def ingredients(data: ImageArrays, config: TransformationConfig) -> Ingredients:
    """The same frozen networks at every call, and squares of one corner for P."""
    torch.manual_seed(7)
    classifier, encoder = build_classifier(CLASSIFIER, 4), EncoderClassifier(forward_shape(config), 4)
    return Ingredients(
        data=data, classifier=classifier, preliminary=255 - data.images[:64], origin=torch.arange(64), encoder=encoder
    )


def test_resumed_transformation_equals_an_uninterrupted_one(data, tmp_path):
    def train(path: Path, **options) -> TransformationTrainer:
        run = RunDirectory(path, {}, CPU)
        given = ingredients(data, TRANSFORMATION)
        return train_transformation(given, TRANSFORMATION, seed=0, device=CPU, run=run, **options)[0]

    whole = train(tmp_path / "whole")
    train(tmp_path / "run", stop_after=2)
    assert (tmp_path / "run" / "checkpoint" / "state.safetensors").is_file()
    resumed = train(tmp_path / "run")
    assert set(resumed.networks) == {"forward", "backward", "viewer", "joint", "F_A", "F_B"}
    for name, network in resumed.networks.items():
        assert torch.equal(weights(network), weights(whole.networks[name])), name


def test_a_step_goes_down_eq4_and_the_discriminators_down_theirs(data):
    """One step of plain gradient descent, against the equations written out for the same images."""
    config = replace(
        TRANSFORMATION_PRESETS["literal"](), batch=8, steps=4, widths=(4, 8, 8), backward_widths=(4, 8, 8),
        discriminator_width=4,
    )  # fmt: skip
    trainer = TransformationTrainer(ingredients(data, config), config, seed=0, device=CPU)
    before = copy.deepcopy(trainer.networks)
    judges = [p for name in ("F_A", "F_B") for p in trainer.networks[name].parameters()]
    trainer.optimizers = [torch.optim.SGD(group, lr=1.0) for group in (trainer.makers, judges)]
    x, y, _ = trainer._plain_batch(0, step_generator(0, 0))
    of_p = epoch_batches(64, 8, 1, 0, CPU)
    x_p, origin, y_p = (255 - data.images[of_p]).float() / 255, data.images[of_p].float() / 255, data.labels[of_p]
    trainer.step(0)

    g_ab, g_ba, f_a, f_b = (before[name] for name in ("forward", "backward", "F_A", "F_B"))
    h_theta, features = trainer.classifier, FeatureExtractor()
    there, back = g_ab(x), g_ba(x_p)
    entropy = torch.nn.functional.cross_entropy
    loss = 0.4 * (f_a(back) - 1).square().mean() + 0.4 * (f_b(there) - 1).square().mean()
    loss = loss - (features(there) - features(x)).square().mean() - (features(back) - features(origin)).square().mean()
    loss = loss + 0.4 * (entropy(h_theta(there), y) + entropy(h_theta(back), y_p))
    loss = loss + 0.9 * ((g_ba(there) - x).square().mean() + (g_ab(back) - x_p).square().mean())
    judged = sum(
        0.5 * ((judge(real) - 1).square().mean() + judge(made.detach()).square().mean())
        for judge, real, made in ((f_a, x, back), (f_b, x_p, there))
    )
    for names, value in ((("forward", "backward"), loss), (("F_A", "F_B"), judged)):
        for name in names:
            old, new = list(before[name].parameters()), list(trainer.networks[name].parameters())
            for one, other, gradient in zip(old, new, torch.autograd.grad(value, old, retain_graph=True), strict=True):
                assert torch.allclose(one - other, gradient, rtol=1e-2, atol=1e-4 * float(gradient.abs().max()) + 1e-6)


def test_a_generator_of_both_cycles_normalises_by_what_it_is_used_on(data):
    trainer, _ = train_transformation(ingredients(data, TRANSFORMATION), TRANSFORMATION, seed=0, device=CPU)
    forward = trainer.networks["forward"].eval()
    for name, shown in (("forward", lambda x: x), ("backward", forward)):
        network = copy.deepcopy(trainer.networks[name]).train()
        norm, means = network.encoder.stem[1], []
        norm.momentum = 1.0  # the running mean is that of the batch
        with torch.no_grad():
            for x in torch.split(data.images.float() / 255, TRANSFORMATION.batch):
                network(shown(x))
                means.append(norm.running_mean.clone())
        measured = trainer.networks[name].encoder.stem[1].running_mean
        assert torch.allclose(measured, torch.stack(means).mean(dim=0), atol=1e-5)


def test_a_missing_ingredient_is_named(data):
    with pytest.raises(UsageError, match="h_theta"):
        TransformationTrainer(Ingredients(data=data), TRANSFORMATION_PRESETS["transform"](), seed=0, device=CPU)
    with pytest.raises(UsageError, match="preliminary"):
        config = replace(TRANSFORMATION_PRESETS["literal"](), gamma2=0.0)
        TransformationTrainer(Ingredients(data=data), config, seed=0, device=CPU)


def test_images_too_small_for_the_discriminators_are_one_sentence(data):
    given = Ingredients(data=data, preliminary=data.images, origin=torch.arange(256))
    config = replace(TRANSFORMATION, **{**PLAIN, "lambda_": 1.0}, batch=4)
    TransformationTrainer(given, replace(config, discriminator_strided=3), seed=0, device=CPU).step(0)
    with pytest.raises(UsageError, match="discriminator_strided=4 needs images of at least 48x48 pixels, not 32x32"):
        TransformationTrainer(given, replace(config, discriminator_strided=4), seed=0, device=CPU)


def test_the_viewer_descends_what_the_transformation_ascends(data):
    """One pass gives both: the viewer's gradient lowers its error, the transformation's raises it."""
    config = replace(TRANSFORMATION, **PLAIN)
    trainer = TransformationTrainer(Ingredients(data=data), config, seed=0, device=CPU)
    viewer = trainer.networks["viewer"].eval()
    x = data.images[:8].float() / 255
    shown = (0.5 + 0.3 * x).requires_grad_()

    def error() -> torch.Tensor:
        scores = viewer_scores(viewer(shown), x, trainer.mean_image)
        return scores.image.clamp(max=1e9) + scores.outlines.clamp(max=1e9)

    trainer.config = replace(config, viewer_bound=1e9)
    surrogate = trainer._hidden(x, shown, {})
    surrogate.backward()
    (direct,) = torch.autograd.grad(error(), shown)
    assert torch.allclose(shown.grad, -direct, atol=1e-6)
    parameter = viewer.head[0].weight
    (expected,) = torch.autograd.grad(error(), parameter)
    assert torch.allclose(parameter.grad, expected, atol=1e-6)


def test_preliminary_protection_makes_the_classifier_certain(data):
    # As h_theta does, this network averages its last maps. A narrow QuickNet takes their maximum and may have no
    # gradient left on noise, so that whether it can be made certain differs between processors.
    recipe = replace(CLASSIFIER, network="resnet18", optimizer="sgd", averaging=0.0)
    network, _ = train_classifier(data, recipe, seed=0, device=CPU)
    config = replace(TRANSFORMATION.preliminary, iterations=50, eps=1.0, alpha=0.1)
    few = data.subset(balanced_subset(data.labels, 32))
    protected, share = preliminary_protection(network, few, config, seed=0, device=CPU)
    assert share > 0.9  # the short training got fewer than half of the plain images right
    assert protected.dtype == torch.uint8 and protected.shape == few.images.shape
    small, _ = preliminary_protection(network, few, replace(config, eps=0.1), seed=0, device=CPU)
    assert (small.int() - few.images.int()).abs().max() <= 26  # 0.1 of the range, and rounding


def test_resumed_preliminary_protection_equals_an_uninterrupted_one(data, tmp_path):
    config = replace(TRANSFORMATION.preliminary, batch=10)

    def protect(path: Path, **options) -> tuple[torch.Tensor, float]:
        torch.manual_seed(0)
        network, few = build_classifier(CLASSIFIER, 4), data.subset(torch.arange(35))
        run = RunDirectory(path, {}, CPU)
        return preliminary_protection(network, few, config, seed=0, device=CPU, run=run, **options)

    whole, share = protect(tmp_path / "whole")
    partial, _ = protect(tmp_path / "run", stop_after=2)
    assert partial[:20].any() and not partial[20:].any()
    again, same = protect(tmp_path / "run")
    assert torch.equal(whole, again) and share == same


def test_balanced_subset_takes_every_class_as_often(data):
    picked = balanced_subset(data.labels, 40)
    assert torch.bincount(data.labels[picked]).tolist() == [10, 10, 10, 10]
    assert torch.equal(picked, picked.sort().values)


def test_block_contrast_leaves_no_brightness_and_no_contrast(tiles):
    out = block_contrast(tiles[:8].float(), deviation=0.1)
    blocks = out.unfold(2, 4, 4).unfold(3, 4, 4)
    assert torch.allclose(blocks.mean(dim=(4, 5)), torch.tensor(0.5), atol=1e-3)
    luminance = (out * torch.tensor([0.299, 0.587, 0.114]).view(1, 3, 1, 1)).sum(dim=1)
    spread = luminance.unfold(1, 4, 4).unfold(2, 4, 4).std(dim=(3, 4), correction=0)
    assert torch.allclose(spread, spread.mean(), rtol=0.05)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("shape", [(16, 40), (40, 16), (24, 24)])
def test_orthogonalise_brings_singular_values_near_one(shape, dtype):
    matrix = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    values = torch.linalg.svdvals(orthogonalise(matrix, steps=5, dtype=dtype).float())
    assert values.max() < 1.3 and values.median() > 0.6


def test_epochs_visit_every_image_once_and_processes_share_them():
    two = [Device(torch=CPU.torch, bf16=False, rank=rank, world=2) for rank in range(2)]
    seen = torch.cat([epoch_batches(60, 20, 0, step, device) for step in range(3) for device in two])
    assert torch.equal(seen.sort().values, torch.arange(60))
    alone = epoch_batches(60, 20, 0, 1, CPU)
    assert torch.equal(alone.sort().values, torch.cat([epoch_batches(60, 20, 0, 1, d) for d in two]).sort().values)
    assert not torch.equal(epoch_batches(60, 20, 0, 0, CPU), epoch_batches(60, 20, 0, 3, CPU))


def test_state_survives_flattening():
    state = {
        "a": [torch.arange(3), {"b": 2.5, "c": None}],
        "optimizer": {0: {"step": torch.tensor(1.0)}},
        "d": (1, "x"),
    }
    tensors, plain = flatten_state(state)
    back = unflatten_state(tensors, json.loads(json.dumps(plain)))
    assert torch.equal(back["a"][0], torch.arange(3)) and back["a"][1] == {"b": 2.5, "c": None}
    assert torch.equal(back["optimizer"][0]["step"], torch.tensor(1.0)) and back["d"] == [1, "x"]


def test_run_directory_refuses_other_settings(tmp_path):
    RunDirectory(tmp_path, {"lr": 1.0}, CPU)
    with pytest.raises(UsageError, match=r"other settings \(lr\)"):
        RunDirectory(tmp_path, {"lr": 2.0}, CPU)


def counted(run: RunDirectory, *, stop_after: int | None = None, total: int = 3) -> None:
    """A run of some steps that learns nothing."""
    run_steps(
        title="test", total=total, batch=1, step_fn=lambda step: {"loss": torch.tensor(float(step))},
        state=lambda: {"weight": torch.ones(2)}, restore=lambda saved: saved["weight"],
        run=run, device=CPU, stop_after=stop_after,
    )  # fmt: skip


def logged(folder: Path) -> list[int]:
    return [json.loads(line)["step"] for line in (folder / "metrics.jsonl").read_text().splitlines()]


def test_run_directory_is_its_owners(tmp_path):
    run = RunDirectory(tmp_path / "new" / "run", {}, CPU)
    counted(run, stop_after=2)
    for path in (run.path, run.checkpoint.parent, run.checkpoint):
        assert path.stat().st_mode & 0o077 == 0


def test_a_log_holds_every_step_once(tmp_path):
    run = RunDirectory(tmp_path, {}, CPU)
    counted(run)
    counted(run)  # as after a kill before the first checkpoint
    assert logged(tmp_path) == [1, 2, 3]
    counted(run, stop_after=2)
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 3, "lo')  # as after a kill in the middle of a line
    counted(run)
    assert logged(tmp_path) == [1, 2, 3]


@pytest.mark.parametrize("harm", ["cut", "empty", "foreign", "unfit"])
def test_a_damaged_checkpoint_is_one_sentence(tmp_path, harm):
    run = RunDirectory(tmp_path, {}, CPU)
    counted(run, stop_after=2)
    if harm == "cut":
        run.checkpoint.write_bytes(run.checkpoint.read_bytes()[:-8])
    elif harm == "empty":
        run.checkpoint.write_bytes(b"")
    elif harm == "foreign":
        write_tensors(run.checkpoint, {"weight": torch.ones(2)})
    else:
        run.save(2, 1.0, {"run": {}, "sums": {}})
    with pytest.raises(RunError, match=r"state\.safetensors is damaged; delete it"):
        counted(run)
    run.checkpoint.unlink()
    counted(run)
    assert logged(tmp_path) == [1, 2, 3]


@pytest.mark.parametrize("name", ["config.json", "results.json"])
def test_damaged_json_is_one_sentence(tmp_path, name):
    RunDirectory(tmp_path, {}, CPU)
    (tmp_path / name).write_text('{"lr"')
    with pytest.raises(RunError, match=f"{name} is damaged"):
        print(RunDirectory(tmp_path, {}, CPU).results)


def test_what_cannot_be_written_is_one_sentence(tmp_path, monkeypatch):
    run = RunDirectory(tmp_path / "run", {}, CPU)
    (tmp_path / "run" / "checkpoint").write_text("a file where a folder belongs")
    with pytest.raises(RunError, match=r"cannot write \S*checkpoint"):
        run.save(1, 1.0, {})
    (tmp_path / "run" / "checkpoint").unlink()
    for name, write in (("metrics.jsonl", run.log), ("results.json", run.finish)):
        (tmp_path / "run" / name).mkdir()
        with pytest.raises(RunError, match="cannot write"):
            write({})
    (tmp_path / "file").write_text("")
    with pytest.raises(RunError, match="cannot write"):
        RunDirectory(tmp_path / "file" / "run", {}, CPU)

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    network = build_classifier(CLASSIFIER, 4)
    save_classifier(tmp_path / "classifier", network, CLASSIFIER, list("abcd"))
    before = (tmp_path / "classifier").read_bytes()
    monkeypatch.setattr(os, "fsync", full)
    for write in (
        lambda: run.save(1, 1.0, {"run": {"weight": torch.ones(2)}}),
        lambda: save_classifier(tmp_path / "classifier", network, CLASSIFIER, list("wxyz")),
    ):
        with pytest.raises(RunError, match="No space left"):
            write()
    assert (tmp_path / "classifier").read_bytes() == before and not (tmp_path / "classifier.tmp").exists()


def test_the_number_of_processes_belongs_to_the_settings(tmp_path):
    two = replace(CPU, world=2)
    RunDirectory(tmp_path / "one", {}, CPU)
    assert json.loads((tmp_path / "one" / "config.json").read_text()) == {}
    RunDirectory(tmp_path / "two", {}, two)
    RunDirectory(tmp_path / "two", {}, two)
    for folder, device in (("one", two), ("two", CPU)):
        with pytest.raises(UsageError, match=r"other settings \(world\)"):
            RunDirectory(tmp_path / folder, {}, device)


def test_a_diverged_run_says_so(tmp_path):
    with pytest.raises(RunError, match="diverged at step 1"):
        run_steps(
            title="test", total=3, batch=1, step_fn=lambda step: {"loss": torch.tensor(float("nan"))},
            state=dict, restore=lambda _: None, run=None, device=CPU,
        )  # fmt: skip


@pytest.mark.parametrize("name", ["quick", "vgg13", "resnet18"])
def test_classifiers_survive_saving_and_take_larger_images(name, tmp_path, tiles, photograph):
    torch.manual_seed(0)
    config = replace(CLASSIFIER, network=name, width=0.25)
    network = build_classifier(config, 7).eval()
    save_classifier(tmp_path / "c.safetensors", network, config, list("abcdefg"))
    again, classes = load_classifier(tmp_path / "c.safetensors")
    assert classes == list("abcdefg")
    assert torch.allclose(network(tiles[:4] / 255), again(tiles[:4] / 255), atol=0.02)
    assert again(photograph[None, :, :96, :96] / 255).shape == (1, 7)


def test_every_weight_is_learned_once_and_none_shrinks_faster_for_a_larger_rate():
    config = replace(CLASSIFIER_PRESETS["quick"](), width=0.25)
    network = build_classifier(config, 10)
    filters, rest = build_optimizers(network, config)
    groups = [*filters.param_groups, *rest.param_groups]
    learned = [id(p) for p in network.parameters() if p.requires_grad]
    assert sorted(id(p) for group in groups for p in group["params"]) == sorted(learned)
    rates = {id(p): group["lr"] for group in rest.param_groups for p in group["params"]}
    assert rates[id(network.head.weight)] == config.head_lr
    assert rates[id(network.blocks[0][2].bias)] == rates[id(network.whitening.bias)] == config.shift_lr
    for group in rest.param_groups:
        assert group["lr"] * group["weight_decay"] == pytest.approx(config.weight_decay)
    # The whitening layer's shifts stand still after their share of the run.
    expected = {0.0: (1.0, 1.0), 0.2: (1 - 0.2 / 0.375, 0.8), 0.375: (0.0, 0.625), 0.9: (0.0, 0.1)}
    for progress, (whitening, others) in expected.items():
        set_rates([filters, rest], "linear", progress)
        for group in groups:
            factor = whitening if "share" in group else others
            assert group["lr"] == pytest.approx(group["initial_lr"] * factor)
    assert sum("share" in group for group in groups) == 1


def test_quick_net_starts_by_passing_on_what_it_is_given(tiles):
    network = build_classifier(CLASSIFIER, 4).eval()
    network.whiten(tiles.float() / 255)
    whitened = torch.relu(network.whitening(network.normalise(tiles[:4].float() / 255)))
    first = network.blocks[0][0](whitened)
    passed = min(first.shape[1], whitened.shape[1])
    assert torch.equal(first[:, :passed], whitened[:, :passed])
    assert not any(m.weight.requires_grad for m in network.modules() if isinstance(m, torch.nn.BatchNorm2d))


@pytest.mark.parametrize("in_order", [True, False])
def test_statistics_of_some_images_come_from_all_classes_of_a_sorted_folder(data, monkeypatch, in_order):
    order = data.labels.sort(stable=True).indices if in_order else torch.arange(256)
    some = data.subset(order)
    expected = torch.arange(8) * 32 if in_order else torch.arange(8)
    monkeypatch.setattr("imageveil.training.transformation.SAMPLE", 8)
    monkeypatch.setattr("imageveil.training.classifier.WHITENING_IMAGES", 8)
    trainer = TransformationTrainer(Ingredients(data=some), replace(TRANSFORMATION, **PLAIN), seed=0, device=CPU)
    mean = some.images[expected].float().mean(dim=0, keepdim=True) / 255
    assert torch.equal(trainer.mean_image, mean)
    seen = []
    monkeypatch.setattr(QuickNet, "whiten", lambda _, images: seen.append(images))
    protection = Protection(protect=lambda images, keys, generator: 255 - images)
    train_classifier(some, CLASSIFIER, seed=0, device=CPU, stop_after=1, protection=protection)
    assert torch.equal(seen[0], (255 - some.images[expected]).float() / 255)


def test_the_average_spans_a_share_of_the_run(data):
    last, _ = train_classifier(data, replace(CLASSIFIER, averaging=0.0), seed=0, device=CPU)
    # A sixteenth of sixteen steps is the last one alone.
    for share, same in ((1 / 16, True), (0.2, False)):
        averaged, _ = train_classifier(data, replace(CLASSIFIER, averaging=share), seed=0, device=CPU)
        assert torch.equal(weights(averaged), weights(last)) == same


def test_schedules_follow_their_definitions():
    assert [schedule("steps", at) for at in (0.0, 0.3, 0.6, 0.8)] == pytest.approx([1, 0.2, 0.04, 0.008])
    assert schedule("linear", 0.25) == 0.75 and schedule("cosine", 0.5) == pytest.approx(0.5)
    assert schedule("one-cycle", 0.1) == 0.5 and schedule("one-cycle", 0.6) == pytest.approx(0.5)


@pytest.mark.parametrize("wrong", ["epochs=many", "nothing=1", "epochs", "epochs.few=1"])
def test_wrong_overrides_are_one_sentence(wrong):
    with pytest.raises(UsageError) as error:
        choose(CLASSIFIER_PRESETS, "quick", [wrong])
    assert "\n" not in str(error.value) and "--set" in str(error.value)


def test_overrides_are_checked_and_converted():
    config = choose(TRANSFORMATION_PRESETS, "quick", ["widths=8,16,16", "gamma1=-0.5"])
    assert config.widths == (8, 16, 16) and config.gamma1 == -0.5
    config = choose(TRANSFORMATION_PRESETS, "paper", ["preliminary.eps=0.25"])
    assert config.preliminary == replace(TRANSFORMATION_PRESETS["paper"]().preliminary, eps=0.25)
    with pytest.raises(UsageError, match=r"^--set preliminary.eps"):
        choose(TRANSFORMATION_PRESETS, "paper", ["preliminary.eps=much"])


@pytest.mark.parametrize(
    ("presets", "wrong", "words"),
    [
        (CLASSIFIER_PRESETS, "batch=0", "greater than or equal to 1"),
        (CLASSIFIER_PRESETS, "epochs=0", "greater than or equal to 1"),
        (CLASSIFIER_PRESETS, "lr=nan", "finite"),
        (CLASSIFIER_PRESETS, "head_lr=0", "greater than 0"),
        (CLASSIFIER_PRESETS, "momentum=0", "greater than 0"),
        (CLASSIFIER_PRESETS, "whitening_share=0", "greater than 0"),
        (CLASSIFIER_PRESETS, "width=0", "greater than or equal to 0.015625"),
        (CLASSIFIER_PRESETS, "padding=-1", "greater than or equal to 0"),
        (CLASSIFIER_PRESETS, "network=vgg16", "'quick', 'vgg13' or 'resnet18'"),
        (CLASSIFIER_PRESETS, "optimizer=adam", "'muon' or 'sgd'"),
        (CLASSIFIER_PRESETS, "schedule=sometimes", "'linear', 'one-cycle', 'cosine' or 'steps'"),
        (TRANSFORMATION_PRESETS, "steps=0", "greater than or equal to 1"),
        (TRANSFORMATION_PRESETS, "zoom=1", "less than 1"),
        (TRANSFORMATION_PRESETS, "head=sigmod", "'sigmoid', 'contrast' or 'linear'"),
        (TRANSFORMATION_PRESETS, "widths=8", "at least 2 items"),
        (TRANSFORMATION_PRESETS, "viewer_widths=8,0", "greater than or equal to 1"),
        (TRANSFORMATION_PRESETS, "gamma1=inf", "finite"),
        (TRANSFORMATION_PRESETS, "viewer=-1", "greater than or equal to 0"),
    ],
)
def test_values_out_of_range_are_one_sentence(presets, wrong, words):
    with pytest.raises(UsageError, match=f"^--set {wrong.partition('=')[0]}") as error:
        choose(presets, "quick", [wrong])
    assert words in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize("presets", [CLASSIFIER_PRESETS, TRANSFORMATION_PRESETS])
def test_presets_keep_to_their_ranges(presets):
    for name, preset in presets.items():
        assert choose(presets, name) == preset()


def test_heads_of_networks(tiles):
    with pytest.raises(UsageError, match="unknown head 'sigmod'"):
        UNet(UNetConfig(head="sigmod"))
    # Two levels make cells of two pixels, and contrast needs whole blocks of four.
    network = UNet(UNetConfig(widths=(4, 8), head="contrast")).eval()
    assert network(tiles[:1, :, :27, :30] / 255).shape == (1, 3, 27, 30)


def test_some_image_of_a_small_batch_keeps_its_label(data):
    config = replace(TRANSFORMATION, **{**PLAIN, "joint": 1.0}, batch=2, zoom=0.9)
    values = TransformationTrainer(Ingredients(data=data), config, seed=0, device=CPU).step(0)
    assert all(torch.isfinite(value) for value in values.values())


@pytest.mark.parametrize(("network", "size"), [("quick", 16), ("vgg13", 32)])
def test_images_too_small_for_a_network_are_one_sentence(data, network, size):
    config = replace(CLASSIFIER, network=network, epochs=1, averaging=0.0, width=0.125)

    def train(side: int, protection: Protection | None = None, **options) -> None:
        small = replace(data.subset(torch.arange(4)), images=data.images[:4, :, :side, :side])
        train_classifier(small, replace(config, **options), seed=0, device=CPU, protection=protection, stop_after=1)

    with pytest.raises(UsageError, match=f"'{network}' needs images of at least {size}x{size} pixels, not {size - 1}x"):
        train(size - 1)
    train(size)
    # What counts is the image that the network sees.
    scheme = SCHEMES["block-shuffle"](bytes(32), block=8)
    for live in (True, False):
        train(size - 1, Protection(protect=lambda images, keys, _: scheme.protect(images, ids=keys), live=live))
    with pytest.raises(UsageError, match=f"padding={size} needs images of at least {size + 1}x"):
        train(size, padding=size)


DISTRIBUTED = """
import sys
from pathlib import Path
import torch
from imageveil.images.arrays import ImageArrays
from imageveil.presets import CLASSIFIER_PRESETS, TRANSFORMATION_PRESETS
from imageveil.training.device import average_buffers, average_gradients, leave_processes, open_device
from imageveil.training.pipeline import train_scheme
from imageveil.training.transformation import Ingredients, TransformationTrainer, train_transformation
from imageveil.attacks import Conditions, make_attack
from imageveil.audit.attack import build_knowledge
from imageveil.schemes import SCHEMES
from dataclasses import replace

torch.set_num_threads(1)
device = open_device("cpu", precision="float32")
# Gradients of halves, averaged, are the gradient of the whole.
model = device.place(torch.nn.Linear(3, 1))
x = torch.arange(24.0).view(8, 3)
model(x[device.rank::device.world]).square().mean().backward()
average_gradients(device, model.parameters())
whole = torch.nn.Linear(3, 1)
whole.load_state_dict(model.state_dict())
whole(x).square().mean().backward()
assert torch.allclose(model.weight.grad, whole.weight.grad, rtol=1e-4), (model.weight.grad, whole.weight.grad)
# Two steps of a transformation leave the same weights everywhere.
images = torch.randint(0, 256, (32, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
data = ImageArrays(name="x", images=images, labels=torch.arange(32) % 4, classes=list("abcd"), keys=[""] * 32)
config = replace(TRANSFORMATION_PRESETS["smoke"](), gamma1=0.0, gamma2=0.0, lambda_=0.4, two_way=True, distil=0.0)
given = Ingredients(data=data, preliminary=images.flip(0), origin=torch.arange(31, -1, -1))
trainer = TransformationTrainer(given, config, seed=device.rank, device=device)
trainer.seed = 0
for step in range(2):
    trainer.step(step)
mine = torch.cat([p.detach().flatten() for n in trainer.networks.values() for p in n.parameters()])
all_of_them = [torch.empty_like(mine) for _ in range(device.world)]
torch.distributed.all_gather(all_of_them, mine)
assert torch.equal(all_of_them[0], all_of_them[1])
# Each has statistics of its own share; what is judged has those of all.
network = torch.nn.BatchNorm2d(3)
network.running_mean.fill_(float(device.rank))
average_buffers(device, network)
assert torch.equal(network.running_mean, torch.full((3,), 0.5)) and network.num_batches_tracked == 0
# So does a finished transformation, whose file is there for every process when training returns.
trainer, _ = train_transformation(given, config, seed=0, device=device)
statistics = torch.cat([b.float().flatten() for n in trainer.networks.values() for b in n.buffers()])
torch.distributed.all_gather(all_of_them := [torch.empty_like(statistics) for _ in range(2)], statistics)
assert torch.equal(all_of_them[0], all_of_them[1])
recipe = replace(CLASSIFIER_PRESETS["smoke"](), epochs=1)
path = train_scheme(data, Path(sys.argv[1]), preset="smoke", config=config, classifier_config=recipe, seed=0,
                    device=device)
assert path.is_file()
# So does an attack, and process 0 writes its networks.
known = build_knowledge("pairs", SCHEMES["pixel-same"](bytes(32)), data, pairs=16)
attack = make_attack("unshared-weights", {"epochs": 2, "batch": 8})
found = attack.fit(known, Conditions(device=device, folder=Path(sys.argv[1]) / "attack"))
mine = torch.cat([weight.detach().flatten() for weight in found.generator.parameters()])
torch.distributed.all_gather(all_of_them := [torch.empty_like(mine) for _ in range(2)], mine)
assert torch.equal(all_of_them[0], all_of_them[1])
print("agreed")
leave_processes()
raise SystemExit("still here")
"""


def test_two_processes_agree(tmp_path):
    script = tmp_path / "two.py"
    script.write_text(DISTRIBUTED)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    command += [str(script), str(tmp_path / "run")]
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=240, env={**os.environ, "OMP_NUM_THREADS": "1"}
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.count("agreed") == 2


def test_bf16_agrees_with_float32_within_a_few_percent(data):
    torch.manual_seed(0)
    network = build_classifier(CLASSIFIER, 4).eval()
    exact = network(data.images[:32].float() / 255)
    with Device(torch=torch.device("cpu"), bf16=True).autocast():
        fast = network(data.images[:32].float() / 255).float()
    assert (fast - exact).abs().max() < 0.05 * exact.abs().max()


@pytest.mark.parametrize(
    ("vendor", "flags", "expected"),
    [
        ("GenuineIntel", "avx512f avx512_bf16 amx_bf16", "AMX"),
        ("GenuineIntel", "avx512f avx512_bf16", None),
        ("AuthenticAMD", "avx512f avx512_bf16", "AVX512-BF16"),
        ("AuthenticAMD", "avx2", None),
    ],
)
def test_bf16_is_the_fast_path_of_some_processors(tmp_path, vendor, flags, expected):
    cpuinfo = tmp_path / "cpuinfo"
    cpuinfo.write_text(
        f"processor\t: 0\nvendor_id\t: {vendor}\nmodel name\t: X\nflags\t\t: fpu {flags}\n\nprocessor\t: 1\n"
    )
    found = this_processor(cpuinfo)
    assert (found.model, found.bf16) == ("X", expected)
    assert this_processor(tmp_path / "none").bf16 is None


def test_precision_and_device_names_are_checked():
    with pytest.raises(UsageError, match="unknown device"):
        open_device("tpu")
    with pytest.raises(UsageError, match="unknown precision"):
        open_device("cpu", precision="int8")


@pytest.mark.skipif(not Path("/lib64/ld-linux-x86-64.so.2").exists(), reason="needs glibc")
def test_freed_memory_is_kept_and_used_again():
    """A tensor takes the pages of a larger one that was freed: the kernel has none to clear."""
    script = (
        "import resource, torch; from imageveil.training.device import keep_freed_memory\n"
        "def faults(): return resource.getrusage(resource.RUSAGE_SELF).ru_minflt\n"
        "assert keep_freed_memory()\n"
        "torch.ones(80_000_000, dtype=torch.uint8)\n"
        "start = faults(); torch.ones(40_000_000, dtype=torch.uint8)\n"
        "print(faults() - start)"
    )
    out = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert int(out.stdout) < 1000


def test_a_finished_run_is_judged_again_alike_and_only_for_the_same_scheme_and_images(data, tmp_path, monkeypatch):
    config = replace(CLASSIFIER, epochs=1)
    judged = []

    def watch(network, *args, **options):
        judged.append(weights(network))
        return predict(network, *args, **options)

    monkeypatch.setattr("imageveil.audit.accuracy.predict", watch)

    def judge(images: ImageArrays, key: bytes):
        scheme = SCHEMES["block-shuffle"](key)
        options = {"preset": "smoke", "augment": "live", "seed": 0, "device": CPU, "run_path": tmp_path / "run"}
        return classify(images, images, config=config, scheme=scheme, **options)

    first = judge(data, bytes(32))
    with monkeypatch.context() as patch:
        # What is repeated elsewhere was not trained there.
        patch.setattr(Device, "kind", "another processor")
        again = judge(data, bytes(32))
    assert torch.equal(judged[0], judged[1]) and first["metrics"] == again["metrics"]
    assert first["device"] == again["device"] == CPU.kind
    with pytest.raises(UsageError, match=r"other settings \(scheme_sha256\)"):
        judge(data, bytes(range(32)))
    for other in (replace(data, images=255 - data.images), replace(data, labels=data.labels.flip(0))):
        with pytest.raises(UsageError, match=r"other settings \(images_sha256\)"):
            judge(other, bytes(32))


def test_recipes_are_chosen_on_images_that_training_has_not_seen(data, capsys):
    options = {"preset": "smoke", "scheme": None, "augment": "live", "seed": 0, "device": CPU}
    # The test images are not asked: these have no labels.
    unlabelled = replace(data, labels=None)
    found = classify(data, unlabelled, config=replace(CLASSIFIER, epochs=1), held_back=56, **options)
    assert found["data"] == "quarters-held-back" and found["n"] == 56
    assert "quarters-held-back" in capsys.readouterr().out
    for number in (1, 255):
        with pytest.raises(UsageError, match=f"cannot hold {number} of the 256 images"):
            classify(data, unlabelled, config=CLASSIFIER, held_back=number, **options)
