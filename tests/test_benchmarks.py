"""What makes many records at once."""

import argparse
import itertools
import sys
import time
from pathlib import Path

import pytest

GPU = Path(__file__).parents[1] / "benchmarks" / "gpu"

pytestmark = pytest.mark.skipif(not GPU.is_dir(), reason="a checkout has benchmarks, an sdist has none")


@pytest.fixture
def records(monkeypatch):
    monkeypatch.syspath_prepend(str(GPU))
    import records

    return records


def test_jobs_run_side_by_side_and_end_in_time(records, tmp_path, capsys):
    def job(name: str, *programs: str):
        commands = [[sys.executable, "-c", program] for program in programs]
        return records.Job(name=name, commands=commands, log=tmp_path / "logs" / f"{name}.log")

    begun = time.monotonic()
    jobs = [
        job("good", "print('first')", f"open({str(tmp_path / 'good')!r}, 'w')"),
        job("bad", "raise SystemExit(3)", f"open({str(tmp_path / 'bad')!r}, 'w')"),
        job("long", f"import time; time.sleep(60); open({str(tmp_path / 'long')!r}, 'w')", "print('never')"),
    ]
    assert records.run(jobs, at_once=3, until=begun + 5) == ["bad", "long"]
    assert time.monotonic() - begun < 30
    assert (tmp_path / "good").is_file() and not (tmp_path / "bad").exists()
    assert "first" in (tmp_path / "logs" / "good.log").read_text()
    assert "FAILED bad" in capsys.readouterr().out
    assert records.run(jobs[:1], at_once=1, until=begun) == ["good"]  # no time left, nothing started


def test_what_is_recorded_is_not_made_again(records, tmp_path):
    folders = {name: tmp_path / name for name in ("data", "results", "runs")}
    given = argparse.Namespace(**folders, preset="quick", surrogate=Path("another.safetensors"))
    cells = "audits/gan-cifar10-photos96/cells"
    made = {
        "accuracies": ("classify/cifar10-block-ffx.json", "accuracy-block-ffx"),
        "attacks_of_table_one": ("table-one/photos96-gan-tanaka.json", "table-one-gan-tanaka"),
        "controls": ("controls/inverse-network-blur-ssim-cifar10.json", "control-blur-cifar10"),
        "audits": (f"{cells}/ciphertext-gan/record.json", "audit-photos96-ciphertext-gan"),
        "private": ("attacks/cifar10-sdar-private-recipe.json", "private-sdar"),
    }
    for kind, (path, name) in made.items():
        before = dict(getattr(records, kind)(given))
        (tmp_path / "results" / path).parent.mkdir(parents=True)
        (tmp_path / "results" / path).write_text("{}")
        after = dict(getattr(records, kind)(given))
        assert before.keys() - after.keys() == {name} and after
    # The control `class` is made of a classifier of plain images, which comes first.
    plain, of_class = dict(records.accuracies(given))["accuracy-class"]
    assert str(Path(plain[plain.index("--run") + 1]) / "classifier.safetensors") in of_class
    assert all(
        {"--preset", "--surrogate"} <= {*command} for _, commands in records.audits(given) for command in commands
    )


def test_a_search_that_starts_from_a_network_comes_behind_its_training(records, tmp_path):
    given = argparse.Namespace(data=tmp_path, results=tmp_path, runs=tmp_path, preset="quick", surrogate=None)

    def cells(command):
        return [after for option, after in itertools.pairwise(command) if option == "--cell"]

    made = {name: cells(command) for name, [command] in records.audits(given)}
    trained, continued = "oracle-inverse-network", "gradients-gradients-start=inverse"
    assert made[f"audit-cifar10-{trained}"] == [trained, continued]
    planned = [cell.name for cell in records.plan("learned", preset="quick")]
    assert sorted(itertools.chain.from_iterable(made.values())) == sorted(2 * planned)
    record = tmp_path / "audits" / "gan-cifar10-cifar10" / "cells" / trained / "record.json"
    record.parent.mkdir(parents=True)
    record.write_text("{}")
    # Its network is trained, but may lie elsewhere: the call finds it or trains it again.
    assert dict(records.audits(given))[f"audit-cifar10-{trained}"] == [
        [*records.audit(given, "cifar10"), "--cell", trained, "--cell", continued]
    ]


def test_a_weight_of_the_transform_is_judged_once(records, tmp_path):
    given = argparse.Namespace(data=tmp_path, results=tmp_path, runs=tmp_path, preset="quick")
    weights = records.transform_weight.WEIGHTS
    assert len(dict(records.transforms(given))) == len(weights)
    folder = tmp_path / "transform"
    folder.mkdir()
    for number, path in enumerate(records.transform_weight.paths(folder, weights[1])):
        assert len(dict(records.transforms(given))) == len(weights), number
        path.write_text("{}")
    assert f"transform{weights[1]}" not in dict(records.transforms(given)) and len(dict(records.transforms(given))) == 3


def test_an_attack_that_trains_can_be_continued_and_looked_at(monkeypatch, tmp_path):
    monkeypatch.syspath_prepend(str(GPU.parent))
    import breaks

    commands = []
    monkeypatch.setattr(breaks.subprocess, "run", lambda command, check: commands.append(command))
    given = argparse.Namespace(data="data/photos96", plain=None, preset="quick", runs=tmp_path, out=tmp_path / "out")
    for attack in ("gan", "statistics"):
        breaks.run(breaks.Trial(scheme="pixel-same", attack=attack), given)
    trains, exact = commands
    assert trains[trains.index("--run") + 1] == str(tmp_path / "photos96-gan-pixel-same") and "--run" not in exact
    assert trains[trains.index("--sheet") + 1] == str(tmp_path / "out" / "photos96-gan-pixel-same.png")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "photos96-gan-pixel-same.json").write_text("{}")
    breaks.run(breaks.Trial(scheme="pixel-same", attack="gan"), given)
    assert len(commands) == 2
