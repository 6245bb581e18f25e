"""What lies in a destination already: nothing may stay there, or be lost, that the owner would not expect."""

import fcntl
import itertools
import json
import os
import subprocess
import sys
import threading
from pathlib import Path

import corpus
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from imageveil.deploy import workers
from imageveil.deploy.bulk import ProtectOptions, protect_source
from imageveil.deploy.journal import settling
from imageveil.deploy.listing import Item
from imageveil.deploy.plan import Sizes, build_units, in_hidden_order, unit_sizes
from imageveil.deploy.reveal import reveal_folder
from imageveil.errors import RunError, UsageError
from imageveil.images.decode import ImageError
from imageveil.images.sinks import TEMPORARY
from imageveil.schemes.catalogue import write_key

ONE = Sizes(images=1, bytes=2**30)


class Owner:
    """Somebody with photographs, keys and a destination."""

    def __init__(self, root: Path, tiles: np.ndarray) -> None:
        self.root, self.tiles = root, tiles
        self.source, self.out, self.private = root / "plain", root / "out", root / "out.private"

    def add(self, *names: str) -> None:
        """Save one image a name, each another one."""
        for name in names:
            path = self.source / name
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(self.pixels(name)).save(path)

    def add_rows(self, *paths: str, file: str = "data.parquet") -> None:
        rows = [
            {"bytes": corpus.encoded(Image.fromarray(self.tiles[number]), "PNG"), "path": path}
            for number, path in enumerate(paths)
        ]
        self.source.mkdir(exist_ok=True)
        pq.write_table(pa.table({"image": rows}), self.source / file)

    def pixels(self, name: str) -> np.ndarray:
        return self.tiles[sum(name.encode()) % len(self.tiles)]

    def key(self, name: str, scheme: str = "") -> str:
        path = self.root / name
        if not path.exists():
            write_key(scheme or name, path)
        return str(path)

    def protect(self, scheme: str, **options):
        options = {"workers": 0, "quiet": True, **options}
        return protect_source(str(self.source), self.out, self.key(scheme), ProtectOptions(**options))

    def found(self) -> dict[str, np.ndarray]:
        paths = sorted(path for path in self.out.rglob("*") if path.suffix in (".png", ".webp") and path.is_file())
        return {path.relative_to(self.out).as_posix(): np.asarray(Image.open(path)) for path in paths}

    def revealed(self, key: str, **options):
        report = reveal_folder(self.key(key), self.out, self.root / "back", overwrite=True, **options)
        back = self.root / "back"
        return report, {p.relative_to(back).as_posix(): np.asarray(Image.open(p)) for p in back.rglob("*.png")}

    def damage(self, name: str) -> None:
        path = self.source / name
        path.write_bytes(path.read_bytes()[:60])

    def outputs(self, tag: str = "1-of-1") -> list[str]:
        lines = (self.out / f".imageveil-journal-{tag}.jsonl").read_text().splitlines()
        return [output for line in map(json.loads, lines) for output in line.get("outputs", ())]


@pytest.fixture
def owner(tiles, tmp_path) -> Owner:
    return Owner(tmp_path, tiles.permute(0, 2, 3, 1).contiguous().numpy())


def interrupt_after(monkeypatch, units: int) -> None:
    """Let as many calls for decoding through."""
    whole, left = workers.decode_part, iter(range(units))

    def decode_part(*args, **values):
        if next(left, None) is None:
            raise KeyboardInterrupt
        return whole(*args, **values)

    monkeypatch.setattr("imageveil.deploy.pipeline.decode_part", decode_part)


# Plain images, and images under another scheme


@pytest.mark.parametrize("journal", ["", "old"])
def test_an_image_that_is_skipped_leaves_nothing_of_before(owner, journal):
    owner.add("a/1.png", "a/2.png", "b/3.png")
    owner.protect("none")
    if journal:  # of a version that lists outputs only
        lines = [{"settings": "x", "afresh": False}, {"begin": "y", "outputs": sorted(owner.found())}]
        (owner.out / ".imageveil-journal-1-of-1.jsonl").write_text("\n".join(map(json.dumps, lines)) + "\n")
    owner.damage("b/3.png")
    owner.protect("tanaka", overwrite=True)
    assert sorted(owner.found()) == ["a/1.png", "a/2.png"] and not (owner.out / "b").exists()
    for name, pixels in owner.found().items():
        assert not np.array_equal(pixels, owner.pixels(name))
    # An image that was changed and cannot be read any more does not keep its old one, either.
    owner.damage("a/2.png")
    assert owner.protect("tanaka").exit_code == 1 and sorted(owner.found()) == ["a/1.png"]


def test_no_share_is_started_afresh_with_another_scheme_while_one_is_at_work(owner):
    owner.add(*(f"{number}.png" for number in range(8)))
    owner.protect("none", shard="1/2", sizes=ONE)
    before = {path: path.read_bytes() for path in owner.out.rglob("*") if path.is_file()}
    with (owner.out / ".imageveil-journal-1-of-2.jsonl").open("rb") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        for shard in ("2/2", "1/1"):
            with pytest.raises(RunError, match="another run is writing"):
                owner.protect("tanaka", shard=shard, overwrite=True)
    after = {path: path.read_bytes() for path in owner.out.rglob("*") if path.is_file()}
    assert {path: after[path] for path in before} == before and not any(after[path] for path in after.keys() - before)
    # The same scheme may be: every share of an array of jobs asks for it.
    with (owner.out / ".imageveil-journal-1-of-2.jsonl").open("rb") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        owner.protect("none", shard="2/2", sizes=ONE, overwrite=True)
    assert len(owner.found()) == 8


def test_one_run_at_a_time_settles_whose_a_destination_is(owner):
    owner.add("1.png")
    owner.key("tanaka")
    thread = threading.Thread(target=owner.protect, args=("tanaka",), kwargs={"shard": "1/2"})
    with settling(owner.out):
        thread.start()
        thread.join(0.3)
        assert thread.is_alive() and not (owner.out / ".imageveil-settings.json").exists()
    thread.join(30)
    with pytest.raises(UsageError, match="begun with kind tanaka instead of none"):
        owner.protect("none", shard="2/2")


# The key and what else undoes the images


def test_which_key_it_was_is_written_down_before_the_first_image(owner, monkeypatch):
    owner.add("1.png", "2.png")
    owner.key("A", "tanaka"), owner.key("B", "tanaka")
    for key, other, options in (("A", "B", {}), ("B", "A", {"overwrite": True})):
        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
            interrupt_after(patch, 0)
            owner.protect(key, **options)
        with pytest.raises(UsageError, match="fingerprint differs"):
            owner.revealed(other)
    owner.protect("B")
    assert owner.revealed("B")[0].count == 2
    assert (owner.private / "key.json").stat().st_mode & 0o077 == 0
    owner.protect("none", overwrite=True)  # has no key
    assert not (owner.private / "key.json").exists() and not list(owner.private.glob("names*"))


def test_an_interrupted_run_can_be_undone(owner, monkeypatch):
    owner.add(*(f"{number}.bmp" for number in range(4)))
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        interrupt_after(patch, 3)
        owner.protect("pixel-different", sizes=ONE)
    report, back = owner.revealed("pixel-different")
    assert report.count == len(back) > 0 and not report.skipped
    for name, pixels in back.items():
        assert np.array_equal(pixels, owner.pixels(name.replace(".png", ".bmp")))


def test_true_sizes_outlive_a_run_that_fails(owner):
    for number, side in enumerate((30, 32, 29)):
        owner.source.mkdir(exist_ok=True)
        Image.fromarray(owner.tiles[number][:side]).save(owner.source / f"{number}.bmp")
    owner.protect("tanaka", sizes=ONE)
    (owner.source / "new.png").write_bytes(b"broken")
    Image.fromarray(owner.tiles[2][:27]).save(owner.source / "2.bmp")  # and this one is to be done again
    with pytest.raises(RunError, match="stopped by --strict"):
        owner.protect("tanaka", sizes=Sizes(images=64, bytes=2**30), strict=True)
    report, back = owner.revealed("tanaka")
    # The changed one was written before the run failed: its size of before is not taken for its own.
    assert report.padded == 1 and [len(pixels) for _, pixels in sorted(back.items())] == [30, 32, 28]
    # Before they were ever finished, their sizes are not known, and that is said.
    table = owner.private / "names.csv"
    table.write_text(table.read_text().replace('"30","32"', '"?","?"'))
    report, _ = owner.revealed("tanaka")
    assert report.padded == 2 and "2 of them may still be padded" in str(report)


@pytest.mark.parametrize("path", ["a\rb.png", 'a",\n"b.png', f"{'x' * 140_000}.png"])
def test_a_table_holds_any_name(owner, path):
    owner.add_rows("first.png", path)
    owner.protect("pixel-different", output="folder", names="hash")
    owner.protect("pixel-different", output="folder", names="hash")
    report, back = owner.revealed("pixel-different")
    assert report.count == 2 and not report.skipped
    assert {pixels.tobytes() for pixels in back.values()} == {owner.tiles[n].tobytes() for n in range(2)}


def test_what_undoes_images_that_were_taken_away_is_not_replaced_unasked(owner):
    owner.add("1.png", "2.png")
    owner.protect("pixel-different")
    owner.out.rename(owner.root / "uploaded")
    (owner.source / "1.png").unlink()
    with pytest.raises(UsageError, match="tells how to undo images"):
        owner.protect("pixel-different")
    owner.private.rename(owner.root / "uploaded.private")
    owner.protect("pixel-different")
    assert reveal_folder(owner.key("pixel-different"), owner.root / "uploaded", owner.root / "back").count == 2


def test_hidden_paths_in_parquet_come_back(owner):
    owner.add_rows(".cache/a.png", ".b.png", "...", "c/./.d.png")
    owner.protect("tanaka", output="folder")
    assert sorted(owner.found())[1:] == ["b.png", "c/d.png", "cache/a.png"]
    report, back = owner.revealed("tanaka")
    assert report.count == len(back) == 4


# Names


@pytest.mark.parametrize(
    "names",
    [
        ["A.png", "a.png", "a.png~1.png"],
        ["x.bmp", "x.png/y.png"],
        ["X.bmp", "x.png/y.png", "x.bmp.png/y.png"],
        ["a.png", "a.bmp", "A.bmp", "a.bmp.png"],
        [f"{'é' * 99}a.png", f"{'é' * 99}b.png", f"{'é' * 99}a.bmp"],
        [f"x{'é' * 110}.png"],
    ],
)
def test_every_image_gets_a_name_of_its_own(owner, names):
    owner.add(*names)
    assert owner.protect("none").outcome.images == len(names)
    assert len(owner.found()) == len({name.casefold() for name in owner.found()}) == len(names)
    assert {pixels.tobytes() for pixels in owner.found().values()} == {owner.pixels(name).tobytes() for name in names}
    for name in owner.found():
        name.encode()


@pytest.mark.parametrize(
    ("before", "after", "names"),
    [
        (["a.jpg"], ["a.png"], "keep"),
        (["M.jpg", "m.jpg"], ["A.jpg"], "keep"),
        (["x.bmp"], ["x.png/y.bmp"], "keep"),
        (["b.png", "x.bmp"], ["x.bmp.png/y.bmp", "x.png/y.bmp"], "keep"),
        (["cat/1.png", "dog/2.png", "dog/3.png"], ["4.png"], "hash"),
    ],
)
@pytest.mark.parametrize("shards", [1, 2])
def test_an_image_that_is_called_otherwise_now_is_not_there_twice(owner, before, after, names, shards):
    def protect():
        for number in range(shards):
            owner.protect("none", names=names, shard=f"{number + 1}/{shards}", sizes=ONE)

    owner.add(*before)
    protect()
    owner.add(*after)
    protect()
    protect()
    assert len(owner.found()) == len(before + after)
    # Those of images that are gone stay.
    (owner.source / after[-1]).unlink()
    if "/" not in after[-1]:
        protect()
    assert len(owner.found()) == len(before + after)


@pytest.mark.parametrize("output", ["folder", "parquet"])
def test_hashed_names_hide_the_order_of_the_source(owner, output):
    owner.add(*(f"{number:02d}.bmp" for number in range(16)))
    for number in (3, 8):
        owner.damage(f"{number:02d}.bmp")
    Image.fromarray(owner.tiles[0][:30]).save(owner.source / "05.bmp")
    owner.protect(
        "tanaka", names="hash", output=output, sizes=Sizes(images=1 if output == "folder" else 99, bytes=2**30)
    )
    if output == "folder":
        written = sorted(owner.out.glob("*.png"), key=lambda path: (path.stat().st_mtime_ns, path.stat().st_ino))
        told = [path.name for path in written]
        assert owner.outputs() == sorted(owner.outputs())
    else:
        (shard,) = owner.out.glob("*.parquet")
        told = [cell["path"] for cell in pq.read_table(shard).column("image").to_pylist()]
        for line in (owner.out / ".imageveil-journal-1-of-1.jsonl").read_text().splitlines():
            for part in ("skipped", "sizes"):
                assert list(json.loads(line).get(part, ())) == sorted(json.loads(line).get(part, ()))
    assert len(told) == 14 and told == sorted(told)


def test_rows_that_are_read_at_once_stay_together_in_hidden_order():
    items = [
        Item(key=f"{file}{group}{row}", file_of_rows=file, group=group, row=row)
        for file in "ab"
        for group in range(3)
        for row in range(4)
    ]
    named = [(item, f"{sum(item.key.encode()) * 7919 % 997:03d}-{item.key}") for item in items]
    order = in_hidden_order(reversed(named))
    places = [(item.file_of_rows, item.group) for item, _ in order]
    assert sum(one != other for one, other in itertools.pairwise(places)) == 5
    for place in set(places):
        outputs = [output for item, output in order if (item.file_of_rows, item.group) == place]
        assert outputs == sorted(outputs)
    assert order != named and order == in_hidden_order(named)


def test_names_of_before_are_forgotten_with_their_images(owner, monkeypatch):
    owner.add("alice/alice.png", "bob.png")
    owner.protect("none")
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        interrupt_after(patch, 0)
        owner.protect("none", names="index", overwrite=True)
    assert not [
        path
        for path in owner.out.rglob("*")
        if "alice" in path.name or (path.is_file() and b"alice" in path.read_bytes())
    ]


# Continuing


def test_a_new_image_changes_its_own_unit_and_no_other(owner):
    def items(*names):
        return [(Item(key=name, size=100), name) for name in names]

    names = [f"{number:05d}.png" for number in range(2000)]
    sizes = Sizes(images=64, bytes=2**30)
    before = build_units(items(*names), parquet=False, sizes=sizes)
    after = build_units(items("00000-.png", *names), parquet=False, sizes=sizes)
    assert max(len(unit.items) for unit in before) <= 64 and len(before) < 130
    assert len({unit.digest for unit in after} - {unit.digest for unit in before}) <= 2
    # Large files fill a unit, too.
    few = build_units(items(*names), parquet=False, sizes=Sizes(images=1000, bytes=1000))
    assert max(len(unit.items) for unit in few) <= 10


@pytest.mark.parametrize("parquet", [False, True])
@pytest.mark.parametrize(("images", "shards"), [(300, 4), (40_000, 8), (5, 3)])
def test_shares_are_about_equal(images, shards, parquet):
    named = [(Item(key=f"{number}.png", size=5000), f"{number}.png") for number in range(images)]
    sizes = unit_sizes([item for item, _ in named], parquet=parquet, shards=shards)
    units = build_units(named, parquet=parquet, sizes=sizes)
    shares = [sum(len(unit.items) for unit in units[number::shards]) for number in range(shards)]
    assert sum(shares) == images
    assert min(shares) > 0.5 * images / shards and max(shares) < 1.6 * images / shards + 1


def test_shares_of_a_source_that_grew_go_on(owner):
    names = [f"{number:02d}.png" for number in range(30)]
    owner.add(*names)

    def protect():
        return sum(
            owner.protect("none", shard=f"{n}/2", sizes=Sizes(images=4, bytes=2**30)).outcome.images for n in (1, 2)
        )

    assert protect() == 30
    owner.add("00-.png", "15-.png")
    assert protect() == 32 == len(owner.found())
    (owner.out / "mine.png").write_bytes(b"mine")
    owner.add("mine.png")
    with pytest.raises(UsageError, match=r"mine.png is already there"):
        protect()


@pytest.mark.parametrize(
    "fault", [ImageError("not readable: Permission denied"), OSError(5, "Input/output error"), MemoryError()]
)
def test_what_could_not_be_read_is_tried_again_and_what_is_damaged_is_not(owner, monkeypatch, fault):
    owner.add("1.png", "2.png", "3.png")
    owner.damage("3.png")
    whole, calls = workers.open_item, []

    def open_item(origin, item):
        calls.append(item.key)
        if item.key == "2.png" and calls.count("2.png") == 1:
            raise fault
        return whole(origin, item)

    monkeypatch.setattr(workers, "open_item", open_item)
    for images, tried in ((1, ["1.png", "2.png", "3.png"]), (2, ["2.png"]), (2, [])):
        calls[:] = ["2.png"] if images == 2 else []
        assert owner.protect("none", sizes=ONE).outcome.images == images
        assert calls[images == 2 :] == tried


# Refusals and leftovers


def test_a_first_run_that_is_refused_does_not_settle_anything(owner):
    owner.add("1.png")
    owner.out.mkdir()
    (owner.out / "1.png").write_bytes(b"mine")
    with pytest.raises(UsageError, match="already there"):
        owner.protect("none")
    assert owner.protect("tanaka", format="webp").outcome.images == 1


@pytest.mark.parametrize(
    ("path", "blob", "error", "words"),
    [
        ("out.private", b"", RunError, "cannot write .*out.private"),
        ("out/.imageveil-settings.json", b"[1]", RunError, "settings.json cannot be read"),
        ("out/.imageveil-settings.json", b"{}", UsageError, "begun with journal version None instead of 2"),
        ("out/.imageveil-journal-1-of-1.jsonl", b"[1]\n", RunError, "is damaged"),
        ("out.private/names.csv", b"one,two\n1,2\n", UsageError, "is no table"),
    ],
)
def test_what_lies_in_the_way_is_told_before_any_image_is_written(owner, path, blob, error, words):
    owner.add("1.png")
    if path == "out.private/names.csv":
        owner.protect("tanaka")
        (owner.out / "1.png").unlink()
    (owner.root / path).parent.mkdir(exist_ok=True)
    (owner.root / path).write_bytes(blob)
    with pytest.raises(error, match=words) as caught:
        owner.protect("tanaka")
    assert "\n" not in str(caught.value) and not owner.found()


def test_a_line_of_another_share_that_is_no_line_is_no_obstacle(owner):
    owner.add("1.png")
    owner.protect("none", shard="1/2")
    with (owner.out / ".imageveil-journal-1-of-2.jsonl").open("a") as file:
        file.write('[1]\n5\n{"begin": 3}\n\xff\n')
    assert owner.protect("tanaka", overwrite=True).outcome.images == 1


def test_a_disk_that_is_full_for_the_journal_is_one_sentence(owner):
    owner.source.mkdir()
    for number in range(30):
        Image.new("RGB", (2, 2)).save(owner.source / f"{number}.png")
    code = (
        "from imageveil.cli import main\nimport imageveil.deploy.bulk, resource\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (700, 700))\nmain()"
    )
    words = ["protect", owner.source, owner.out, "--scheme", owner.key("none"), "--workers", "0"]
    run = subprocess.run([sys.executable, "-B", "-c", code, *map(str, words)], capture_output=True, text=True)
    assert run.returncode == 1 and "Traceback" not in run.stderr
    assert "cannot write" in run.stderr and ".imageveil-journal" in run.stderr
    assert owner.protect("none").outcome.images == 30


def test_nothing_half_written_stays(owner):
    owner.add("1.png")
    owner.protect("tanaka", shard="1/2")
    tags = ("", "settings", "2-of-3", "1-of-1", "x.1-of-1")
    for folder in (owner.out, owner.private):
        for tag in (*tags, "1-of-2"):
            (folder / f".0.1.x.{tag}{TEMPORARY}").write_bytes(b"half")
    owner.protect("tanaka", shard="2/2")  # the first share may be at work
    left = {path.name for folder in (owner.out, owner.private) for path in folder.rglob(f"*{TEMPORARY}")}
    assert left == {f".0.1.x.1-of-2{TEMPORARY}"}
    owner.protect("tanaka", overwrite=True)
    assert not list(owner.root.rglob(f"*{TEMPORARY}"))


def test_a_file_that_cannot_be_deleted_is_told(owner, monkeypatch):
    owner.add("1.png")
    owner.protect("none")
    whole = Path.unlink

    def unlink(path, **values):
        if path.name == "1.png":
            raise PermissionError(13, "Permission denied", os.fspath(path))
        whole(path, **values)

    monkeypatch.setattr(Path, "unlink", unlink)
    with pytest.raises(RunError, match=r"cannot delete .*1.png"):
        owner.protect("tanaka", overwrite=True)
