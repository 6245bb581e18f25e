"""The audit: what is run, what may be concluded, and the whole command on real images."""

import json
import re
import sys
from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from PIL import Image

from imageveil import cli
from imageveil.attacks import ATTACKS, THREATS, Attack, Reconstruction, make_attack
from imageveil.attacks.knowledge import PublicScheme
from imageveil.audit import audit as audit_module
from imageveil.audit import control_table
from imageveil.audit.attack import build_knowledge
from imageveil.audit.audit import AuditOptions, open_subject, run_audit
from imageveil.audit.audit_page import audit_page
from imageveil.audit.breaks import breaks_table
from imageveil.audit.cells import Cell, left_out, parse_choice, pick, plan, threats_for, trained_before
from imageveil.audit.cloud import Cloud, public_recipe
from imageveil.audit.conclusion import conclude, evidence, verdict_lines
from imageveil.audit.control_state import (
    ControlResult,
    as_json,
    form,
    load_controls,
    relevant,
    summarise,
    void_reason,
    without_labels,
)
from imageveil.audit.control_table import CONTROLS
from imageveil.audit.leakage import measure
from imageveil.audit.recognition import Recogniser
from imageveil.audit.report import render
from imageveil.audit.sheets import sheet
from imageveil.audit.verdict import Row, breaks, finding, headline, judge_threat, outcome
from imageveil.errors import UsageError
from imageveil.images.arrays import ImageArrays
from imageveil.networks.unet import UNet, UNetConfig
from imageveil.presets.classifier import classifier_smoke
from imageveil.processor import Processor
from imageveil.records import read_records, record, write_json
from imageveil.schemes import SCHEMES
from imageveil.schemes.learned import LearnedScheme
from imageveil.training.classifier import build_classifier, save_classifier
from imageveil.training.device import Device

ROOT = Path(__file__).parents[1]
CPU = Device(torch=torch.device("cpu"), bf16=False)


@pytest.fixture(scope="session")
def faces_of_two(faces) -> ImageArrays:
    """The hundred faces as two classes."""
    keys = [f"{number:03d}" for number in range(len(faces))]
    return ImageArrays(name="faces", images=faces, labels=torch.arange(100) % 2, classes=["a", "b"], keys=keys)


def write_folder(root: Path, data: ImageArrays) -> Path:
    """Images as PNG files, a folder a class where there are labels."""
    for number, (image, key) in enumerate(zip(data.images, data.keys, strict=True)):
        folder = root if data.labels is None else root / data.classes[int(data.labels[number])]
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.ascontiguousarray(image.permute(1, 2, 0).numpy())).save(folder / f"{key}.png")
    return root


@pytest.fixture
def folder(tmp_path, faces_of_two) -> Path:
    """With `train/` and `test/`."""
    write_folder(tmp_path / "pictures" / "train", faces_of_two.subset(torch.arange(60)))
    write_folder(tmp_path / "pictures" / "test", faces_of_two.subset(torch.arange(60, 100)))
    return tmp_path / "pictures"


@pytest.fixture
def key(tmp_path) -> Path:
    """A key file of a block scheme."""
    path = tmp_path / "key.safetensors"
    SCHEMES["block-negative"](bytes(range(32))).save(path)
    return path


@pytest.fixture
def copying():
    """An attack that shows the protected images as they are, registered for one test; `runs` counts its runs."""

    @dataclass(frozen=True, kw_only=True)
    class Copying(Attack):
        name: ClassVar[str] = "copying"
        runs: ClassVar[list[str]] = []
        seeds: ClassVar[list[int]] = []

        def fit(self, known, conditions=None):
            self.require(known)
            self.runs.append(known.threat)
            self.seeds.append(conditions.seed)

            class Found(Reconstruction):
                def reconstruct(self, protected, labels=None):
                    return protected

            return Found()

    yield Copying
    del ATTACKS["copying"]


def run(arguments: list[str]) -> int:
    """The command line in this process; its exit code."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["imageveil", *arguments])
        with pytest.raises(SystemExit) as end:
            cli.main()
    return int(end.value.code or 0)


# The whole audit


def test_an_added_attack_stands_on_the_page(key, folder, tmp_path, copying, capsys):
    out = tmp_path / "audit"
    arguments = ["audit", str(key), "--data", str(folder), "--out", str(out), "--preset", "smoke", "--device", "cpu"]
    arguments += ["--threat", "ciphertext", "--threat", "pairs", "--pairs", "2"]
    for name in ("copying", "key-recovery", "feature-reconstruction:variant=basic"):
        arguments += ["--attack", name]
    assert run(arguments) == 0
    shown = capsys.readouterr()
    assert "[1/3]" in shown.err and "min left" in shown.err
    assert "pairs       BROKEN" in shown.out and "open " + str(out / "index.html") in shown.out
    html = (out / "index.html").read_text()
    assert '<th scope="row">copying</th>' in html and "BROKEN" in html and "data:image/png;base64," in html
    assert "bits at 25x25 pixels" in html
    assert html.count("pixelated") >= 12  # two sheets of three pictures, worst and random, for two threat models
    cells = {path.parent.name: json.loads(path.read_text()) for path in (out / "cells").glob("*/record.json")}
    assert set(cells) == {
        "ciphertext-copying",
        "ciphertext-feature-reconstruction-variant=basic",
        "pairs-2-key-recovery",
    }
    found = cells["pairs-2-key-recovery"]
    assert found["metrics"]["bytes_exact"] == 1 and found["metrics"]["attacker_pairs"] == 2
    assert found["metrics"]["perceptual"] < 1e-6 and found["void"] is False
    assert cells["ciphertext-copying"]["void"] is True and "ceiling" in cells["ciphertext-copying"]["floors"]
    # The same command again: nothing is run, the page is made anew; another budget is refused.
    (out / "index.html").unlink()
    before = len(copying.runs)
    assert run(arguments) == 0 and (out / "index.html").is_file() and len(copying.runs) == before
    assert run([*arguments, "--seed", "1"]) == 2
    assert "other settings (seed)" in capsys.readouterr().err


def test_what_was_left_out_and_who_looks_stand_on_the_page_under_any_threat_model(key, folder, tmp_path, copying):
    options = AuditOptions(threats=("pairs", "oracle"), attacks=("key-recovery",), pairs=(2,), device=CPU)
    shown = run_audit(str(key), str(folder), tmp_path / "audit", replace(options, cells=("pairs-2-key-recovery",)))
    html = (tmp_path / "audit" / "index.html").read_text()
    assert "oracle      BROKEN" in shown and "open:" not in shown
    assert ">looking, without an attack</th>" in html and ">looking, the mean image subtracted</th>" in html
    assert "copying (2 pairs): not asked for" in html and "inverse-network (loss perceptual): not asked for" in html
    # Whether candidates are confirmed decides no verdict, by whatever matcher.
    assert "confirmation" not in html


def test_a_killed_audit_continues(key, folder, tmp_path, copying, monkeypatch):
    options = AuditOptions(threats=("ciphertext",), attacks=("copying", "feature-reconstruction"), device=CPU)
    whole = audit_module.write_sheets
    with monkeypatch.context() as patch:
        done = []

        def stop(pictures, where):
            if done:
                raise KeyboardInterrupt
            done.append(where.name)
            whole(pictures, where)

        patch.setattr(audit_module, "write_sheets", stop)
        with pytest.raises(KeyboardInterrupt):
            run_audit(str(key), str(folder), tmp_path / "audit", options)
    stored = [path.parent.name for path in (tmp_path / "audit" / "cells").glob("*/record.json")]
    assert stored == done == ["ciphertext-copying"]
    before = len(copying.runs)
    run_audit(str(key), str(folder), tmp_path / "audit", options)
    assert len(copying.runs) == before and (tmp_path / "audit" / "index.html").is_file()


def test_single_cells_can_be_run(key, folder, tmp_path, copying):
    options = AuditOptions(threats=("ciphertext", "pairs"), pairs=(2,), preset="smoke", ceiling="none", device=CPU)
    chosen = replace(options, cells=("pairs-2-key-recovery",))
    run_audit(str(key), str(folder), tmp_path / "audit", chosen)
    assert [path.name for path in (tmp_path / "audit" / "cells").iterdir()] == ["pairs-2-key-recovery"]
    page = (tmp_path / "audit" / "index.html").read_text()
    assert '<th scope="row">key-recovery (2 pairs)</th>' in page and '<th scope="row">copying</th>' not in page
    with pytest.raises(UsageError, match="no cell 'oracle-confirmation' here; choose among: ciphertext-brute-force, "):
        run_audit(str(key), str(folder), tmp_path / "other", replace(options, cells=("oracle-confirmation",)))
    # Alone, a cell still starts from what another one has trained.
    cells = plan("learned", attacks=("inverse-network", "gradients"))
    [search] = pick(cells, ["gradients-gradients-start=inverse"])
    assert trained_before(search, cells, Path("cells"))["inverse-network"] == Path(
        "cells/oracle-inverse-network/training"
    )


def test_a_learned_scheme_under_recipe_and_gradients(folder, tmp_path, copying, monkeypatch):
    torch.manual_seed(0)
    scheme = LearnedScheme(UNet(UNetConfig(widths=(4, 8, 8))), label="tiny")
    scheme.save(tmp_path / "tiny.safetensors")
    options = AuditOptions(
        threats=("recipe", "gradients"), attacks=("copying", "confirmation"), preset="smoke", device=CPU
    )
    shown = run_audit(str(tmp_path / "tiny.safetensors"), str(folder), tmp_path / "audit", options)
    assert not (tmp_path / "audit" / "cloud").exists()  # nothing here has a use for the cloud's classifier
    monkeypatch.setattr(copying, "needs_classifier", True)
    asking = replace(options, threats=("recipe",), attacks=("copying",))
    run_audit(str(tmp_path / "tiny.safetensors"), str(folder), tmp_path / "asking", asking)
    assert (tmp_path / "asking" / "cloud" / "classifier.safetensors").is_file()
    assert {path.name for path in (tmp_path / "audit" / "cells").iterdir()} == {
        "recipe-copying",
        "gradients-confirmation",
    }
    found = json.loads((tmp_path / "audit" / "cells" / "gradients-confirmation" / "record.json").read_text())
    assert finding(found) == "confirms" and found["threat"] == "gradients" and found["metrics"]["confirm_top1"] == 1
    # An untrained network hides nothing: looking is enough, under any threat model.
    assert "gradients   BROKEN      100.0 %     looking" in shown and "held" not in shown
    assert '<th scope="col">candidate confirmed</th>' in (tmp_path / "audit" / "index.html").read_text()


def test_under_recipe_a_learned_scheme_is_attacked_by_another_of_the_same_recipe(folder, tmp_path):
    for seed, name in enumerate(("tiny", "another")):
        torch.manual_seed(seed)
        LearnedScheme(UNet(UNetConfig(widths=(4, 8, 8))), label=name).save(tmp_path / f"{name}.safetensors")
    tiny, another = (str(tmp_path / f"{name}.safetensors") for name in ("tiny", "another"))
    options = AuditOptions(
        threats=("recipe",), attacks=("inverse-network:steps=1",), preset="smoke", ceiling="none", device=CPU
    )
    run_audit(tiny, str(folder), tmp_path / "without", options)
    page = (tmp_path / "without" / "index.html").read_text()
    assert "--surrogate FILE" in page and not list((tmp_path / "without").glob("cells/*/record.json"))
    assert not (tmp_path / "without" / "cloud").exists()
    given = replace(options, surrogate=(Path(another),))
    run_audit(tiny, str(folder), tmp_path / "with", given)
    [found] = (tmp_path / "with").glob("cells/*/record.json")
    assert json.loads(found.read_text())["attack"] == "inverse-network"
    with pytest.raises(UsageError, match="the audited scheme itself"):
        run_audit(tiny, str(folder), tmp_path / "same", replace(given, surrogate=(Path(tiny),)))
    # Another surrogate is another audit.
    with pytest.raises(UsageError, match="surrogate"):
        run_audit(tiny, str(folder), tmp_path / "with", replace(given, surrogate=()))
    with pytest.raises(UsageError, match="give --data"):
        run_audit(str(folder), None, tmp_path / "alone", given)


def test_protected_images_alone(faces_of_two, tmp_path, copying, capsys):
    scheme = SCHEMES["pixel-different"](bytes(32))
    hidden = scheme.protect(faces_of_two.images[:24], ids=faces_of_two.keys[:24])
    flat = ImageArrays(name="hidden", images=hidden, labels=None, classes=[], keys=faces_of_two.keys[:24])
    where = write_folder(tmp_path / "hidden", flat)
    attacks = ["--attack", "copying", "--attack", "confirmation"]
    arguments = ["audit", str(where), "--out", str(tmp_path / "audit"), "--device", "cpu", *attacks]
    assert run(arguments) == 0
    shown = capsys.readouterr().out
    assert "nothing that reassures can be said" in shown and "no plain images to judge it on" in shown
    assert "oracle: not tried" in shown and "recipe: not tried: the images have no labels" in shown
    html = (tmp_path / "audit" / "index.html").read_text()
    assert "What is open, and why" in html and "data:image/png;base64," in html
    found = json.loads((tmp_path / "audit" / "cells" / "ciphertext-copying" / "record.json").read_text())
    assert found["metrics"] == {"attacker_protected": 24, "attacker_plain": 512} and found["n"] == 0


def test_options_that_protected_images_alone_honour_or_refuse(faces_of_two, tmp_path, copying, monkeypatch):
    fast = Processor(model="some processor", flags=frozenset({"amx_bf16"}))
    monkeypatch.setattr("imageveil.records.this_processor", lambda: fast)
    where = write_folder(tmp_path / "hidden", faces_of_two)
    few = AuditOptions(threats=("ciphertext",), attacks=("copying",), images=30, device=CPU)
    run_audit(str(where), None, tmp_path / "audit", few)
    (path,) = (tmp_path / "audit" / "cells").glob("*/record.json")
    found = json.loads(path.read_text())
    assert found["metrics"]["attacker_protected"] == 30
    assert found["device"].startswith("some processor, float32")
    known = open_subject(str(where), None, few).base
    assert len(known.labels.unique()) == 2 and len(known.labels) == len(known.protected) == 30
    with pytest.raises(UsageError, match=r"other settings \(images, scheme\)"):
        run_audit(str(where), None, tmp_path / "audit", replace(few, images=31))
    for option, value in {"surrogate": (tmp_path,), "recogniser": tmp_path, "ceiling": "all"}.items():
        with pytest.raises(UsageError, match=f"--{option} needs the plain images .*: give --data"):
            run_audit(str(where), None, tmp_path / "other", replace(few, **{option: value}))


def test_protected_images_with_their_originals(faces_of_two, tmp_path, copying):
    scheme = SCHEMES["block-negative"](bytes(range(32)))
    hidden = ImageArrays(
        name="hidden",
        images=scheme.protect(faces_of_two.images),
        labels=faces_of_two.labels,
        classes=faces_of_two.classes,
        keys=faces_of_two.keys,
    )
    where, originals = write_folder(tmp_path / "hidden", hidden), write_folder(tmp_path / "plain", faces_of_two)
    options = AuditOptions(
        threats=("pairs", "oracle"), attacks=("key-recovery",), pairs=(2,), algorithm="block-negative", device=CPU
    )
    shown = run_audit(str(where), str(originals), tmp_path / "audit", options)
    assert "pairs       BROKEN                  key-recovery" in shown and "oracle: not tried" in shown


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "say what to audit"),
        (["KEY"], "give --data"),
        (["KEY", "--data", "DATA", "--threat", "magic"], "no threat model 'magic'"),
        (["KEY", "--data", "DATA", "--attack", "magic"], "no attack 'magic'"),
        (["KEY", "--data", "DATA", "--attack", "jigsaw"], "no attack asked for applies"),
        (["KEY", "--data", "DATA", "--ceiling", "sky"], "--ceiling must be"),
        (["KEY", "--data", "DATA", "--controls", "nowhere"], "is no folder"),
        (["KEY", "--data", "DATA", "--recogniser", "KEY"], "is not a classifier"),
        (["KEY", "--data", "DATA", "--algorithm", "tanaka"], "folders of protected images"),
        (["KEY", "--data", "DATA", "--attack", "statistics:inside"], "expected name=value with one of: protected"),
        (
            ["KEY", "--data", "DATA", "--attack", "gan:batch=0"],
            "--set batch: input should be greater than or equal to 1",
        ),
        (["DATA", "--data", "DATA"], "say with --algorithm what"),
        (["DATA", "--algorithm", "magic"], "no such scheme"),
        (["--table", "nowhere"], "holds no record"),
    ],
)
def test_wrong_use_is_one_sentence(arguments, words, key, folder, tmp_path, capsys):
    named = {"KEY": str(key), "DATA": str(folder)}
    code = run(["audit", *(named.get(one, one) for one in arguments), "--out", str(tmp_path / "out")])
    shown = capsys.readouterr().err.strip()
    assert code == 2 and words in shown and len(shown.splitlines()) == 1


class Haze(LearnedScheme):
    """A twentieth of the image under a texture that all images share: out of sight until the mean is subtracted."""

    def protect(self, images, *, ids=None, generator=None):
        texture = torch.randint(0, 243, images.shape[1:], generator=torch.Generator().manual_seed(0))
        return (texture + images // 20).to(torch.uint8)


def test_a_viewer_may_subtract_the_mean_image(folder, tmp_path, copying, monkeypatch):
    monkeypatch.setattr(audit_module, "load_scheme", lambda target: Haze(UNet(UNetConfig(widths=(4, 8, 8)))))
    options = AuditOptions(threats=("ciphertext",), attacks=("copying",), device=CPU)
    shown = run_audit("haze", str(folder), tmp_path / "audit", options)
    seen = json.loads((tmp_path / "audit" / "viewer.json").read_text())
    assert seen["metrics"]["reid_within"] < 0.5 < seen["metrics"]["reid_within_mean_removed"]
    assert "BROKEN" in shown and "looking, the mean image subtracted" in shown
    html = (tmp_path / "audit" / "index.html").read_text()
    assert ">looking, without an attack</th>" in html and ">looking, the mean image subtracted</th>" in html


@pytest.mark.parametrize("option", ["classifier", "recogniser"])
def test_another_network_does_not_continue_an_audit(option, key, folder, faces_of_two, tmp_path, copying):
    eyes = []
    for number in range(2):
        torch.manual_seed(number)
        network = build_classifier(classifier_smoke(), 2)
        network.whiten(faces_of_two.images.float() / 255)
        eyes.append(tmp_path / f"{number}.safetensors")
        save_classifier(eyes[-1], network, classifier_smoke(), faces_of_two.classes)

    def again(eye: Path | None) -> str:
        options = AuditOptions(threats=("ciphertext",), attacks=("copying",), device=CPU, **{option: eye})
        return run_audit(str(key), str(folder), tmp_path / "audit", options)

    again(eyes[0])
    for other in (eyes[1], None):
        with pytest.raises(UsageError, match=f"other settings .*{option}"):
            again(other)
    moved = eyes[0].rename(tmp_path / "moved.safetensors")
    assert "open " in again(moved)
    with pytest.raises(UsageError, match="nowhere"):
        again(tmp_path / "nowhere")


# The threat model `recipe`, and recognition


def test_the_recipe_is_public_and_the_classifier_trains_on_protected_images(faces_of_two, tmp_path):
    scheme = SCHEMES["pixel-same"](bytes(32))
    cloud = Cloud(folder=tmp_path / "cloud", preset="smoke", device=CPU)
    known = build_knowledge("recipe", scheme, faces_of_two, images=40, cloud=cloud)
    logits = known.classifier(known.protected[:3].float() / 255)
    assert logits.shape == (3, 2) and not any(p.requires_grad for p in known.classifier.parameters())
    assert known.recipe == dict.fromkeys(("architecture", "preset", "data", "init")) | {
        "scheme": "pixel-same",
        "block": 1,
    }
    again = Cloud(classifier=tmp_path / "cloud" / "classifier.safetensors", device=CPU).open(known, ["a", "b"])
    assert torch.equal(again(known.protected[:3].float() / 255), logits)
    with pytest.raises(UsageError, match="other classes"):
        Cloud(classifier=tmp_path / "cloud" / "classifier.safetensors", device=CPU).open(known, ["a"])


@pytest.mark.parametrize(("init", "told"), [("gan-cifar10", "gan-cifar10"), ("runs/mine.safetensors", None)])
def test_an_owners_own_start_is_not_public(init, told):
    made = {"preset": "private", "data": "faces", "init": init, "seed": 5}
    found = public_recipe(LearnedScheme(UNet(UNetConfig(widths=(4, 8, 8))), training=made))
    assert found["init"] == told and found["data"] == "faces" and "seed" not in found
    assert UNetConfig(**found["architecture"]).widths == (4, 8, 8)


def test_recognition(faces_of_two, tmp_path):
    torch.manual_seed(0)
    network = build_classifier(classifier_smoke(), 2)
    network.whiten(faces_of_two.images.float() / 255)
    save_classifier(tmp_path / "eye", network, classifier_smoke(), faces_of_two.classes)
    eye = Recogniser.open(tmp_path / "eye", faces_of_two, SCHEMES["none"](), CPU)
    rate, (low, high) = eye.measure(faces_of_two.images, faces_of_two.labels)
    assert low <= rate <= high
    floor = eye.floors(faces_of_two.images, faces_of_two.labels)
    assert floor["ceiling"] == rate and floor["chance"] == 0.5 and {"blind", "label_only"} < set(floor)
    taught = LearnedScheme(UNet(UNetConfig(widths=(4, 8, 8))), training={"data": "faces"})
    with pytest.raises(UsageError, match="itself taught"):
        Recogniser.open(tmp_path / "eye", faces_of_two, taught, CPU)


# What is run


def test_each_attack_runs_where_it_first_has_what_it_uses(copying):
    assert threats_for(copying, THREATS) == ("ciphertext",) and threats_for(copying, ("oracle",)) == ("oracle",)
    assert threats_for(ATTACKS["confirmation"], THREATS) == ("oracle",)
    assert threats_for(ATTACKS["key-recovery"], THREATS) == ("pairs", "oracle")
    cells = plan("tanaka", attacks=("key-recovery", "copying", "jigsaw"), pairs=(1, 10))
    assert [cell.name for cell in cells] == [
        "ciphertext-copying",
        "pairs-1-key-recovery",
        "pairs-10-key-recovery",
        "oracle-key-recovery",
    ]
    assert {cell.attack for cell in plan("tanaka")} >= {"statistics", "key-recovery", "confirmation", "copying"}
    inverse = [cell.name for cell in plan("tanaka") if cell.attack == "inverse-network"]
    assert inverse == [
        "recipe-inverse-network",
        "pairs-100-inverse-network",
        "oracle-inverse-network",
        "oracle-inverse-network-loss=perceptual",
        "oracle-inverse-network-network=residual",
    ]


def test_what_was_not_asked_for_is_told_variant_by_variant():
    def lacking(threat, *attacks, algorithm="learned"):
        return left_out(threat, plan(algorithm, attacks=attacks), plan(algorithm), preset="quick")

    assert "statistics" in lacking("pairs", "key-recovery", algorithm="tanaka")
    assert lacking("gradients", *(name for name in ATTACKS if name not in ("brute-force", "leaked-inverse"))) == []
    # A name stands for all variants of an attack, one of them for itself, and other values for none of them.
    assert not any("inverse-network" in title for title in lacking("oracle", "inverse-network"))
    assert "inverse-network" not in lacking("oracle", "inverse-network:loss=mse")
    assert {"inverse-network (loss perceptual)", "inverse-network (network residual)"} <= set(
        lacking("oracle", "inverse-network:steps=1")
    )
    assert "inverse-network" in lacking("oracle", "inverse-network:steps=1")
    assert [cell.values for cell in plan("learned", attacks=["gradients"])] == list(ATTACKS["gradients"].variants)
    losses = {cell.values.get("loss") for cell in plan("learned", attacks=["inverse-network"], preset="paper")}
    assert losses == {None, "perceptual", "mse-ssim", "sign-free"}


def test_a_value_that_is_a_path_makes_no_folders():
    (cell,) = plan("learned", threats=["ciphertext"], attacks=["leaked-inverse:stolen=runs/mine"])
    assert "/" not in cell.name and cell.name.startswith("ciphertext-leaked-inverse-stolen=runs")


def test_attacks_that_train_run_with_three_seeds_in_paper():
    once, thrice = (plan("tanaka", threats=("pairs",), preset=preset) for preset in ("quick", "paper"))
    runs = Counter((cell.attack, str(cell.values)) for cell in thrice)
    for cell in once:
        assert runs[cell.attack, str(cell.values)] == (3 if ATTACKS[cell.attack].budgets else 1)
    assert [cell.name for cell in thrice if cell.attack == "inverse-network" and not cell.values] == [
        "pairs-100-inverse-network",
        "pairs-100-inverse-network-run-2",
        "pairs-100-inverse-network-run-3",
    ]
    assert len({cell.title for cell in thrice}) == len(thrice)


def test_repeats_change_the_seed_of_the_attack_alone(key, folder, tmp_path, copying):
    copying.budgets = {"paper": {}}
    options = AuditOptions(threats=("ciphertext",), attacks=("copying",), preset="paper", seed=5, device=CPU)
    run_audit(str(key), str(folder), tmp_path / "audit", options)
    assert copying.seeds[-3:] == [5, 6, 7]
    cells = [json.loads(path.read_text()) for path in (tmp_path / "audit" / "cells").glob("*/record.json")]
    assert sorted(cell["seed"] for cell in cells) == [5, 6, 7]
    # The same copies, judged among the same candidates.
    assert all(cell["metrics"] == cells[0]["metrics"] for cell in cells)
    assert ">copying (run 3)</th>" in (tmp_path / "audit" / "index.html").read_text()


def test_what_an_attacker_has_trained_before():
    cells = plan("learned", preset="paper", pairs=(100,))
    named = {cell.name: trained_before(cell, cells, Path("cells")) for cell in cells}
    first, second = (named[f"gradients-gradients-start=inverse{run}"] for run in ("", "-run-2"))
    assert first["inverse-network"] == Path("cells/oracle-inverse-network/training")
    assert second["inverse-network"] == Path("cells/oracle-inverse-network-run-2/training")
    # Whoever has nothing but protected images, or a few pairs, had no oracle to train with.
    assert named["ciphertext-gan"] == {} and "inverse-network" not in named["recipe-sdar"]
    assert "inverse-network" not in trained_before(Cell(threat="pairs", attack="gan"), cells, Path("cells"))


def test_a_control_starts_from_what_another_has_trained(tmp_path):
    search = next(row for row in CONTROLS if row.attack == "gradients")
    inverse = next(row for row in CONTROLS if (row.attack, row.scheme) == ("inverse-network", search.scheme))
    assert control_table.trained_before(search, tmp_path) == {"inverse-network": tmp_path / inverse.name}
    assert control_table.trained_before(inverse, tmp_path) == {}


def test_an_attack_with_values():
    name, values = parse_choice("feature-reconstruction:variant=basic")
    cell = Cell(threat="ciphertext", attack=name, values=values)
    assert cell.name == "ciphertext-feature-reconstruction-variant=basic" and cell.make("quick").variant == "basic"
    assert cell.make("quick") == make_attack(name, values)
    with pytest.raises(UsageError, match="depth=3"):
        parse_choice("feature-reconstruction:depth=3")


# What may be concluded


def made(attack: str = "statistics", threat: str = "ciphertext", **changes: Any) -> dict[str, Any]:
    """A record; `reid`, `ssim`, `mse`: (figure, low, high)."""
    reid, ssim = changes.pop("reid", (0.01, 0.006, 0.018)), changes.pop("ssim", (0.14, 0.135, 0.145))
    mse = changes.pop("mse", (0.95, 0.94, 0.96))
    blind = {"ssim": 0.12, "mse_var": 1.0, "reid_within": 0.011}
    label_only = {"ssim": 0.14, "mse_var": 0.93, "reid_within": 0.012}
    values: dict[str, Any] = {
        "metrics": {"reid_within": reid[0], "reid_within_candidates": 100.0, "ssim": ssim[0], "mse_var": mse[0]},
        "intervals": {"reid_within": list(reid[1:]), "ssim": list(ssim[1:]), "mse_var": list(mse[1:])},
        "floors": {"blind": blind, "label_only": label_only, "chance": {"reid_within": 0.01}},
    }
    common = {
        "task": "attack",
        "scheme": "tanaka",
        "data": "d",
        "preset": "exact",
        "seed": 0,
        "n": 1000,
        "seconds": 1.0,
    }
    return record(attack=attack, threat=threat, **(common | values | changes))


def with_figures(**more: float) -> dict[str, Any]:
    """A record of an attack that found nothing, with more figures."""
    found = made()
    return found | {"metrics": found["metrics"] | more}


def confirmed(rate: float, low: float, high: float) -> dict[str, Any]:
    return made(
        "confirmation",
        "oracle",
        metrics={"confirm_top1": rate, "confirm_candidates": 1000.0},
        intervals={"confirm_top1": [low, high]},
        floors={"chance": {"confirm_top1": 0.001}},
    )


def row(found: dict[str, Any], void: str | None = None) -> Row:
    result = outcome(found, void)
    attack = found["attack"] or ""
    return Row(title=attack, threat=found["threat"], record=found, outcome=result, attack=attack, reason=void or "")


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        (made(), "nothing"),
        (made(reid=(0.93, 0.91, 0.94)), "breaks"),
        # Lower ends decide: one half for a break, guessing (the best of all its kinds, 1.2 %) for a leak.
        (made(reid=(0.53, 0.50, 0.56)), "breaks"),
        (made(reid=(0.51, 0.48, 0.54)), "leaks"),
        (made(reid=(0.019, 0.0121, 0.03)), "leaks"),
        (made(reid=(0.018, 0.0119, 0.03)), "nothing"),
        # Fitted means beat measured ones by a little: 0.05 beyond the best guess are asked of the cautious end.
        (made(ssim=(0.20, 0.191, 0.21)), "leaks"),
        (made(ssim=(0.20, 0.189, 0.21)), "nothing"),
        (made(mse=(0.87, 0.86, 0.879)), "leaks"),
        (made(mse=(0.87, 0.86, 0.881)), "nothing"),
        (confirmed(1.0, 0.996, 1.0), "confirms"),
        (confirmed(0.001, 0.0, 0.006), "nothing"),
        (made(metrics={"attacker_plain": 1.0}, intervals={}, floors={}), "unjudged"),
    ],
)
def test_findings(found, expected):
    assert finding(found) == expected and breaks(found) == (expected == "breaks")


@pytest.mark.parametrize(
    ("likeness", "named", "unnamed"),
    [
        ({"ssim": (0.05, 0.04, 0.06), "mse": (0.7, 0.69, 0.71)}, "a squared error over variance of 0.700", "SSIM"),
        ({"ssim": (0.30, 0.29, 0.31), "mse": (1.4, 1.3, 1.5)}, "SSIM 0.300", "squared error"),
    ],
)
def test_only_what_beats_the_best_guess_is_evidence(likeness, named, unnamed):
    text = evidence(row(made(**likeness)))
    assert named in text and unnamed not in text


def test_a_doubt_that_is_inherited_counts_once():
    doubtful = [row(made(threat=threat), "it missed its control") for threat in ("ciphertext", "recipe", "pairs")]
    verdicts = [judge_threat(threat, doubtful) for threat in THREATS]
    assert all(sum("missed its control" in doubt for doubt in one.doubts) == 1 for one in verdicts)
    # The missed control, and that nothing was judged that uses what each of the five adds.
    assert "and 5 more reasons" in conclude("x", verdicts, preset="quick", images=1000)


def test_the_strongest_is_told_by_what_is_sure():
    sure, lucky = made("gan", reid=(0.30, 0.28, 0.32)), made("statistics", reid=(0.40, 0.20, 0.63))
    assert judge_threat("ciphertext", [row(sure), row(lucky)]).best.title == "gan"
    # Of two that name every image, the one that shows more of it.
    named = {"reid": (1.0, 0.994, 1.0)}
    clear, blurred = made("gan", ssim=(0.83, 0.82, 0.84), **named), made(ssim=(0.77, 0.76, 0.78), **named)
    for rows in ([row(clear), row(blurred)], [row(blurred), row(clear)]):
        assert judge_threat("ciphertext", rows).best.title == "gan"


def test_half_of_two_candidates_is_no_break():
    found = made(reid=(0.6, 0.55, 0.65))
    found["floors"]["chance"]["reid_within"] = 0.5
    assert finding(found) == "leaks"


def test_void_rows_never_reassure_and_a_success_proves_itself():
    passed, void = row(made("gan")), row(made("statistics"), "no control of this attack is recorded")
    assert judge_threat("ciphertext", [passed]).level == "held"
    doubtful = judge_threat("ciphertext", [passed, void])
    assert doubtful.level == "open" and "statistics: no control" in doubtful.doubts[0]
    assert judge_threat("ciphertext", [row(made(reid=(0.93, 0.91, 0.94)), "missed")]).level == "breaks"
    sentence = conclude("x", [doubtful], preset="quick", images=1000)
    assert "nothing that reassures" in sentence and "held" not in sentence and "no attack" not in sentence


@pytest.mark.parametrize(
    ("rows", "missing", "doubt"),
    [
        ([], [], "no attack that uses"),
        ([row(made(n=99))], [], "only 99 images"),
        ([row(made(preset="smoke"))], [], "smoke"),
        ([row(with_figures(attacker_protected=499.0))], [], "had only 499 protected images"),
        ([row(made())], ["gan"], "gan: not asked for"),
        (
            [row(made()), Row(title="gan", threat="ciphertext", record=None, outcome="not run", reason="it diverged")],
            [],
            "diverged",
        ),
        ([row(made(attack=None, threat="ciphertext") | {"attack": None})], [], "no attack that uses"),
    ],
)
def test_what_else_takes_reassurance_away(rows, missing, doubt):
    found = judge_threat("ciphertext", rows, missing=missing)
    assert found.level == "open" and any(doubt in one for one in found.doubts)


def test_stronger_threats_contain_weaker_ones():
    rows = [row(made(reid=(0.93, 0.91, 0.94))), row(made("inverse-network", "oracle")), row(made("sdar", "recipe"))]
    levels = {threat: judge_threat(threat, rows).level for threat in THREATS}
    assert set(levels.values()) == {"breaks"}
    rows = [row(made("key-recovery", "pairs", reid=(0.93, 0.91, 0.94))), row(made()), row(made("sdar", "recipe"))]
    levels = {threat: judge_threat(threat, rows).level for threat in THREATS}
    assert levels == {
        "ciphertext": "held",
        "recipe": "held",
        "pairs": "breaks",
        "oracle": "breaks",
        "gradients": "breaks",
    }


def test_a_public_deterministic_scheme_is_lost_to_the_oracle():
    rows = [row(made("gan")), row(made("inverse-network", "oracle")), row(confirmed(1.0, 0.996, 1.0))]
    verdicts = [judge_threat(threat, rows) for threat in ("ciphertext", "oracle")]
    assert [one.level for one in verdicts] == ["held", "held"] and verdicts[0].confirmation is None
    sentence = conclude("gan-cifar10", verdicts, preset="quick", images=1000)
    assert "can tell which image was protected" in sentence and "100.0 % [99.6 % to 100.0 %]" in sentence
    assert "under ciphertext and oracle no attack in the budget quick reconstructed" in sentence
    assert sentence.count(". ") == 0


def test_confirmation_hides_no_reconstruction():
    named = made("inverse-network", "oracle", reid=(0.45, 0.42, 0.48))
    rows = [row(named), row(confirmed(1.0, 0.996, 1.0))]
    found = judge_threat("oracle", rows)
    assert (found.level, found.best, found.confirmation) == ("leaks", rows[0], rows[1])
    sentence = conclude("gan-cifar10", [found], preset="quick", images=1000)
    assert "inverse-network names the right one" in sentence and "can tell which image was protected" in sentence
    screen = verdict_lines("gan-cifar10", "d", [found], sentence)
    assert screen[2].startswith("oracle      leaks       100.0 %     inverse-network: 45.0 %")


def test_confirmation_that_failed_or_was_left_out_says_nothing_of_reconstruction():
    rows = [row(made()), row(made("inverse-network", "oracle"))]
    lost = Row(title="confirmation", threat="oracle", record=None, outcome="not run", attack="confirmation")
    for more in ([row(confirmed(0.001, 0.0, 0.006), "missed")], [lost], []):
        found = judge_threat("oracle", rows + more)
        assert found.level == "held" and "can tell" not in conclude("x", [found], preset="quick", images=1000)
    # By itself it is no attack that reconstructs, so nothing has held.
    assert judge_threat("oracle", [rows[0], row(confirmed(0.001, 0.0, 0.006))]).level == "open"


def test_a_leak_says_why_it_may_be_worse_and_a_break_need_not():
    leak, void = row(made(reid=(0.03, 0.021, 0.043))), row(made("statistics"), "it missed its control")
    found = judge_threat("ciphertext", [leak, void], missing=["gan"])
    assert found.level == "leaks" and found.best is leak
    assert found.doubts == ("statistics: it missed its control", "gan: not asked for")
    sentence = conclude("x", [found], preset="quick", images=1000)
    assert (
        "under ciphertext more than that may come out (statistics: it missed its control, and 1 more reason)"
        in sentence
    )
    # Of what an oracle adds nothing was tried, although its attackers get the same leak.
    stronger = judge_threat("oracle", [leak])
    assert stronger.level == "leaks" and stronger.doubts == ("no attack that uses what oracle adds was judged",)
    assert judge_threat("ciphertext", [leak]).doubts == ()
    # What is open then stands on the page alone: it can make nothing worse.
    broken = judge_threat("ciphertext", [row(made(reid=(0.93, 0.91, 0.94))), void], missing=["gan"])
    assert broken.level == "breaks" and broken.doubts == found.doubts
    sentence = conclude("x", [broken], preset="quick", images=1000)
    assert not any("missed" in line or "gan" in line for line in verdict_lines("x", "d", [broken], sentence))


def test_the_sentence_names_the_weakest_attacker():
    worst = made("key-recovery", "pairs", reid=(1.0, 0.99, 1.0))
    rows = [row(made(reid=(0.03, 0.021, 0.043))), row(worst), row(made("inverse-network", "oracle", reid=(1, 0.99, 1)))]
    verdicts = [judge_threat(threat, rows) for threat in ("ciphertext", "pairs", "oracle")]
    sentence = conclude("tanaka", verdicts, preset="quick", images=1000)
    assert sentence.index("key-recovery") < sentence.index("gets more than guessing") and "inverse" not in sentence
    # Neither the cloud with its recipe nor somebody with pairs has all that the other has.
    rows = [row(made("sdar", "recipe", reid=(0.9, 0.88, 0.92))), row(worst)]
    both = conclude("tanaka", [judge_threat(one, rows) for one in THREATS], preset="quick", images=1000)
    assert both.index("a cloud that also uses") < both.index("some plain images with their protected selves")
    assert both.count("not private") == 2 and "can have any image" not in both
    assert conclude("tanaka", [], preset="quick", images=0).startswith("Nothing was judged")


def test_the_sentence_says_how_much_an_attacker_had_who_was_held_off():
    def had(attack, threat, **more):
        found = made(attack, threat)
        return row(found | {"metrics": found["metrics"] | {"attacker_protected": 25_000.0} | more})

    rows = [had("gan", "ciphertext"), had("inverse-network", "oracle")]
    rows += [had("key-recovery", "pairs", attacker_pairs=number) for number in (100.0, 1000.0)]
    verdicts = [judge_threat(threat, rows) for threat in ("ciphertext", "pairs", "oracle")]
    assert {one.level for one in verdicts} == {"held"}
    sentence = conclude("x", verdicts, preset="quick", images=1000)
    assert "by attackers who had 25,000 protected images and at most 1,000 pairs, which proves nothing" in sentence
    assert "better attacks or attackers who have more" in sentence
    # Whoever can have any image protected has as many pairs as he likes.
    sentence = conclude("x", [verdicts[0], verdicts[2]], preset="quick", images=1000)
    assert "25,000 protected images, which" in sentence and "pairs" not in sentence


# The page


def shown_page(rows: list[Row], folder: Path, *, missing: tuple[str, ...] = ()) -> str:
    """The page of an audit under `ciphertext` and `oracle`, as HTML."""
    subject: Any = SimpleNamespace(label="x", data="d", impossible={"gradients": "it is no network"}, key="")
    verdicts = [judge_threat(threat, rows, missing=missing) for threat in ("ciphertext", "oracle")]
    return render(audit_page(subject, rows, verdicts, "", controls=[], folder=folder, preset="quick"))


def test_the_page_names_each_open_reason_once_with_the_threat_models_it_concerns(tmp_path):
    viewer = Row(title="looking", threat="ciphertext", record=made(None), outcome="nothing")
    rows = [viewer, row(confirmed(0.001, 0.0, 0.006), "its control was missed")]
    html = shown_page(rows, tmp_path, missing=("gan",))
    for threats, reason in (
        ("ciphertext, oracle", "gan: not asked for"),
        ("oracle", "no attack that uses what oracle adds was judged"),
        ("oracle", "confirmation: its control was missed"),
        ("gradients", "every attack: it is no network"),
    ):
        assert re.search(f'<th scope="row">{threats}</th><td[^>]*>{reason}</td>', html) and html.count(reason) == 1
    # Also where a threat model is broken, by an attack or by looking.
    for by in (made(reid=(0.93, 0.91, 0.94)), made("inverse-network", "oracle", reid=(0.93, 0.91, 0.94))):
        assert html.count("BROKEN") < shown_page([*rows, row(by)], tmp_path, missing=("gan",)).count("BROKEN")
        assert "gan: not asked for" in shown_page([*rows, row(by)], tmp_path, missing=("gan",))


def test_the_page_shows_intervals_guesses_and_what_was_chosen_from(tmp_path):
    found = made()
    found["metrics"]["ssim_p95"] = 0.333
    html = shown_page([row(found), row(made("gan")), row(confirmed(1.0, 0.996, 1.0))], tmp_path)
    for cells in (
        ["1.0 %\n[0.6 % to 1.8 %]", "0.140\n[0.135 to 0.145]", "0.333", "0.950\n[0.940 to 0.960]"],
        ["1.1 %", "0.120", "", "1.000"],
        ["1.2 %", "0.140", "", "0.930"],
        ["1.0 %", "", "", ""],
    ):
        assert "".join(f"<td>{cell}</td>" for cell in cells) in html
    # The floors of two attacks on the same images are the same rows.
    assert all(html.count(f">{floor}</th>") == 1 for floor in ("guessing blindly", "guessing by the label alone"))
    assert "<td>100.0 %\n[99.6 % to 100.0 %]\nguessing 0.1 %</td>" in html
    assert "the right one of 100 of its class (reid_within)." in html
    assert "the right one of 1000 candidates (confirm_top1)." in html
    assert "made from, one of 100 of its class, since the class is known anyway" in html
    # Without labels, or with small classes.
    found["metrics"] |= {"reid_top1": 0.01, "reid_top1_candidates": 40.0, "reid_within_candidates": 4.0}
    found["intervals"]["reid_top1"] = [0.0, 0.1]
    html = shown_page([row(found)], tmp_path)
    assert "the right one of 40 of all classes (reid_top1)." in html and "class is known" not in html
    assert "made from, one of 40 of all classes, since there are no labels, or fewer than ten images of a class" in html


def test_the_page_shows_what_names_images_rather_than_what_is_grey(tmp_path, faces):
    grey = made("gan", reid=(0.09, 0.06, 0.13), ssim=(0.23, 0.22, 0.24))
    silhouettes = made("sia-gan", reid=(0.42, 0.36, 0.47), ssim=(0.08, 0.07, 0.09))
    rows = [replace(row(found), folder=found["attack"]) for found in (grey, silhouettes)]
    for one in rows:
        (tmp_path / one.folder).mkdir()
        (tmp_path / one.folder / "worst-reconstructed.png").write_bytes(sheet(faces[:2]))
    looking = Row(title="looking", threat="ciphertext", record=made(None, reid=(0.9, 0.89, 0.91)), outcome="breaks")
    for shown in (rows, [*rows, looking]):
        html = shown_page(shown, tmp_path)
        assert "ciphertext: sia-gan</h2>" in html and "ciphertext: gan</h2>" not in html


def test_the_page_names_every_machine_and_command(tmp_path):
    here = {"commit": "a", "device": "a processor", "command": "imageveil audit x"}
    there = {"commit": "b", "device": "a GPU", "command": "imageveil audit x --device cuda"}
    html = shown_page([row(made() | one) for one in (here, there, here)], tmp_path)
    footer = "commit a, a processor; commit b, a GPU; imageveil audit x; imageveil audit x --device cuda</footer>"
    assert html.endswith(f"{footer}\n</body>\n</html>") and html.count("a GPU") == 1


# Controls


def control(attack: str, scheme: str, passed: bool, **changes: Any) -> ControlResult:
    values = {"threat": "ciphertext", "metric": "ssim", "target": 0.5, "value": 0.4, "commit": "", "data": "d"}
    values["preset"] = "quick"
    return ControlResult(attack=attack, scheme=scheme, passed=passed, **(values | changes))


def cell(attack: str, threat: str = "ciphertext", **values: Any) -> Cell:
    return Cell(attack=attack, threat=threat, values=values)


def test_which_controls_speak():
    controls = [
        control("sia-gan", "tanaka", False),
        control("sia-gan", "random-conv", True),
        control("sdar", "blur", True),
    ]
    assert void_reason(cell("sia-gan"), "learned", controls) is None
    assert void_reason(cell("sdar", "recipe"), "learned", controls) is None
    assert "missed its control on tanaka" in void_reason(cell("sia-gan"), "tanaka", controls)
    assert void_reason(cell("sia-gan"), "extended", controls) is not None  # speaks for all: one was missed
    assert void_reason(cell("jigsaw"), "tanaka", controls).startswith("no control of this attack is recorded")
    assert len(relevant(cell("sia-gan"), "extended", controls)) == 2


def test_an_attack_without_the_labels_of_its_controls_is_void():
    # The images may have labels that the attack was told not to use.
    assert "this run used none" in without_labels({"metrics": {"ssim": 0.1, "labels": 0.0}})
    assert without_labels({"metrics": {"labels": 1.0}}) is None and without_labels({"metrics": {}}) is None


def test_each_generator_has_its_own_control():
    controls = [control("gan", "tanaka", True)]
    assert void_reason(cell("gan"), "extended", controls) is None
    assert void_reason(cell("gan", generator="block"), "learned", controls) is None
    command = "make one with: imageveil controls --data DATA --out FOLDER --only gan --only inverse-network"
    for algorithm, generator in (("learned", "unet"), ("unknown", "unet"), ("pixel-same", "pixel")):
        reason = void_reason(cell("gan"), algorithm, controls)
        assert reason.startswith(f"no control of this attack with its {generator} generator") and command in reason
    assert void_reason(cell("gan"), "learned", [*controls, control("gan", "random-conv", True)]) is None
    # What the controls are told is what the attack does.
    for name, kind in SCHEMES.items():
        public = PublicScheme(name=name, block=getattr(kind, "default_block", None), key_per_image=kind.needs_ids)
        made = make_attack("gan").make_generator(public)
        assert ("unet" in form("gan", name)) == isinstance(made, UNet)


def test_forms_and_budgets_that_no_control_speaks_for():
    trains = control("inverse-network", "random-conv", True, threat="oracle")
    steals = control("leaked-inverse", "learned", True, metric="mse_var", at_most=True)
    with_theft, without = cell("leaked-inverse", stolen="x"), cell("leaked-inverse", "recipe")
    assert void_reason(with_theft, "learned", [steals]) is None
    assert "no control of inverse-network" in void_reason(without, "learned", [steals])
    assert void_reason(without, "learned", [trains]) is None
    from_inverse = control("gradients", "random-conv", True, threat="gradients", metric="mse_var", at_most=True)
    assert void_reason(cell("gradients", "gradients", start="inverse"), "learned", [from_inverse]) is None
    reason = void_reason(cell("gradients", "gradients"), "learned", [from_inverse])
    assert "from the mean image" in reason and "none to make" in reason
    reason = void_reason(cell("gradients", "gradients", prior="network"), "learned", [from_inverse])
    assert "over the weights of a network" in reason and "none to make" in reason
    # One that needed more says nothing of less, one that needed less of more.
    large = control("sia-gan", "random-conv", True, preset="paper")
    assert "no control" in void_reason(cell("sia-gan"), "learned", [large])
    assert void_reason(cell("sia-gan"), "learned", [large], preset="paper") is None
    small = control("sia-gan", "random-conv", True, preset="quick")
    assert void_reason(cell("sia-gan"), "learned", [small], preset="paper") is None
    assert "no control" in void_reason(cell("sia-gan"), "learned", [small], preset="smoke")


def test_a_floor_that_is_kept_vouches_for_nothing():
    works = control("unshared-weights", "pixel-same", True, threat="pairs")
    floor = control("unshared-weights", "pixel-different", True, threat="pairs", target=0.14, at_most=True)
    assert void_reason(cell("unshared-weights", "oracle"), "pixel-different", [works, floor]) is None
    assert "no control of this attack" in void_reason(cell("unshared-weights", "pairs"), "pixel-different", [floor])
    missed = control("unshared-weights", "pixel-different", False, threat="pairs", target=0.14, at_most=True)
    assert "target below 0.14" in void_reason(cell("unshared-weights", "pairs"), "pixel-different", [works, missed])
    # Of an error little is a success.
    assert control("sdar", "random-conv", True, metric="mse_var", at_most=True).vouches and not floor.vouches


def test_a_command_that_makes_a_control_names_what_it_is_held_against():
    text = control_table.command("sia-gan")
    assert text == "imageveil controls --data DATA --out FOLDER --only sia-gan --only gan --only inverse-network"
    row = next(one for one in CONTROLS if one.attack == "sia-gan")
    with pytest.raises(UsageError, match="--data DATA --out FOLDER --only gan --only inverse-network --preset paper"):
        row.measured_by_peer([], data="d", preset="paper")
    # Other files below the folder are no records, such as the settings of a run and lists.
    reached = made("gan", ssim=(0.9, 0.9, 0.9), preset="paper", task="control")
    assert row.measured_by_peer([{"seed": 0}, [1], reached], data="d", preset="paper").target == 0.9


def test_own_controls_take_the_place_of_the_same_ones_of_the_package(tmp_path):
    shipped = next(one for one in load_controls() if (one.attack, one.scheme) == ("gan", "tanaka"))
    (path,) = (ROOT / "results" / "controls").glob("gan-tanaka-*.json")
    write_json(tmp_path / path.name, json.loads(path.read_text()) | {"passed": False})
    found = load_controls(tmp_path)
    assert shipped.passed and not any(one.passed for one in found if one.attack == "gan" and one.scheme == "tanaka")
    assert len(found) == len(load_controls())
    # One in another budget stands beside it.
    write_json(tmp_path / path.name, json.loads(path.read_text()) | {"passed": False, "preset": "paper"})
    assert len(load_controls(tmp_path)) == len(load_controls()) + 1 and shipped in load_controls(tmp_path)
    (tmp_path / "none").mkdir()
    with pytest.raises(UsageError, match="imageveil controls --data DATA --out"):
        load_controls(tmp_path / "none")


def test_the_page_says_on_which_side_of_a_target_a_control_must_stay(folder, tmp_path):
    SCHEMES["pixel-different"](bytes(32)).save(tmp_path / "pixels.safetensors")
    options = AuditOptions(threats=("ciphertext",), attacks=("feature-reconstruction:variant=basic",), device=CPU)
    run_audit(str(tmp_path / "pixels.safetensors"), str(folder), tmp_path / "audit", options)
    assert "<td>0.218 ± 0.01</td>" in (tmp_path / "audit" / "index.html").read_text()
    (floor,) = (one for one in load_controls() if one.scheme == "pixel-different" and one.threat == "pairs")
    assert floor.wanted == "below 0.14"


def test_the_package_holds_the_recorded_controls():
    shipped = load_controls()
    recorded = summarise(read_records(ROOT / "results" / "controls"))
    assert as_json(shipped) == as_json(recorded), "run: make tables"


def test_with_small_classes_all_classes_are_judged(tiles):
    # An exact copy breaks a scheme, though among two images of a class half of all guesses are right.
    labels = torch.arange(256) // 2
    shown = measure(tiles, tiles, labels)
    found = made() | {"metrics": shown.metrics, "intervals": shown.intervals, "n": 256}
    found["floors"] = {"chance": shown.floors}
    assert breaks(found) and headline(found) == "reid_top1"
    # Of classes with one image each nothing is asked, and nothing fails.
    assert "reid_within" not in measure(tiles[:20], tiles[:20], torch.arange(20)).metrics


def test_protected_images_must_consist_of_the_blocks_that_are_named(key, folder, tmp_path):
    options = AuditOptions(algorithm="tanaka", block=7, threats=("ciphertext",), preset="smoke", device=CPU)
    with pytest.raises(UsageError, match="do not consist of blocks of 7; say with --block"):
        run_audit(str(folder), None, tmp_path / "audit", options)


# The table of breaks


def test_the_cheapest_attack_that_breaks(tmp_path, monkeypatch):
    controls = [control("sdar", "random-conv", True)]
    monkeypatch.setattr("imageveil.audit.breaks.load_controls", lambda: controls)
    whole = (1.0, 0.99, 1.0)
    figures = {"attacker_protected": 1000.0, "attacker_plain": 500.0}
    found = {
        "a": made("key-recovery", "pairs", reid=whole, seconds=0.1),
        "b": made("statistics", reid=whole, seconds=90.0),
        "c": made("gan", reid=whole, seconds=300.0),
        "d": made("gan", scheme="mine"),
        "e": made("sdar", "recipe", scheme="mine", reid=(0.03, 0.02, 0.05)),
        "f": confirmed(1.0, 0.99, 1.0) | {"scheme": "mine"},
    }
    for name, one in found.items():
        one["metrics"] |= figures
        write_json(tmp_path / f"{name}.json", one)
    write_json(tmp_path / "config.json", {"seed": 0})
    lines = breaks_table(tmp_path).splitlines()
    # All that was offered, of which an attack may have used less.
    assert "| what the attacker has |" in lines[0]
    assert len(lines) == 6 and lines[2].startswith("| mine | d | none of 2 breaks it; nearest: sdar | recipe |")
    assert lines[3].startswith("| tanaka | d | statistics | ciphertext | 1,000 protected, 500 plain images | 90.0 |")
    theft = made("leaked-inverse", reid=whole, seconds=0.1) | {"scheme": "robbed"}
    theft["metrics"] |= {"logged_mse_var": 0.1}
    write_json(tmp_path / "theft.json", theft)
    [robbed] = [line for line in breaks_table(tmp_path).splitlines() if "robbed" in line]
    assert "| leaked-inverse | ciphertext | the owner's run directory, stolen | 0.1 |" in robbed
    # Whoever finds that asks for more than everyone who has no thief.
    write_json(tmp_path / "with.json", made("inverse-network", "oracle", reid=whole) | {"scheme": "robbed"})
    assert "| robbed | d | inverse-network | oracle |" in breaks_table(tmp_path)
    for name in ("theft", "with"):
        (tmp_path / f"{name}.json").unlink()
    write_json(
        tmp_path / "g.json",
        made("feature-reconstruction", scheme="pixels", reid=whole) | {"metrics": found["a"]["metrics"]},
    )
    assert "| feature-reconstruction | ciphertext | 1,000 protected images |" in breaks_table(tmp_path)
    seen = made(None) | {"task": "similarity", "seconds": 3.0, "scheme": "mine", "data": "large"}
    seen["metrics"] |= {"reid_within_mean_removed": 0.8, "ssim_mean_removed": 0.04}
    seen["intervals"] |= {"reid_within_mean_removed": [0.7, 0.9]}
    write_json(tmp_path / "seen.json", seen)
    viewer = "| mine | large | looking, the mean subtracted | ciphertext | 1,000 protected images |  | 0.040 | 80.0 %"
    assert viewer in breaks_table(tmp_path)
    # One image is less than many: where both ways break a scheme, looking is the cheaper one.
    plainly = made(None, reid=(0.6, 0.55, 0.65))
    both = seen | {name: seen[name] | plainly[name] for name in ("metrics", "intervals")}
    write_json(tmp_path / "seen.json", both)
    assert "| mine | large | looking | ciphertext | 1 protected image |  | 0.140 | 60.0 %" in breaks_table(tmp_path)
    seen["intervals"] |= {"reid_within_mean_removed": [0.4, 0.9]}
    write_json(tmp_path / "seen.json", seen)
    assert "looking" not in breaks_table(tmp_path)
    controls.clear()
    assert "nearest: sdar (its controls are open) | recipe |" in breaks_table(tmp_path)
    write_json(tmp_path / "b.json", found["b"] | {"seconds": 0.04})
    assert "500 plain images | < 0.1 |" in breaks_table(tmp_path)
