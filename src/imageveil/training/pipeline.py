"""`imageveil train`: the three steps to a scheme, each in its own run directory, each resumable.

(a) h_theta, a classifier of plain images; (b) P, the preliminary protected images; (c) the transformation network.
A preset that starts warm has a fourth: the encoder, trained as a plain classifier.
"""

import hashlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import nn

from imageveil.errors import UsageError
from imageveil.images.arrays import ImageArrays
from imageveil.networks.unet import EncoderClassifier, UNetConfig
from imageveil.presets import TRANSFORMATION_PRESETS, ClassifierConfig, TransformationConfig, as_json
from imageveil.schemes.base import read_scheme_file, resolve_scheme
from imageveil.schemes.learned import LearnedScheme
from imageveil.training.classifier import (
    accuracy,
    load_classifier,
    predict,
    save_classifier,
    smallest_image,
    train_classifier,
)
from imageveil.training.device import Device
from imageveil.training.identity import file_digest, images_digest
from imageveil.training.loop import require_size, seed_weights
from imageveil.training.preliminary import preliminary_protection
from imageveil.training.run_directory import RunDirectory, private_folder, write_tensors, writing
from imageveil.training.seeds import kept_seed, own_field
from imageveil.training.transformation import Ingredients, train_transformation


def train_scheme(
    data: ImageArrays,
    out: Path,
    *,
    preset: str,
    config: TransformationConfig,
    classifier_config: ClassifierConfig,
    seed: int | None,
    device: Device,
    test: ImageArrays | None = None,
    init: str | None = None,
    name: str | None = None,
    classifier_file: Path | None = None,
) -> Path:
    """Learn a transformation network and write it as a scheme file.

    Args:
        data: training images.
        out: run directory of the whole; the steps have sub-directories. The same call continues where it was stopped.
        preset: name of the preset, for the scheme's metadata.
        config: how the transformation is learned.
        classifier_config: how h_theta is learned, and with how many images a step the warm encoder.
        seed: decides every random choice. None draws one from the operating system and keeps it in `out`: with a
            seed that others know, or can guess, anyone who has the images can learn the same network.
        device: where to train.
        test: held-out images for the classifiers' accuracy in the results; without labels they say nothing.
        init: scheme to continue from, instead of starting warm.
        name: what to call the scheme in records; by default the name of `out`.
        classifier_file: h_theta as `imageveil classify` wrote it, instead of training one.

    Returns:
        The scheme file, `out/scheme.safetensors`, readable by its owner only.

    Raises:
        UsageError: labels are missing where the preset needs them, `init` is not a learned scheme or of another
            shape than was asked for, terms of the objective do not go together, or `classifier_file` is not a
            classifier of these classes or of no use here.
        RunError: a loss is not finite, or the run directory cannot be read or written.
    """
    if test is not None and test.labels is None:
        test = None  # as the test images of many published sets are
    start = _start_from(init) if init is not None else None
    if start is not None:
        config = _shaped_as(start, config, preset)
    if config.distil and not config.warm_epochs:
        raise UsageError("distil needs the features of a plain classifier: give warm_epochs too, or set distil=0")
    if classifier_file is not None and not config.needs_classifier:
        raise UsageError(f"the preset {preset!r} has no use for a classifier: leave --classifier out")
    # The digests of what was given, not its paths: the file of another scheme or classifier may bear the same name.
    given = {"classifier": file_digest(classifier_file)} if classifier_file is not None else {}
    starts = {"init": file_digest(resolve_scheme(init)[0]) if init is not None else None}
    summary: dict[str, Any] = {"data": data.name, "images": len(data), "preset": preset, "seed": seed, "init": init}
    common = {"data": data.name, "images": len(data), "images_sha256": images_digest(data), "seed": seed}
    with writing(out):
        private_folder(out)
    drawn = seed is None
    if seed is None:
        # It is as secret as the scheme: it stays in its file, and configurations know it by its digest.
        seed = kept_seed(out, device)
        common["seed"] = f"drawn, SHA-256 {hashlib.sha256(str(seed).encode()).hexdigest()}"
    field = own_field(seed, config.field) if drawn or start is not None else None
    classifier = preliminary = origin = encoder = None
    if config.needs_classifier:
        if classifier_file is not None:
            classifier, summary["classifier"] = _read_classifier(classifier_file, data, test, device)
        else:
            classifier, summary["classifier"] = _classifier_step(
                data, out / "classifier", classifier_config, common, seed=seed, device=device, test=test, network=None
            )
    if config.lambda_ or config.two_way:
        assert classifier is not None
        preliminary, origin, summary["preliminary"] = _preliminary_step(
            data, out / "preliminary", config, classifier, common | given, seed=seed, device=device
        )
    if config.warm_epochs:
        seed_weights(seed)
        plain = EncoderClassifier(UNetConfig(widths=config.widths, field=config.field), max(len(data.classes), 1))
        if drawn and field is not None:
            plain.encoder.field.copy_(field)
        # A name that no preset can choose: the network is given.
        recipe = replace(classifier_config, network="encoder", epochs=config.warm_epochs)  # type: ignore[arg-type]
        built = {"widths": list(config.widths), "field": config.field}
        network, summary["encoder"] = _classifier_step(
            data, out / "encoder", recipe, common | built, seed=seed, device=device, test=test, network=plain
        )
        assert isinstance(network, EncoderClassifier)
        encoder = network
    ingredients = Ingredients(
        data=data,
        classifier=classifier,
        preliminary=preliminary,
        origin=origin,
        encoder=encoder,
        start=start.network if start is not None else None,
        field=field,
    )
    run = RunDirectory(out / "transformation", common | given | starts | as_json(config), device)
    path = out / "scheme.safetensors"
    if run.results is None or not path.is_file():
        trainer, seconds = train_transformation(ingredients, config, seed=seed, device=device, run=run)
        last = _last_metrics(out / "transformation")
        summary["transformation"] = {"steps": config.steps, "seconds": round(seconds), **last}
        summary["config"] = as_json(config)
        network = trainer.networks["forward"]
        if device.rank == 0:
            LearnedScheme(network, training=summary, label=name or out.name).save(path)  # type: ignore[arg-type]
            if "backward" in trainer.networks:
                # G_BA undoes the scheme: it stays here and never enters a scheme file.
                write_tensors(out / "inverse.safetensors", _plain_state(trainer.networks["backward"]))
        run.finish(summary["transformation"])
        device.wait()
    elif name is not None and (called := _label(path)) != name:
        raise UsageError(f"{path} is finished and called {called!r}; --name {name} would need another run directory")
    return path


def _shaped_as(start: LearnedScheme, config: TransformationConfig, preset: str) -> TransformationConfig:
    """The configuration with the shape of the network to continue from, which no other value can replace."""
    shape = start.network.config
    own = {name: getattr(shape, name) for name in ("widths", "head", "top_skip", "field")}
    usual = TRANSFORMATION_PRESETS[preset]() if preset in TRANSFORMATION_PRESETS else config
    for name, value in own.items():
        given = getattr(config, name)
        if given not in (value, getattr(usual, name)):
            raise UsageError(f"{name}={given} is not that of the scheme to continue from, whose {name} is {value}")
    return replace(config, **own)


def _label(path: Path) -> str:
    """What a learned scheme's file calls it in records."""
    return str(read_scheme_file(path)[2].get("label"))


def _start_from(init: str) -> LearnedScheme:
    """Open the scheme to continue from."""
    path, _ = resolve_scheme(init)
    tensors, kind, metadata = read_scheme_file(path)
    if kind != LearnedScheme.name:
        raise UsageError(f"--init {init}: only a learned scheme can be continued from, this one is {kind!r}")
    return LearnedScheme.from_state(tensors, metadata)


def _read_classifier(
    path: Path, data: ImageArrays, test: ImageArrays | None, device: Device
) -> tuple[nn.Module, dict[str, Any]]:
    """Read h_theta from a file and judge it."""
    network, classes = load_classifier(path)
    if classes != data.classes:
        raise UsageError(
            f"{path} tells {len(classes)} classes apart that are not the {len(data.classes)} of {data.name}"
        )
    require_size(data.images, smallest_image(network), f"the classifier {path}")
    if test is None:
        return network, {}
    network = device.place(network)
    return network, {"accuracy": accuracy(predict(network, test, device=device), test.require_labels())}


def _classifier_step(
    data: ImageArrays,
    folder: Path,
    config: ClassifierConfig,
    common: dict[str, Any],
    *,
    seed: int,
    device: Device,
    test: ImageArrays | None,
    network: nn.Module | None,
) -> tuple[nn.Module, dict[str, Any]]:
    """Train h_theta or the encoder, or load it when its run is finished."""
    run = RunDirectory(folder, common | as_json(config), device)
    weights = folder / "classifier.safetensors"
    if run.results is None or not weights.is_file():
        trained, timing = train_classifier(data, config, seed=seed, device=device, run=run, network=network)
        results: dict[str, Any] = {"epochs": config.epochs, "seconds": round(timing["seconds"])}
        if device.rank == 0:
            save_classifier(weights, trained, config, data.classes)
        if test is not None:
            results["accuracy"] = accuracy(predict(trained, test, device=device), test.require_labels())
        run.finish(results)
        device.wait()
    # Read back in either case: the weights are rounded to float16 on disk, and a resumed run must see the same.
    assert run.results is not None
    if network is None:
        return load_classifier(weights)[0], run.results
    network.load_state_dict({name: tensor.float() for name, tensor in load_file(weights).items()})
    return network.eval(), run.results


def _preliminary_step(
    data: ImageArrays,
    folder: Path,
    config: TransformationConfig,
    classifier: nn.Module,
    common: dict[str, Any],
    *,
    seed: int,
    device: Device,
) -> tuple[torch.Tensor, torch.Tensor, dict[str, Any]]:
    """Make P from the first images of every class, or load it."""
    run = RunDirectory(folder, common | as_json(config.preliminary), device)
    path = folder / "protected.safetensors"
    if run.results is None or not path.is_file():
        origin = balanced_subset(data.require_labels(), config.preliminary.images)
        protected, share = preliminary_protection(
            classifier, data.subset(origin), config.preliminary, seed=seed, device=device, run=run
        )
        if device.rank == 0:
            write_tensors(path, {"protected": protected, "origin": origin})
        run.finish({"images": len(origin), "classified_right": share})
        return protected, origin, {"images": len(origin), "classified_right": share}
    saved = load_file(path)
    return saved["protected"], saved["origin"], run.results


def balanced_subset(labels: torch.Tensor, count: int) -> torch.Tensor:
    """Indices of the first `count` images with every class as often as any other, in order; 0 takes all."""
    if not count or count >= len(labels):
        return torch.arange(len(labels))
    classes = torch.unique(labels)
    each = -(-count // len(classes))
    picked = torch.cat([(labels == label).nonzero().flatten()[:each] for label in classes])
    return picked.sort().values


def _plain_state(network: nn.Module) -> dict[str, torch.Tensor]:
    return {name: tensor.detach().cpu().contiguous() for name, tensor in network.state_dict().items()}


def _last_metrics(folder: Path) -> dict[str, Any]:
    """The last logged line of a run, rounded."""
    import json

    path = folder / "metrics.jsonl"
    lines = path.read_text().splitlines() if path.is_file() else []
    if not lines:
        return {}
    return {k: round(v, 4) for k, v in json.loads(lines[-1]).items() if k not in ("step", "seconds")}
