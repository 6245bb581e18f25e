"""`imageveil protect` from end to end: what is written, what is refused, and what goes wrong."""

import csv
import fcntl
import io
import json
import os
import struct
import subprocess
import sys
from pathlib import Path

import corpus
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from imageveil.cli import app
from imageveil.deploy.bulk import ProtectOptions, protect_source
from imageveil.deploy.listing import list_source
from imageveil.deploy.plan import FILES, Sizes, build_units
from imageveil.errors import RunError, UsageError
from imageveil.images.sources import open_source
from imageveil.networks.unet import UNet, UNetConfig
from imageveil.schemes.base import Scheme
from imageveil.schemes.learned import LearnedScheme
from imageveil.schemes.tanaka import TanakaScheme

QUICK = ProtectOptions(workers=0, quiet=True, engine="torch", precision="float32")


def quick(**values) -> ProtectOptions:
    return ProtectOptions(**{"workers": 0, "quiet": True, "engine": "torch", "precision": "float32", **values})


@pytest.fixture(scope="session")
def scheme_file(tmp_path_factory) -> str:
    torch.manual_seed(0)
    config = UNetConfig(widths=(4, 8, 8), head="contrast", top_skip=False, field=1)
    path = tmp_path_factory.mktemp("scheme") / "scheme.safetensors"
    LearnedScheme(UNet(config)).save(path)
    return str(path)


@pytest.fixture
def folder(tiles, tmp_path) -> Path:
    """20 images of 32x32 in two classes."""
    for number in range(20):
        path = tmp_path / "plain" / ("cat", "dog")[number % 2] / f"{number:02d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(tiles[number].permute(1, 2, 0).numpy()).save(path)
    return tmp_path / "plain"


def contents(root: Path) -> dict[str, bytes]:
    return {p.relative_to(root).as_posix(): p.read_bytes() for p in root.rglob("*") if p.is_file() and p.name[0] != "."}


def png_chunks(blob: bytes) -> set[bytes]:
    kinds, place = set(), 8
    while place < len(blob):
        (length,) = struct.unpack(">I", blob[place : place + 4])
        kinds.add(blob[place + 4 : place + 8])
        place += length + 12
    assert place == len(blob), "bytes after the last chunk"
    return kinds


def test_the_corpus_is_protected_skipped_and_reported(photograph, tmp_path, scheme_file):
    photo = Image.fromarray(photograph[:, 100:300:10, 100:340:10].permute(1, 2, 0).numpy())
    cases = corpus.build(photo)
    source = tmp_path / "plain"
    source.mkdir()
    for case in cases:
        (source / case.name).write_bytes(case.blob)
    (source / "linked.png").symlink_to(source / "UPPER.png")
    (source / "outside").symlink_to("/usr")
    os.mkfifo(source / "pipe.png")
    result = CliRunner().invoke(
        app,
        ["protect", str(source), str(tmp_path / "out"), "--scheme", scheme_file, "--workers", "1", "--engine", "torch"],
    )
    assert result.exit_code == 1, result.output
    report = json.loads((tmp_path / "out" / "protect-report.json").read_text())
    skipped = report["skipped"]
    assert report["images"] + len(skipped) == len(cases)
    for case in cases:
        assert case.fate == "either" or (case.name in skipped) == (case.fate == "skipped"), case.name
    assert set(report["other_files"]) == {"linked.png", "outside", "pipe.png"}
    images = [path for path in (tmp_path / "out").iterdir() if path.suffix == ".png"]
    assert len(images) == report["images"]
    for path in images:
        assert png_chunks(path.read_bytes()) == {b"IHDR", b"IDAT", b"IEND"}
        with Image.open(path) as image:
            assert image.mode == "RGB" and not image.info
    for path in (tmp_path / "out").iterdir():
        assert corpus.SECRET not in path.read_bytes(), path
    with Image.open(tmp_path / "out" / "turned-6.png") as image:
        assert image.size == (20, 24)  # upright


@pytest.mark.parametrize(("kind", "suffix"), [("png", ".png"), ("webp", ".webp"), ("jpeg", ".jpg")])
def test_formats_hold_what_the_scheme_made(folder, tmp_path, scheme_file, tiles, kind, suffix):
    protect_source(str(folder), tmp_path / "out", scheme_file, quick(format=kind))
    from imageveil.schemes import load_scheme

    expected = load_scheme(scheme_file).protect(tiles[:20])
    written = np.stack(
        [np.asarray(Image.open(tmp_path / "out" / f"{('cat', 'dog')[n % 2]}/{n:02d}{suffix}")) for n in range(20)]
    )
    difference = np.abs(written.astype(int) - expected.permute(0, 2, 3, 1).numpy())
    assert difference.max() <= 1 if kind != "jpeg" else 0 < difference.mean() < 12


@pytest.mark.parametrize(("kind", "suffix"), [("png", ".png"), ("webp", ".webp"), ("jpeg", ".jpg")])
def test_no_format_carries_metadata(photograph, tmp_path, scheme_file, kind, suffix):
    photo = Image.fromarray(photograph[:, :40, :48].permute(1, 2, 0).numpy())
    (tmp_path / "plain").mkdir()
    photo.save(tmp_path / "plain" / "a.jpg", exif=corpus.exif(1), comment=corpus.SECRET, icc_profile=corpus.SECRET * 9)
    assert corpus.SECRET in (tmp_path / "plain" / "a.jpg").read_bytes()
    protect_source(str(tmp_path / "plain"), tmp_path / "out", scheme_file, quick(format=kind))
    blob = (tmp_path / "out" / f"a{suffix}").read_bytes()
    assert corpus.SECRET not in blob
    if kind == "png":
        assert png_chunks(blob) == {b"IHDR", b"IDAT", b"IEND"}
    elif kind == "webp":
        assert blob[8:16] == b"WEBPVP8L"  # the simple layout, which has no place for anything but pixels
    else:
        assert not {f"APP{n}" for n in range(1, 16)} & {name for name, _ in Image.open(io.BytesIO(blob)).applist}
        assert "comment" not in Image.open(io.BytesIO(blob)).info


WATCHED = """
import json, os, sys
from imageveil.cli import main
import imageveil.deploy.bulk
written = set()
def note(event, arguments):
    if event == "open" and isinstance(arguments[0], (str, bytes)):
        if arguments[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
            written.add(os.path.abspath(os.fsdecode(arguments[0])))
sys.addaudithook(note)
try:
    main()
finally:
    print(json.dumps(sorted(written)))
"""


def test_nothing_is_written_but_to_the_destination(folder, tmp_path, scheme_file):
    own = tmp_path / "own"
    own.mkdir()
    words = ["protect", str(folder), str(tmp_path / "out"), "--scheme", scheme_file, "--workers", "0"]
    words += ["--engine", "torch", "--names", "hash"]
    places = {name: str(own) for name in ("HOME", "TMPDIR", "XDG_CACHE_HOME", "XDG_CONFIG_HOME", "IMAGEVEIL_CACHE")}
    run = subprocess.run(
        [sys.executable, "-B", "-c", WATCHED, *words], capture_output=True, text=True, cwd=own, env=os.environ | places
    )
    assert run.returncode == 0, run.stderr
    written = [Path(path) for path in json.loads(run.stdout.splitlines()[-1])]
    homes = (tmp_path / "out", tmp_path / "out.private")
    assert len(written) > 20 and all(set(path.parents) & set(homes) for path in written if path != Path("/dev/null"))
    assert not [path for path in own.rglob("*") if path.is_file()]


def test_parquet_out_is_deterministic_and_loads(folder, tmp_path, scheme_file):
    for out in ("a", "b"):
        protect_source(
            str(folder), tmp_path / out, scheme_file, quick(output="parquet", sizes=Sizes(images=8, bytes=2**30))
        )
    assert contents(tmp_path / "a") == contents(tmp_path / "b")
    shards = sorted(path.name for path in (tmp_path / "a").glob("*.parquet"))
    assert shards == [f"train-0000{n}-of-00003.parquet" for n in range(3)]
    source = open_source(str(tmp_path / "a"))
    labels = [record.label for record in source]
    assert source.classes == ["cat", "dog"] and labels == [0] * 10 + [1] * 10
    again = protect_source(str(tmp_path / "a"), tmp_path / "c", scheme_file, quick(output="folder"))
    assert again.outcome.images == 20 and (tmp_path / "c" / "train" / "dog" / "01.png").is_file()
    datasets = pytest.importorskip("datasets")
    data = datasets.load_dataset("parquet", data_dir=str(tmp_path / "a"), cache_dir=str(tmp_path / "hf"))["train"]
    assert data.features["label"].names == ["cat", "dog"] and data[3]["image"].size == (32, 32)
    pixels = np.stack([np.asarray(image) for image in data["image"]])
    check_that_it_trains(torch.from_numpy(pixels).permute(0, 3, 1, 2), torch.tensor(list(data["label"])))


def check_that_it_trains(images, labels):
    """A linear layer learns 20 protected images."""
    images = images.float() / 255
    images = (images - images.mean(dim=0)) / images.std()
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3072, 2))
    optimizer = torch.optim.Adam(model.parameters(), 1e-2)
    losses = []
    for _ in range(30):
        loss = torch.nn.functional.cross_entropy(model(images), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0] / 2


def test_folder_loads_with_torchvision_and_trains(folder, tmp_path, scheme_file):
    datasets = pytest.importorskip("torchvision.datasets")
    from torchvision.transforms.functional import pil_to_tensor

    protect_source(str(folder), tmp_path / "out", scheme_file, QUICK)
    data = datasets.ImageFolder(str(tmp_path / "out"), transform=pil_to_tensor)
    assert data.classes == ["cat", "dog"] and len(data) == 20
    check_that_it_trains(torch.stack([image for image, _ in data]), torch.tensor([label for _, label in data]))


def test_names_do_not_leak(folder, tmp_path, scheme_file):
    (folder / "cat" / "alice-passport.png").write_bytes(b"broken")
    for names in ("hash", "index"):
        out = tmp_path / names
        summary = protect_source(str(folder), out, scheme_file, quick(names=names))
        assert summary.outcome.images == 20 and len(summary.outcome.skipped) == 1
        text = b"".join(path.read_bytes() for path in out.rglob("*") if path.is_file() and path.suffix != ".png")
        assert b"alice" not in text and not [p for p in out.rglob("*.png") if p.stem in ("00", "alice-passport")]
        mapping = (tmp_path / f"{names}.private" / "names.csv").read_text()
        assert "cat/alice-passport.png" in mapping
        assert (tmp_path / f"{names}.private" / "names.csv").stat().st_mode & 0o077 == 0
        assert sorted(p.name for p in out.iterdir() if p.is_dir()) == ["cat", "dog"]
    # The hidden files tell neither the order of the source nor what a guess of it could be held against.
    journal = (tmp_path / "hash" / ".imageveil-journal-1-of-1.jsonl").read_text().splitlines()
    for line in map(json.loads, journal):
        assert list(line.get("outputs", ())) == sorted(line.get("outputs", ()))
    with (tmp_path / "hash.private" / "names.csv").open() as file:
        table = list(csv.DictReader(file))
    for secret in (b"", bytes.fromhex((tmp_path / "hash.private" / "names.key").read_text())):
        items = {item.key: item for item in list_source(str(folder)).items}
        named = [(items[row["source"]], row["protected"]) for row in table]
        for unit in build_units(named, parquet=False, sizes=FILES, show_source=False, key=secret):
            assert (unit.digest in "".join(journal)) == bool(secret)
    # A key that is gone is asked for, and no other one is drawn in silence.
    (tmp_path / "index.private" / "names.key").rename(tmp_path / "kept")
    with pytest.raises(UsageError, match=r"names.key is gone"):
        protect_source(str(folder), tmp_path / "index", scheme_file, quick(names="index"))
    (tmp_path / "index.private" / "names.key").write_text("00" * 32)
    with pytest.raises(UsageError, match="names key"):
        protect_source(str(folder), tmp_path / "index", scheme_file, quick(names="index"))
    # The same key gives the same names.
    key = (tmp_path / "hash.private" / "names.key").read_text()
    (tmp_path / "again.private").mkdir()
    (tmp_path / "again.private" / "names.key").write_text(key)
    protect_source(str(folder), tmp_path / "again", scheme_file, quick(names="hash"))
    assert contents(tmp_path / "again") == contents(tmp_path / "hash")


def test_same_stem_and_two_cases_keep_two_files(tiles, tmp_path, scheme_file):
    (tmp_path / "plain").mkdir()
    for name in ("a.png", "a.bmp", "A.bmp", "b.png"):
        Image.fromarray(tiles[0].permute(1, 2, 0).numpy()).save(tmp_path / "plain" / name)
    protect_source(str(tmp_path / "plain"), tmp_path / "out", scheme_file, QUICK)
    names = [path.name for path in (tmp_path / "out").glob("*.png")]
    assert len(names) == 4 and len({name.casefold() for name in names}) == 4 and "b.png" in names


def test_shards_together_are_the_whole(folder, tmp_path, scheme_file):
    sizes = Sizes(images=3, bytes=2**30)
    protect_source(str(folder), tmp_path / "whole", scheme_file, quick(sizes=sizes))
    for number in (1, 2, 3):
        protect_source(str(folder), tmp_path / "parts", scheme_file, quick(sizes=sizes, shard=f"{number}/3"))
    parts, whole = contents(tmp_path / "parts"), contents(tmp_path / "whole")
    assert {k: v for k, v in parts.items() if k.endswith(".png")} == {
        k: v for k, v in whole.items() if k.endswith(".png")
    }
    reports = [json.loads(v) for k, v in parts.items() if k.endswith(".json")]
    assert len(reports) == 3 and sum(report["images"] for report in reports) == 20
    with pytest.raises(UsageError, match="shards 3 instead of 2"):
        protect_source(str(folder), tmp_path / "parts", scheme_file, quick(sizes=sizes, shard="1/2"))


def test_same_command_continues_and_other_options_are_refused(folder, tmp_path, scheme_file):
    protect_source(str(folder), tmp_path / "out", scheme_file, QUICK)
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("*.png")}
    protect_source(str(folder), tmp_path / "out", scheme_file, QUICK)
    assert before == {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("*.png")}
    with pytest.raises(UsageError, match="format png instead of webp"):
        protect_source(str(folder), tmp_path / "out", scheme_file, quick(format="webp"))
    torch.manual_seed(1)
    LearnedScheme(UNet(UNetConfig(widths=(4, 8), field=1))).save(tmp_path / "other.safetensors")
    with pytest.raises(UsageError, match="scheme"):
        protect_source(str(folder), tmp_path / "out", str(tmp_path / "other.safetensors"), QUICK)
    # New and changed images are done on the next run.
    changed = folder / "cat" / "00.png"
    Image.new("RGB", (16, 16), "red").save(changed)
    Image.new("RGB", (16, 16), "red").save(folder / "cat" / "new.png")
    assert protect_source(str(folder), tmp_path / "out", scheme_file, QUICK).outcome.images == 21
    assert Image.open(tmp_path / "out" / "cat" / "00.png").size == (16, 16)
    protect_source(str(folder), tmp_path / "out", scheme_file, quick(format="webp", overwrite=True))
    assert (tmp_path / "out" / "cat" / "new.webp").is_file()


def test_overwriting_leaves_nothing_of_before(folder, tmp_path):
    for key in ("old", "new"):
        TanakaScheme.generate().save(tmp_path / key)
    keyed = {"engine": "auto", "precision": "auto", "sizes": Sizes(images=7, bytes=2**30)}

    def run(key, out, **values):
        return protect_source(str(folder), tmp_path / out, str(tmp_path / key), quick(**keyed, **values))

    def images(out):
        return {name: blob for name, blob in contents(tmp_path / out).items() if name.endswith(".png")}

    run("new", "expected")
    expected = images("expected")
    # Two shares by the old key, then by the new one: nothing by the old one is left beside the first new share.
    for number in (1, 2):
        run("old", "out", shard=f"{number}/2")
    first = run("new", "out", shard="1/2", overwrite=True).outcome.images
    assert images("out").items() <= expected.items() and len(images("out")) == first < 20
    assert run("new", "out", shard="2/2").outcome.images == 20 - first
    assert images("out") == expected
    # Both started afresh by the same key: neither deletes what the other has written since.
    for number in (1, 2):
        run("new", "out", shard=f"{number}/2", overwrite=True)
    assert images("out") == expected
    # Another ending and number of shards: what the runs before wrote is gone, also their reports.
    run("old", "out", format="webp", overwrite=True)
    assert {Path(name).suffix for name in contents(tmp_path / "out")} == {".webp", ".json"}
    assert [path.name for path in (tmp_path / "out").glob("protect*")] == ["protect-report.json"]
    assert [path.name for path in (tmp_path / "out.private").glob("names*")] == ["names.csv"]
    # Mine are not touched.
    (tmp_path / "out" / "mine.png").write_bytes(b"mine")
    run("new", "out", overwrite=True)
    assert images("out") == {**expected, "mine.png": b"mine"}


def test_a_fresh_start_that_was_cut_short_is_finished(folder, tmp_path, scheme_file, monkeypatch):
    protect_source(str(folder), tmp_path / "out", scheme_file, QUICK)
    with monkeypatch.context() as patch:
        patch.setattr(
            "imageveil.deploy.destination.remove_outputs", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt)
        )
        with pytest.raises(KeyboardInterrupt):
            protect_source(str(folder), tmp_path / "out", scheme_file, quick(format="webp", overwrite=True))
    assert list((tmp_path / "out").rglob("*.png"))
    protect_source(str(folder), tmp_path / "out", scheme_file, quick(format="webp"))
    assert not list((tmp_path / "out").rglob("*.png")) and len(list((tmp_path / "out").rglob("*.webp"))) == 20
    # A journal that was tampered with does not lead out of the destination.
    (tmp_path / "mine.png").write_bytes(b"mine")
    (tmp_path / "out" / "away").symlink_to(tmp_path)
    journal = tmp_path / "out" / ".imageveil-journal-1-of-1.jsonl"
    foreign = {"begin": "x", "outputs": ["../mine.png", str(tmp_path / "mine.png"), "away/mine.png"]}
    journal.write_text(journal.read_text() + json.dumps(foreign) + "\n")
    protect_source(str(folder), tmp_path / "out", scheme_file, quick(format="webp", overwrite=True))
    assert (tmp_path / "mine.png").read_bytes() == b"mine"
    # A journal that cannot be read is no obstacle to a fresh start.
    (tmp_path / "out" / ".imageveil-journal-1-of-1.jsonl").write_text("{\n")
    (tmp_path / "out" / ".imageveil-settings.json").write_text("{")
    protect_source(str(folder), tmp_path / "out", scheme_file, quick(format="webp", overwrite=True))
    assert protect_source(str(folder), tmp_path / "out", scheme_file, quick(format="webp")).outcome.images == 20


@pytest.mark.parametrize("output", ["folder", "parquet"])
def test_what_is_gone_is_protected_again(folder, tmp_path, scheme_file, output):
    (folder / "cat" / "broken.png").write_bytes(b"broken")
    protect_source(str(folder), tmp_path / "out", scheme_file, quick(output=output))
    before = contents(tmp_path / "out")
    (tmp_path / "out" / next(name for name in before if "json" not in name)).unlink()
    protect_source(str(folder), tmp_path / "out", scheme_file, quick(output=output))
    assert contents(tmp_path / "out") == before


def test_nothing_is_overwritten_unasked(folder, tmp_path, scheme_file):
    mine = tmp_path / "out" / "dog" / "19.png"
    mine.parent.mkdir(parents=True)
    mine.write_bytes(b"mine")
    with pytest.raises(UsageError, match="already there"):
        protect_source(str(folder), tmp_path / "out", scheme_file, QUICK)
    assert mine.read_bytes() == b"mine" and not list((tmp_path / "out").rglob("0*.png"))
    protect_source(str(folder), tmp_path / "out", scheme_file, quick(overwrite=True))
    assert mine.read_bytes() != b"mine"


@pytest.mark.parametrize(
    ("source", "destination", "options", "sentence"),
    [
        ("plain", "plain/out", {}, "contain one another"),
        ("plain/cat", "plain", {}, "contain one another"),
        ("plain", "plain", {}, "contain one another"),
        ("missing", "out", {}, "does not exist"),
        ("plain", "out", {"shard": "3/2"}, "--shard 3/2"),
        ("plain", "out", {"shard": "x"}, "--shard x"),
        ("plain", "out", {"format": "gif"}, "--format gif"),
        ("plain", "out", {"names": "none"}, "--names none"),
        ("plain", "out", {"engine": "warp"}, "--engine warp is unknown"),
        ("plain", "plain/cat/00.png", {}, "contain one another"),
    ],
)
def test_wrong_use_is_one_sentence(folder, tmp_path, scheme_file, source, destination, options, sentence):
    with pytest.raises(UsageError, match=sentence) as caught:
        protect_source(str(tmp_path / source), tmp_path / destination, scheme_file, quick(**options))
    assert "\n" not in str(caught.value)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["plain"]


def test_a_file_may_lie_beside_its_destination_and_not_inside(tiles, tmp_path, scheme_file):
    rows = [{"bytes": corpus.encoded(Image.fromarray(tiles[0].permute(1, 2, 0).numpy()), "PNG"), "path": "a"}]
    pq.write_table(pa.table({"image": rows}), tmp_path / "mine.parquet")
    assert protect_source(str(tmp_path / "mine.parquet"), tmp_path / "out", scheme_file, QUICK).outcome.images == 1
    (tmp_path / "in").mkdir()
    (tmp_path / "mine.parquet").rename(tmp_path / "in" / "mine.parquet")
    with pytest.raises(UsageError, match="contain one another"):
        protect_source(str(tmp_path / "in" / "mine.parquet"), tmp_path / "in", scheme_file, QUICK)


def test_strict_stops_and_can_be_continued(folder, tmp_path, scheme_file):
    (folder / "cat" / "05.png").write_bytes(b"broken")
    with pytest.raises(RunError, match=r"cat/05\.png: not an image"):
        protect_source(str(folder), tmp_path / "out", scheme_file, quick(strict=True))
    (folder / "cat" / "05.png").unlink()
    assert protect_source(str(folder), tmp_path / "out", scheme_file, quick(strict=True)).outcome.images == 20


def test_second_run_on_one_destination_refuses(folder, tmp_path, scheme_file):
    protect_source(str(folder), tmp_path / "out", scheme_file, QUICK)
    with (tmp_path / "out" / ".imageveil-journal-1-of-1.jsonl").open("rb") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        with pytest.raises(RunError, match="another run is writing"):
            protect_source(str(folder), tmp_path / "out", scheme_file, QUICK)


def test_full_disk_is_one_sentence_and_the_journal_stays(folder, tmp_path, scheme_file):
    limit = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (2000, 2000))"
    # Imported first and without bytecode files, which the limit would cut short.
    code = f"from imageveil.cli import main\nimport imageveil.deploy.bulk\n{limit}\nmain()"
    words = [
        "protect",
        str(folder),
        str(tmp_path / "out"),
        "--scheme",
        scheme_file,
        "--workers",
        "0",
        "--engine",
        "torch",
    ]
    words += ["--precision", "float32"]
    run = subprocess.run([sys.executable, "-B", "-c", code, *words], capture_output=True, text=True)
    assert run.returncode == 1 and "cannot write" in run.stderr and "Traceback" not in run.stderr
    assert not list((tmp_path / "out").rglob("*.png")) and not list((tmp_path / "out").rglob("*tmp"))
    assert protect_source(str(folder), tmp_path / "out", scheme_file, QUICK).outcome.images == 20


def test_read_only_destination(folder, tmp_path, scheme_file, monkeypatch):
    def refuse(*_, **__):
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr(Path, "mkdir", refuse)
    with pytest.raises(RunError, match=r"cannot write .*Read-only file system"):
        protect_source(str(folder), tmp_path / "out", scheme_file, QUICK)


def test_vanished_source_and_vanished_file(folder, tmp_path, scheme_file, monkeypatch):
    from imageveil.deploy import pipeline

    whole, moved = pipeline.decode_part, tmp_path / "moved"

    def vanish(*args, **kwargs):
        if folder.exists():
            folder.rename(moved)
        return whole(*args, **kwargs)

    monkeypatch.setattr(pipeline, "decode_part", vanish)
    with pytest.raises(RunError, match=r"source .* has vanished"):
        protect_source(str(folder), tmp_path / "out", scheme_file, QUICK)
    moved.rename(folder)

    def lose(*args, **kwargs):
        (folder / "dog" / "07.png").unlink(missing_ok=True)
        return whole(*args, **kwargs)

    monkeypatch.setattr(pipeline, "decode_part", lose)
    summary = protect_source(str(folder), tmp_path / "out", scheme_file, QUICK)
    assert summary.outcome.skipped == {"dog/07.png": "vanished after it was listed"}


def _die(*_: object) -> None:
    os._exit(9)


def test_dying_worker_is_one_sentence(folder, tmp_path, scheme_file, monkeypatch):
    from imageveil.deploy import pipeline

    with monkeypatch.context() as patch:
        patch.setattr(pipeline, "decode_part", _die)
        with pytest.raises(RunError, match="a worker process died"):
            protect_source(str(folder), tmp_path / "out", scheme_file, quick(workers=1))
    assert protect_source(str(folder), tmp_path / "out", scheme_file, QUICK).outcome.images == 20


class Padded(Scheme):
    """A keyed stand-in that pads to 16 and shows whose key it used."""

    name = "test-padded"
    needs_ids = True

    def protect(self, images, *, ids=None, generator=None):
        out = torch.nn.functional.pad(images, (0, -images.shape[3] % 16, 0, -images.shape[2] % 16))
        for image, name in zip(out, ids, strict=True):
            image[:, 0, 0] = sum(name.encode()) % 256
        return out

    def state(self):
        return {"key": torch.arange(4)}, {}

    @classmethod
    def from_state(cls, tensors, metadata):
        return cls()


def test_keyed_schemes_get_ids_and_true_sizes_are_kept(photograph, tmp_path):
    (tmp_path / "plain").mkdir()
    Image.fromarray(photograph[:, :20, :33].permute(1, 2, 0).numpy()).save(tmp_path / "plain" / "a.png")
    Padded().save(tmp_path / "key.safetensors")
    with pytest.raises(UsageError, match="are for learned schemes, not for 'test-padded'"):
        protect_source(str(tmp_path / "plain"), tmp_path / "out", str(tmp_path / "key.safetensors"), quick())
    keyed = quick(engine="auto", precision="auto")
    protect_source(str(tmp_path / "plain"), tmp_path / "out", str(tmp_path / "key.safetensors"), keyed)
    image = np.asarray(Image.open(tmp_path / "out" / "a.png"))
    assert image.shape == (32, 48, 3) and image[0, 0, 0] == sum(b"a.png") % 256
    report = json.loads((tmp_path / "out" / "protect-report.json").read_text())
    assert report["true_sizes"] == {"a.png": [33, 20]} and report["engine"] == "scheme"


def test_paths_inside_parquet_do_not_lead_out(tiles, tmp_path, scheme_file):
    blob = corpus.encoded(Image.fromarray(tiles[0].permute(1, 2, 0).numpy()), "PNG")
    rows = [{"bytes": blob, "path": path} for path in ("../../evil.png", "/etc/evil.png", None, "same.png", "same.png")]
    (tmp_path / "plain").mkdir()
    pq.write_table(pa.table({"image": rows}), tmp_path / "plain" / "data.parquet")
    summary = protect_source(str(tmp_path / "plain"), tmp_path / "out", scheme_file, quick(output="folder"))
    assert summary.outcome.images == 5 and len(list((tmp_path / "out").rglob("*.png"))) == 5
    assert not list(tmp_path.glob("evil*"))


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="measures processor time through /proc")
@pytest.mark.parametrize(("kills", "workers", "output"), [(32, 0, "folder"), (14, 0, "parquet"), (4, 2, "folder")])
def test_fifty_kills_change_nothing(tiles, tmp_path, scheme_file, kills, workers, output):
    for number in range(60):
        path = tmp_path / "plain" / f"{number % 3}" / f"{number:02d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(tiles[number].permute(1, 2, 0).numpy()).save(path)
    program = Path(__file__).with_name("interrupted.py")
    words = [tmp_path / "plain", tmp_path / "out", scheme_file, tmp_path / "reference", kills, workers, output]
    run = subprocess.run([sys.executable, program, *map(str, words)], capture_output=True, text=True)
    assert run.returncode == 0 and f"{kills} kills" in run.stdout, run.stderr[-2000:]
