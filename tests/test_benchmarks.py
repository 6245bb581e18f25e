"""What makes many records at once."""

import argparse
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
    given = argparse.Namespace(**folders, preset="quick")
    made = {
        "accuracies": ("classify/cifar10-block-ffx.json", "accuracy-block-ffx"),
        "attacks_of_table_one": ("table-one/photos96-gan-tanaka.json", "table-one-gan-tanaka"),
        "controls": ("controls/inverse-network-blur-ssim-cifar10.json", "control-blur-cifar10"),
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
    assert all("--preset" in command for _, commands in records.audits(given) for command in commands)


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
