"""Attacks on real images: one table of targets, what an attacker can reach, and how an attack is added."""

import gc
import json
import time
from dataclasses import dataclass, replace
from pathlib import Path
from types import FunctionType, ModuleType
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from imageveil import records
from imageveil.attacks import (
    ATTACKS,
    Attack,
    Conditions,
    Matcher,
    Reconstruction,
    compatibility,
    knowledge,
    make_attack,
)
from imageveil.attacks.assignment import exchange_pairs, match_correlations
from imageveil.attacks.block_interiors import BlockCorrelations, block_views, refine_places, settle_views
from imageveil.attacks.block_statistics import block_values
from imageveil.attacks.brute_force import short_key
from imageveil.attacks.compatibility import border_costs
from imageveil.attacks.pieces import Changes
from imageveil.attacks.place_statistics import lay_out
from imageveil.audit import attack as attack_module
from imageveil.audit import controls
from imageveil.audit.attack import all_floors, attack_and_judge, build_knowledge, judge
from imageveil.audit.cells import left_out, plan
from imageveil.audit.cloud import Cloud
from imageveil.audit.control_table import CONTROLS, Control
from imageveil.audit.controls import controls_table, describe_control, run_control
from imageveil.audit.leakage import measure
from imageveil.audit.puzzles import puzzle_figures
from imageveil.audit.run_attack import parse_values, run_attack
from imageveil.audit.sheets import sheet
from imageveil.audit.subjects import OwnersSubject
from imageveil.errors import UsageError
from imageveil.images.arrays import ImageArrays
from imageveil.networks.unet import UNet, UNetConfig
from imageveil.records import FIELDS, write_json
from imageveil.schemes import SCHEMES, Scheme
from imageveil.schemes.learned import LearnedScheme
from imageveil.schemes.pixelwise import ORDERS
from imageveil.training.device import Device


def crops(side: int, number: int, *photographs: np.ndarray) -> Tensor:
    """Random squares of photographs, uint8 (number, 3, side, side)."""
    generator = np.random.default_rng(7)
    found = []
    for _ in range(number):
        photograph = photographs[generator.integers(len(photographs))]
        top, left = (generator.integers(length - side) for length in photograph.shape[:2])
        found.append(photograph[top : top + side, left : left + side])
    return torch.from_numpy(np.stack(found)).permute(0, 3, 1, 2).contiguous()


def arrays(name: str, images: Tensor) -> ImageArrays:
    """A data set of two classes."""
    keys = [f"{name}/{number}" for number in range(len(images))]
    return ImageArrays(name=name, images=images, labels=torch.arange(len(images)) % 2, classes=["a", "b"], keys=keys)


@pytest.fixture(scope="session")
def photographs() -> list[np.ndarray]:
    from skimage import data
    from sklearn.datasets import load_sample_images

    return [data.astronaut(), data.coffee(), data.chelsea(), *load_sample_images().images]


@pytest.fixture(scope="session")
def train(photographs) -> ImageArrays:
    return arrays("crops", crops(32, 1600, *photographs))


@pytest.fixture(scope="session")
def test(tiles) -> ImageArrays:
    return arrays("tiles", tiles[::8])


@pytest.fixture(scope="session")
def large(photographs) -> ImageArrays:
    return arrays("large", crops(96, 8, *photographs))


def row(attack: str, scheme: str, metric: str, target: float, **options) -> Control:
    return Control(attack=attack, scheme=scheme, metric=metric, target=target, **options)


def pairs(scheme: str, number: int, metric: str = "bytes_exact", target: float = 1.0, images: int = 2) -> Control:
    images = max(number, images)
    return row("key-recovery", scheme, metric, target, threat="pairs", pairs=number, images=images)


SMALL = {"widths": (32, 48), "steps": 60, "batch": 32, "lr": 3e-3}

TARGETS = [
    row("statistics", "pixel-same", "ssim", 0.99, images=500, values={"pool": True}),
    row("statistics", "tanaka", "reid_top1", 0.9, images=300, values={"inside": False}),
    row("statistics", "tanaka", "ssim", 0.9, images=400),
    row("statistics", "block-shuffle", "ssim", 0.9, images=400),
    row("statistics", "block-negative", "ssim", 0.99, images=400),
    row("statistics", "block-ffx", "ssim", 0.9, images=400),
    pairs("tanaka", 1, target=0.98),
    pairs("extended", 12, target=0.98),
    pairs("pixel-same", 3, target=0.98),
    pairs("compressible", 2, target=0.97),
    pairs("block-shuffle", 1, target=0.97),
    pairs("block-negative", 1),
    pairs("block-ffx", 4, target=0.95, images=400),
    pairs("block-permute", 2, target=0.97),
    pairs("shuffle", 12, target=0.8),
    pairs("patch-permutation", 12, target=0.98),
    row("feature-reconstruction", "pixel-different", "reid_top1_gradient", 0.8),
    row("feature-reconstruction", "pixel-different", "reid_top1_gradient", 0.8, values={"variant": "basic"}),
    row("feature-reconstruction", "pixel-different", "reid_top1_gradient", 0.8, values={"variant": "least-difference"}),
    row("brute-force", "block-shuffle", "bytes_exact", 1.0, key_bits=7, values={"bits": 7}, images=2),
    row("confirmation", "pixel-same", "confirm_top1", 1.0, threat="oracle", images=2),
    row("inverse-network", "random-conv", "ssim", 0.4, threat="oracle", images=2, values=SMALL),
    row("gradients", "blur", "mse_var", 0.4, at_most=True, threat="gradients", images=2, values={"steps": 80}),
    # The whole way in a few steps, from which no more can be asked.
    row("sdar", "random-conv", "mse_var", 2.0, at_most=True, threat="recipe", images=400),
    # Other photographs than those it was trained on.
    row("leaked-inverse", "learned", "mse_var", 3.0, at_most=True, images=2),
    row(
        "unshared-weights",
        "pixel-same",
        "ssim",
        0.8,
        threat="pairs",
        pairs=400,
        images=400,
        values={"batch": 32, "epochs": 20},
    ),
]


@pytest.mark.parametrize("target", TARGETS, ids=lambda target: f"{target.attack}-{target.scheme}-{target.metric}")
def test_attack_reaches_its_target(target: Control, train: ImageArrays, test: ImageArrays) -> None:
    found = run_control(target, train, test, preset="smoke")
    assert found["passed"], describe_control(found)
    assert set(found) == set(FIELDS) and found["task"] == "control" and found["n"] == len(test)


def test_a_control_draws_what_the_attack_got(train: ImageArrays, test: ImageArrays, tmp_path: Path) -> None:
    run_control(pairs("block-negative", 1), train, test, picture=tmp_path / "sheet.png")
    pixels = np.asarray(Image.open(tmp_path / "sheet.png"))
    side = 4 * 64 + 3 * 2
    plain, shown = pixels[:, :side], pixels[:, -side:]
    assert np.array_equal(plain, shown) and not np.array_equal(plain, pixels[:, side + 8 : 2 * side + 8])


def test_jigsaw_puts_pieces_together(large: ImageArrays) -> None:
    target = row("jigsaw", "block-permute", "puzzle_neighbours", 0.6, block=16, images=2)
    found = run_control(target, large, large.subset(torch.arange(3)))
    assert found["passed"], describe_control(found)


def test_jigsaw_is_judged_on_padded_images_too(large: ImageArrays) -> None:
    odd = replace(large, images=large.images[:, :, :85, :90])
    found = run_control(row("jigsaw", "block-permute", "puzzle_neighbours", 0.5, block=16, images=2), odd, odd)
    assert found["passed"], describe_control(found)


def test_jigsaw_undoes_what_was_done_to_pieces(large: ImageArrays) -> None:
    scheme, changes = SCHEMES["compressible"](bytes(32), block=16), Changes(full=True)
    found = make_attack("jigsaw").fit(build_knowledge("ciphertext", scheme, large, images=2))
    shown, plain = (
        images[0].permute(1, 2, 0).numpy() - np.float32(127.5)
        for images in (found.reconstruct(scheme.protect(large.images[:1])), large.images)
    )
    # What was done to all of the picture the pieces cannot say.
    assert any(np.array_equal(shown, changes.apply(plain, member)) for member in range(len(changes.members)))


# These need minutes to succeed: their controls alone say whether they do. `test_gan_attacks.py` runs some steps.
LONG = {"gan", "sia-gan"}


def test_every_attack_has_a_control_and_a_target() -> None:
    assert {control.attack for control in CONTROLS} == set(ATTACKS)
    assert set(ATTACKS) == {t.attack for t in TARGETS} | {"jigsaw"} | LONG
    assert len({control.name for control in CONTROLS}) == len(CONTROLS)


# What an attacker can reach


def reachable(start: object) -> list[object]:
    """Everything that can be got at from an object, short of what belongs to the interpreter."""
    seen, queue = {}, [start]
    while queue:
        thing = queue.pop()
        if id(thing) in seen or isinstance(thing, type | ModuleType | FunctionType):
            continue
        seen[id(thing)] = thing
        queue += gc.get_referents(thing)
    return list(seen.values())


@pytest.mark.parametrize("threat", ["ciphertext", "pairs"])
def test_knowledge_leads_to_no_secret(threat: str, train: ImageArrays) -> None:
    scheme = SCHEMES["pixel-same"](short_key(12345))
    known = build_knowledge(threat, scheme, train, images=10, pairs=2)
    things = reachable(known)
    assert not any(isinstance(thing, Scheme | ImageArrays) for thing in things)
    assert scheme.master not in [thing for thing in things if isinstance(thing, bytes)]
    tensors = [thing for thing in things if isinstance(thing, Tensor)]
    assert tensors
    for tensor in tensors:
        # No view that leads back to the images it was cut from.
        assert tensor.untyped_storage().nbytes() == tensor.numel() * tensor.element_size()
    assert (known.known_pairs is not None) == (threat == "pairs")
    assert known.oracle is None and known.transformation is None and known.classifier is None


def test_plain_halves_are_apart(train: ImageArrays) -> None:
    known = knowledge.ciphertext(SCHEMES["none"](), train)
    one, two = ({image.numpy().tobytes() for image in images} for images in (known.protected, known.plain))
    assert len(known.protected) == len(known.plain) == 800
    assert len(one & two) <= len(train) - len({image.numpy().tobytes() for image in train.images})


def test_oracle_protects_and_shows_nothing_else(train: ImageArrays) -> None:
    scheme = SCHEMES["pixel-same"](bytes(32))
    known = knowledge.oracle(scheme, train, images=4)
    assert torch.equal(known.oracle(train.images[:3]), scheme.protect(train.images[:3]))
    given = known.pairs(5)
    assert torch.equal(scheme.protect(given.plain), given.protected) and len(given) == 5
    fresh = knowledge.oracle(SCHEMES["pixel-different"](bytes(32)), train, images=4)
    first, second = (fresh.oracle(train.images[:1].expand(2, -1, -1, -1), occasion) for occasion in ("1", "2"))
    assert len({image.numpy().tobytes() for image in (*first, *second)}) == 4
    # A run that is resumed has another oracle, which gives the same answers.
    again = knowledge.oracle(SCHEMES["pixel-different"](bytes(32)), train, images=4)
    assert torch.equal(again.oracle(train.images[:1], "2"), second[:1])


def test_threats_that_cannot_be(train: ImageArrays) -> None:
    scheme = SCHEMES["pixel-same"](bytes(32))
    for threat in ("gradients", "magic"):
        with pytest.raises(UsageError):
            build_knowledge(threat, scheme, train, images=2)
    with pytest.raises(UsageError, match="pairs"):
        build_knowledge("pairs", scheme, train, images=2, pairs=3)
    with pytest.raises(UsageError, match="threat"):
        make_attack("key-recovery").fit(build_knowledge("ciphertext", scheme, train, images=2))
    with pytest.raises(UsageError, match="does not apply"):
        make_attack("jigsaw").fit(build_knowledge("ciphertext", scheme, train, images=2))
    known = knowledge.recipe(scheme, train, classifier=lambda x: x, public={"preset": "quick"}, images=2)
    assert known.threat == "recipe" and known.recipe == {"preset": "quick"}


def test_labels_of_other_classes_are_not_handed_on(train: ImageArrays, photographs) -> None:
    scheme, other = SCHEMES["pixel-same"](bytes(32)), arrays("others", crops(32, 20, *photographs))
    same = build_knowledge("ciphertext", scheme, train, plain=other, images=4)
    assert torch.equal(same.plain_labels, other.labels)
    strange = build_knowledge("ciphertext", scheme, train, plain=replace(other, classes=["c", "d"]), images=4)
    assert strange.plain_labels is None and torch.equal(strange.labels, same.labels)


def test_the_clouds_run_belongs_to_its_images(train: ImageArrays, tmp_path: Path) -> None:
    cloud = Cloud(folder=tmp_path, preset="smoke")
    first, other = (
        build_knowledge("ciphertext", SCHEMES["pixel-same"](bytes([key] * 32)), train, images=64) for key in (1, 2)
    )
    cloud.open(first, train.classes)
    assert (tmp_path / "classifier.safetensors").is_file()
    with pytest.raises(UsageError, match=r"other settings \(given\)"):
        cloud.open(other, train.classes)
    with pytest.raises(UsageError, match=r"other settings \(given\)"):
        cloud.open(replace(first, labels=1 - first.labels), train.classes)


def test_the_mean_of_many_images_is_taken_in_parts(train: ImageArrays, monkeypatch) -> None:
    monkeypatch.setattr(knowledge, "CHUNK", 300)
    known = knowledge.ciphertext(SCHEMES["none"](), train, images=1)
    assert torch.allclose(known.mean_image(), known.plain.double().mean(dim=0).float(), atol=1e-4)


# What an audit plans


def planned(algorithm: str, attack: str, **options) -> list[str]:
    return [cell.name for cell in plan(algorithm, **options) if cell.attack == attack]


def test_an_attack_that_uses_pairs_runs_where_there_are_some() -> None:
    names = [
        "ciphertext-unshared-weights",
        "pairs-100-unshared-weights",
        "oracle-unshared-weights",
        "oracle-unshared-weights-hidden=16",
    ]
    assert planned("pixel-same", "unshared-weights") == names
    assert planned("pixel-same", "unshared-weights", threats=("ciphertext",)) == [names[0], f"{names[0]}-hidden=16"]
    assert planned("pixel-same", "unshared-weights", threats=("recipe", "gradients"))[:2] == [
        "recipe-unshared-weights",
        "gradients-unshared-weights",
    ]
    assert planned("tanaka", "gan") == ["ciphertext-gan"]


def lacking(threat: str, algorithm: str, **options: Any) -> list[str]:
    """What an audit that was asked for `gan` alone leaves out."""
    return left_out(threat, plan(algorithm, attacks=["gan"]), plan(algorithm, **options), preset="quick")


def test_candidates_are_compared_only_where_images_share_a_key(train: ImageArrays) -> None:
    assert planned("pixel-same", "confirmation") == ["oracle-confirmation"]
    assert planned("pixel-different", "confirmation") == ["oracle-confirmation-matcher=trained"]
    assert "confirmation (matcher trained)" in lacking("oracle", "pixel-different")
    scheme = SCHEMES["pixel-different"](bytes(32))
    with pytest.raises(UsageError, match="matcher=trained"):
        make_attack("confirmation").fit(build_knowledge("oracle", scheme, train, images=2))


def test_a_leaked_inverse_is_planned_where_one_can_have_leaked(tmp_path: Path) -> None:
    continued = {"recipe": {"init": "gan-cifar10"}}
    assert planned("learned", "leaked-inverse") == planned("tanaka", "leaked-inverse", **continued) == []
    assert planned("learned", "leaked-inverse", **continued) == ["recipe-leaked-inverse"]
    stolen, public = (f"leaked-inverse:{value}" for value in (f"stolen={tmp_path}", "public=gan-cifar10"))
    assert planned("learned", "leaked-inverse", attacks=(stolen,))[0].startswith("ciphertext-leaked-inverse-stolen")
    assert planned("learned", "leaked-inverse", attacks=(public,))[0].startswith("recipe-leaked-inverse-public")
    assert "leaked-inverse" in lacking("recipe", "learned", **continued)
    for threat, options in (("recipe", {}), ("oracle", continued)):
        assert "leaked-inverse" not in lacking(threat, "learned", **options)


def test_an_audit_knows_what_a_scheme_was_continued_from(train: ImageArrays, test: ImageArrays) -> None:
    made = {"preset": "private", "data": "x", "init": "gan-cifar10"}
    scheme = LearnedScheme(UNet(UNetConfig(widths=(4, 8, 8))), training=made)
    assert OwnersSubject(scheme, train, test).recipe["init"] == "gan-cifar10"
    assert OwnersSubject(SCHEMES["none"](), train, test).recipe["init"] is None


# Adding an attack


def test_an_attack_is_one_class(train: ImageArrays, test: ImageArrays, tmp_path) -> None:
    @dataclass(frozen=True, kw_only=True)
    class Grey(Attack):
        name: ClassVar[str] = "grey-for-a-test"
        shade: int = 128

        def fit(self, known, conditions=None):
            self.require(known)
            shade = self.shade

            class Found(Reconstruction):
                def reconstruct(self, protected, labels=None):
                    return torch.full_like(protected, shade)

            return Found()

    try:
        chosen = make_attack("grey-for-a-test", {"shade": 100})
        assert "shade=100" in repr(chosen)
        scheme = SCHEMES["extended"](bytes(32))
        found, _ = attack_and_judge(chosen, scheme, build_knowledge("ciphertext", scheme, train, images=2), test)
        assert found["metrics"]["bytes_exact"] < 0.1 and "blind" in found["floors"]
        assert found["metrics"]["reid_top1"] <= 1 / len(test) + 1e-9
    finally:
        del ATTACKS["grey-for-a-test"]


def test_seconds_include_what_was_trained_before(train, test, tmp_path) -> None:
    scheme, attack = SCHEMES["block-negative"](bytes(32)), make_attack("gan", {"epochs": 1, "protected": 64})
    known = build_knowledge("ciphertext", scheme, train, images=64)
    conditions = Conditions(folder=tmp_path, device=Device(torch=torch.device("cpu"), bf16=False))
    attack.fit(known, conditions)
    (tmp_path / "results.json").write_text('{"seconds": 4321.0}')
    # Records round to hundredths, and 32 images take less.
    assert 4321 <= attack_and_judge(attack, scheme, known, test, conditions=conditions)[0]["seconds"] < 4400
    alone = attack_and_judge(attack, scheme, known, test, conditions=replace(conditions, folder=tmp_path / "other"))
    assert 0 < alone[0]["seconds"] < 4321


class Slow(Reconstruction):
    """Does all its work when it is asked, with a network that took long to train before."""

    seconds_before = 100.0

    def reconstruct(self, protected: Tensor, labels: Tensor | None = None) -> Tensor:
        time.sleep(0.3)
        return protected


class Slower(Matcher):
    def scores(self, protected: Tensor, candidates: Tensor) -> Tensor:
        time.sleep(0.4)
        return torch.eye(len(protected))


def test_seconds_are_those_of_the_attack_and_not_of_the_judgement(train, test, monkeypatch) -> None:
    scheme, attack = SCHEMES["block-negative"](bytes(32)), make_attack("jigsaw")
    known = build_knowledge("ciphertext", scheme, train, images=2)

    def judged_slowly(*arguments, **options):
        time.sleep(1)
        return measure(*arguments, **options)

    monkeypatch.setattr(attack_module, "measure", judged_slowly)
    for found, low in ((Slow(), 100.3), (Slower(), 0.4)):
        monkeypatch.setattr(type(attack), "fit", lambda *_, found=found: found)
        seconds = attack_and_judge(attack, scheme, known, test, floor={})[0]["seconds"]
        assert low <= seconds < low + 0.5


def test_floors_do_not_depend_on_the_attackers_plain_images(train, test, photographs) -> None:
    scheme, attack = SCHEMES["block-negative"](bytes(32)), make_attack("feature-reconstruction", {"variant": "basic"})
    dark = arrays("dark", crops(32, 40, *photographs) // 4)
    strange = replace(dark, classes=["c", "d"])
    floors = []
    for plain in (None, dark, strange):
        known = build_knowledge("ciphertext", scheme, train, plain=plain, images=2)
        subject = OwnersSubject(scheme, train, test, plain=plain, images=2, ceiling="none")
        found, _ = attack_and_judge(attack, scheme, known, test, train=train)
        again, _ = subject.put_to(attack, known, preset="quick", conditions=Conditions())
        assert found["floors"] == again["floors"] == subject.viewer()["floors"]
        floors.append(found["floors"])
    assert floors[0] == floors[1] == floors[2] == all_floors(test, train) and "label_only" in floors[0]


def test_values_are_read_by_their_type() -> None:
    read = parse_values("inverse-network", ["widths=32,64", "lr=0.01"])
    assert read == {"widths": (32, 64), "lr": 0.01}
    assert parse_values("statistics", ["inside=False"]) == {"inside": False}
    with pytest.raises(UsageError, match="widths"):
        parse_values("inverse-network", ["widths=wide"])


def test_unknown_names_are_refused() -> None:
    with pytest.raises(UsageError, match="statistics"):
        make_attack("statistic")
    with pytest.raises(UsageError, match="starts"):
        make_attack("statistics", {"begin": 1})
    for name, values in (("brute-force", {"bits": 200}), ("feature-reconstruction", {"variant": "x"})):
        with pytest.raises(UsageError):
            make_attack(name, values)


# Parts


def test_exchanging_pairs_finds_a_known_order() -> None:
    generator = np.random.default_rng(0)
    known = np.corrcoef(generator.standard_normal((12, 40)))
    hidden = generator.permutation(12)
    found, remains = match_correlations(known[np.ix_(hidden, hidden)], known, starts=5, seed=0)
    assert remains < 1e-9 and (hidden[found] == np.arange(12)).all()
    assert exchange_pairs(known, known, np.arange(12))[1] < 1e-9


def likeness(shown: Tensor, plain: Tensor) -> float:
    """Correlation of two batches, however the first is turned, mirrored and recoloured.

    Random crops look alike from all sides; what their correlations decide is all but that.
    """
    views = [v.rot90(turns, (2, 3)) for v in (shown.float(), shown.flip(3).float()) for turns in range(4)]
    views = [view[:, list(colours)] for view in views for colours in ORDERS]
    return max(float(torch.corrcoef(torch.stack([v.flatten(), plain.flatten().float()]))[0, 1]) for v in views)


@pytest.mark.parametrize("name", ["shuffle", "patch-permutation"])
def test_statistics_put_all_places_of_an_image_in_order(name: str, train: ImageArrays, test: ImageArrays) -> None:
    scheme = SCHEMES[name](bytes(range(32)))
    found = make_attack("statistics").fit(build_knowledge("ciphertext", scheme, train, images=800))
    assert likeness(found.reconstruct(scheme.protect(test.images)), test.images) > 0.9


def test_a_hidden_order_is_laid_out_exactly(train: ImageArrays) -> None:
    values = block_values(train.images[:600], 8).reshape(-1, 192)
    hidden = np.random.default_rng(3).permutation(192)
    assert (hidden[lay_out(values[:, hidden], values)] == np.arange(192)).all()
    with pytest.raises(UsageError, match="5000 places"):
        lay_out(np.zeros((2, 5000)), np.zeros((2, 5000)))


@pytest.mark.parametrize("name", ["extended", "compressible"])
def test_statistics_put_blocks_and_their_inside_in_order(name: str, train: ImageArrays, test: ImageArrays) -> None:
    scheme = SCHEMES[name](bytes(range(32)))
    known = build_knowledge("ciphertext", scheme, train, images=800)
    protected = scheme.protect(test.images)
    thumbnails = make_attack("statistics", {"starts": 6, "inside": False}).fit(known).reconstruct(protected)
    assert torch.equal(thumbnails[:, :, ::4, ::4].repeat_interleave(4, 2).repeat_interleave(4, 3), thumbnails)
    grey = test.images.float().mean(dim=1, keepdim=True).unfold(2, 4, 4).unfold(3, 4, 4).mean(dim=(-1, -2))
    assert likeness(thumbnails[:, :, ::4, ::4], grey.expand(-1, 3, -1, -1)) > 0.8
    whole = make_attack("statistics", {"starts": 10}).fit(known).reconstruct(protected)
    assert likeness(whole, test.images) > (0.95 if name == "extended" else 0.99)


def test_a_picture_is_told_from_its_mirror_image(train: ImageArrays) -> None:
    light = torch.linspace(-60, 60, 32)  # that comes from the right
    lit = replace(train, images=(train.images.float() * 0.5 + 64 + light).round().to(torch.uint8))
    scheme = SCHEMES["block-permute"](bytes(range(32)))
    known = build_knowledge("ciphertext", scheme, lit, images=300)
    found = make_attack("statistics", {"starts": 3}).fit(known)
    shown = found.reconstruct(known.protected)
    assert shown[..., 16:].float().mean() > shown[..., :16].float().mean() + 40
    found.choose_side(known.protected, known.plain.flip(-1))
    assert torch.equal(found.reconstruct(known.protected), shown.flip(-1))


def test_places_are_refined_from_a_wrong_start(train: ImageArrays) -> None:
    values = block_values(train.images[:500], 4)
    grid = values.reshape(len(values), 8, 8, 48).astype(np.float32)
    known = BlockCorrelations.of(grid)
    right = np.tile(np.arange(48), (8, 8, 1))
    wrong = right.copy()
    wrong[3, 4, :20] = wrong[3, 4, :20][::-1]
    refined = refine_places(grid, wrong, known)
    # In smooth photographs a few values are as good as the same as their neighbours.
    assert (refined == right).mean() > 0.97 and (refined[3, 4] == right[3, 4]).mean() > 0.9
    # A block that is turned is turned back, and a colour order of all blocks together is found.
    views = block_views(4)
    assert len({tuple(view) for view in views}) == 48 and (views[0] == np.arange(48)).all()
    turned = grid[..., views[2]].copy()
    turned[:, 5, 5] = grid[:, 5, 5][..., views[27]]
    settled = settle_views(turned, known, views)
    back = np.take_along_axis(turned, settled[None], axis=-1)
    assert np.array_equal(back, grid)


def test_a_large_puzzle_is_compared_in_parts_or_refused(large: ImageArrays, monkeypatch) -> None:
    pieces = block_values(large.images[:1], 16)[0].reshape(36, 16, 16, 3).astype(np.float32) - 127.5
    whole = border_costs(pieces, Changes(full=True))
    sizes = []

    def watched(gap, *rest):
        sizes.append(gap.size)
        return distance(gap, *rest)

    distance = compatibility._distance
    monkeypatch.setattr(compatibility, "_distance", watched)
    monkeypatch.setattr(compatibility, "AT_ONCE", 1 << 20)
    assert np.array_equal(border_costs(pieces, Changes(full=True)), whole) and max(sizes) <= 1 << 20
    scheme = SCHEMES["compressible"](bytes(32), block=4)
    known = build_knowledge("ciphertext", scheme, large, images=2)
    with pytest.raises(UsageError, match="576 pieces with 96 changes"):
        make_attack("jigsaw").fit(known)


def test_changes_of_pieces_are_a_group() -> None:
    changes = Changes(full=True)
    piece = np.random.default_rng(0).standard_normal((4, 4, 3)).astype(np.float32)
    assert len({changes.apply(piece, member).tobytes() for member in range(96)}) == 96
    for first, then in ((3, 80), (50, 17), (95, 95)):
        both = changes.apply(changes.apply(piece, first), then)
        assert np.array_equal(both, changes.apply(piece, int(changes.products[then, first])))
    assert (changes.products[np.arange(96), changes.inverses] == 0).all()
    # A whole picture's change takes its upper right corner where `move` says.
    for member in range(96):
        spot = np.zeros((3, 3, 3), dtype=np.float32)
        spot[0, 2] = 1
        row_, column = changes.move((-1, 1), member)
        assert changes.apply(spot, member)[1 + row_, 1 + column].any()


def test_puzzle_figures(large: ImageArrays) -> None:
    plain = large.images[:2]
    assert puzzle_figures(plain, plain, 16) == {
        "puzzle_direct": 1.0,
        "puzzle_neighbours": 1.0,
        "puzzle_largest": 1.0,
    }
    # The upper half below the lower: nothing at its place, 5 of 60 joins lost, and half in one region.
    swapped = puzzle_figures(plain, plain.roll(48, dims=2), 16)
    assert swapped["puzzle_direct"] < 0.1
    assert swapped["puzzle_neighbours"] == pytest.approx(54 / 60, abs=0.02)
    assert swapped["puzzle_largest"] == pytest.approx(0.5, abs=0.02)


def test_confirmation_is_no_reconstruction(train: ImageArrays, test: ImageArrays) -> None:
    scheme = SCHEMES["noise"](bytes(32))
    found = make_attack("confirmation").fit(build_knowledge("oracle", scheme, train, images=2))
    assert isinstance(found, Matcher)
    judged = judge(found, test.images, scheme.protect(test.images), test.labels)
    assert judged.shown is None and judged.metrics["confirm_top1"] == 1.0


def test_who_knows_the_label_guesses_among_its_class(train: ImageArrays, test: ImageArrays) -> None:
    scheme, attack = SCHEMES["noise"](bytes(32)), make_attack("confirmation")
    known = build_knowledge("oracle", scheme, train, images=2)
    guessing = attack_and_judge(attack, scheme, known, test)[0]["floors"]
    classes = len(set(test.labels.tolist()))
    assert guessing["label_only"]["confirm_top1"] == pytest.approx(classes / len(test))
    assert guessing["chance"]["confirm_top1"] == pytest.approx(1 / len(test))
    unlabelled = replace(test, labels=None)
    assert "label_only" not in attack_and_judge(attack, scheme, known, unlabelled)[0]["floors"]


def test_controls_of_two_data_sets_do_not_share_a_run(train, test, tmp_path, monkeypatch) -> None:
    folders = []

    def run_one(control, *_, conditions, **__):
        folders.append((control.name, conditions.folder, conditions.trained))
        figure = {control.metric: 1.0}
        row = {"attack": "gan", "scheme": "x", "data": "x", "threat": "x", "seconds": 0, "passed": True}
        return row | {"metrics": figure, "target": figure}

    monkeypatch.setattr(controls, "run_control", run_one)
    for name in ("one", "two"):
        monkeypatch.setattr(controls, "train_and_test", lambda *_, name=name: (train, replace(test, name=name)))
        controls.run_controls("x", tmp_path / "out", only=("gradients",), run=tmp_path)
    assert [folder for _, folder, _ in folders] == [tmp_path / data / folders[0][0] for data in ("one", "two")]
    assert folders[1][2]["inverse-network"].parent == tmp_path / "two"
    folders.clear()
    controls.run_controls("x", tmp_path / "out", only=("gan:colour-order", "brute-force"), run=tmp_path)
    assert [name for name, *_ in folders] == ["brute-force-block-shuffle-bytes-exact", "gan-colour-order-ssim"]


def test_attacks_without_a_use_for_the_clouds_classifier_neither_take_nor_train_one(train: ImageArrays) -> None:
    known = build_knowledge("recipe", SCHEMES["random-conv"](bytes(32)), train)
    assert known.threat == "recipe" and known.classifier is None
    with pytest.raises(UsageError, match="sdar needs the cloud's classifier"):
        make_attack("sdar", preset="smoke").fit(known)
    for attack, threat in (("inverse-network", "recipe"), ("sdar", "ciphertext")):
        with pytest.raises(UsageError, match=f"{attack} under the threat {threat} .* leave --classifier out"):
            run_attack(attack, "gan-cifar10", "nowhere", threat=threat, classifier=Path("classifier.safetensors"))


def test_a_sheet_shows_plain_protected_and_guessed_images(train, test, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr("imageveil.audit.run_attack.train_and_test", lambda *_: (train, test))
    scheme = SCHEMES["pixel-same"](bytes(32))
    scheme.save(tmp_path / "key")
    run_attack("feature-reconstruction", str(tmp_path / "key"), "faces", threat="ciphertext", sheet=tmp_path / "a.png")
    few = test.images[:8]
    protected = scheme.protect(few)
    guess = make_attack("feature-reconstruction").fit(build_knowledge("ciphertext", scheme, train))
    expected = sheet(few, protected, guess.reconstruct(protected), columns=4, scale=2)
    assert (tmp_path / "a.png").read_bytes() == expected
    with pytest.warns(UserWarning, match="confirmation reconstructs no image"):
        run_attack("confirmation", str(tmp_path / "key"), "faces", threat="oracle", sheet=tmp_path / "b.png")
    assert not (tmp_path / "b.png").exists()
    with pytest.raises(UsageError, match=r"--sheet .*a.jpg: a sheet is a PNG file"):
        run_attack("confirmation", "nowhere", "nowhere", threat="oracle", sheet=tmp_path / "a.jpg")


def test_long_runs_ask_for_the_commit_first(tmp_path) -> None:
    for begin in (
        lambda: run_attack("gan", "nowhere", "nowhere", threat="ciphertext"),
        lambda: controls.run_controls(str(tmp_path / "nowhere"), tmp_path),
    ):
        records.commit.cache_clear()
        with pytest.raises(UsageError):
            begin()
        assert records.commit.cache_info().currsize == 1


def test_controls_become_a_table(train: ImageArrays, test: ImageArrays, tmp_path) -> None:
    found = run_control(pairs("block-negative", 1), train, test)
    write_json(tmp_path / "one.json", found)
    assert json.loads((tmp_path / "one.json").read_text())["passed"] is True
    write_json(tmp_path / "two.json", found | {"attack": "gan", "scheme": "tanaka", "passed": False})
    table = controls_table(tmp_path).splitlines()
    assert len(table) == 6 and "| block-negative | tiles | pairs | bytes_exact | 1.0 |" in table[2]
    assert table[5].startswith("Missed: `gan` on `tanaka`. Not recorded: ") and "`sdar` on `random-conv`" in table[5]
    assert "block-negative" not in table[5]
