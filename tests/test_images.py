"""Sources, the array cache and augmentation, on real photographs."""

import io
import json
import os
import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from corpus import encoded
from PIL import Image

from imageveil.deploy.bulk import ProtectOptions, protect_source
from imageveil.deploy.listing import list_source
from imageveil.errors import RunError, UsageError
from imageveil.images.arrays import cache_folder, clear_cache, judged, load_arrays, load_splits, train_and_test
from imageveil.images.augment import crop_and_flip, zoomed
from imageveil.images.parquet import damage
from imageveil.images.sources import open_source
from imageveil.schemes.catalogue import write_key


def picture(pixels: torch.Tensor) -> Image.Image:
    return Image.fromarray(pixels.permute(1, 2, 0).numpy())


@pytest.fixture
def folder(tmp_path, tiles):
    """Two classes of four images, one file that is no image and one that only claims to be."""
    for index in range(8):
        path = tmp_path / "set" / ("cat" if index % 2 else "ant") / f"{index}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        picture(tiles[index]).save(path)
    (tmp_path / "set" / "ant" / "notes.txt").write_text("no image")
    (tmp_path / "set" / "cat" / "broken.png").write_bytes(b"\x89PNG not really")
    return tmp_path / "set"


def test_folder_is_read_in_order_with_labels_and_reasons(folder, tiles):
    source = open_source(str(folder))
    records = list(source)
    assert [record.key for record in records] == [f"ant/{i}.png" for i in (0, 2, 4, 6)] + [
        f"cat/{i}.png" for i in (1, 3, 5, 7)
    ]
    assert [record.label for record in records] == [0] * 4 + [1] * 4 and source.classes == ["ant", "cat"]
    assert list(source.skipped.reasons) == ["cat/broken.png"]
    assert np.array_equal(np.asarray(records[1].image).transpose(2, 0, 1), tiles[2].numpy())


def test_training_takes_the_files_that_protect_takes(folder, tmp_path, none_key, tiles):
    thumbnail = encoded(picture(tiles[0]), "TIFF")
    for name in ("raw.nef", "raw.dng", "mislabelled.png", "fine.tif"):
        (folder / "ant" / name).write_bytes(thumbnail)
    source = open_source(str(folder))
    taken = [record.key for record in source]
    assert "ant/fine.tif" in taken and not {"ant/raw.nef", "ant/raw.dng", "ant/mislabelled.png"} & set(taken)
    done = protect_source(str(folder), tmp_path / "out", none_key, QUICK)
    assert done.outcome.skipped == source.skipped.reasons and done.outcome.images == len(taken)


def test_parquet_in_the_hugging_face_layout(tmp_path, tiles):
    cells = []
    for index in range(5):
        buffer = io.BytesIO()
        picture(tiles[index]).save(buffer, "PNG")
        cells.append({"bytes": buffer.getvalue(), "path": None})
    features = b'{"info": {"features": {"label": {"names": ["x", "y"], "_type": "ClassLabel"}}}}'
    table = pa.table({"image": cells, "label": [0, 1, 0, 1, 1]}).replace_schema_metadata({b"huggingface": features})
    pq.write_table(table, tmp_path / "train-00000-of-00001.parquet")
    arrays = load_arrays(str(tmp_path), "train")
    assert arrays.classes == ["x", "y"] and arrays.labels.tolist() == [0, 1, 0, 1, 1]
    assert torch.equal(arrays.images, tiles[:5])
    with pytest.raises(UsageError, match="no shards named test"):
        load_arrays(str(tmp_path), "test")


def test_cache_is_private_reused_and_deleted(folder, tiles):
    first = load_arrays(str(folder))
    assert len(first) == 8 and first.images.dtype == torch.uint8
    (entry,) = cache_folder().iterdir()
    assert cache_folder().name == "plain-images" and cache_folder().stat().st_mode & 0o077 == 0
    assert all(path.stat().st_mode & 0o077 == 0 for path in entry.iterdir())
    written = (entry / "images.npy").stat().st_mtime_ns
    again = load_arrays(str(folder))
    assert torch.equal(first.images, again.images) and (entry / "images.npy").stat().st_mtime_ns == written
    picture(tiles[9]).save(folder / "ant" / "9.png")  # a changed source is decoded anew
    assert len(load_arrays(str(folder))) == 9
    clear_cache()
    assert not cache_folder().exists()


def test_folders_of_one_relative_name_have_caches_of_their_own(tmp_path, tiles, monkeypatch):
    for number, home in enumerate(("a", "b")):
        path = tmp_path / home / "photos" / "one.png"
        path.parent.mkdir(parents=True)
        picture(tiles[number]).save(path)
        path.write_bytes(path.read_bytes().ljust(9999, b"\0"))
        os.utime(path, ns=(10**18, 10**18))  # as copies that keep the time do
        monkeypatch.chdir(tmp_path / home)
        assert torch.equal(load_arrays("photos").images, tiles[number : number + 1])


def test_a_source_that_is_the_working_directory_has_a_name(folder, tiles, monkeypatch):
    monkeypatch.chdir(folder)
    assert open_source(".").name == "set"
    folder.with_name("link").symlink_to(folder)
    assert open_source("../link").name == "link"
    shards = folder.with_name("shards")
    shards.mkdir()
    write_rows(shards / "train.parquet", [{"bytes": encoded(picture(tiles[0]), "PNG"), "path": None}])
    monkeypatch.chdir(shards)
    assert open_source(".").name == "shards"


def test_a_class_of_another_split_numbers_the_classes_of_this_one_anew(tmp_path, tiles):
    def add(key):
        (tmp_path / key).parent.mkdir(parents=True, exist_ok=True)
        picture(tiles[0]).save(tmp_path / key)

    for key in ("train/cat/1.png", "test/cat/1.png"):
        add(key)
    assert load_arrays(str(tmp_path), "train").labels.tolist() == [0]
    add("test/ant/1.png")
    assert load_arrays(str(tmp_path), "train").labels.tolist() == [1]


def test_a_cache_behind_a_link_is_deleted_too(folder, tmp_path, monkeypatch):
    elsewhere = tmp_path / "disk"
    elsewhere.mkdir()
    cache_folder().parent.mkdir()
    cache_folder().symlink_to(elsewhere)
    with pytest.warns(UserWarning, match="left out"):
        load_arrays(str(folder))
    assert list(elsewhere.rglob("*.npy"))
    refuse = PermissionError(13, "Permission denied", "images.npy")
    with monkeypatch.context() as patched, pytest.raises(RunError, match=r"left in .*disk: images.npy: Permission"):
        patched.setattr(os, "rmdir", lambda *_, **__: (_ for _ in ()).throw(refuse))
        clear_cache()
    assert clear_cache() == elsewhere and not elsewhere.exists()
    assert clear_cache() is None
    with pytest.warns(UserWarning, match="left out"):
        assert len(load_arrays(str(folder))) == 8


def test_a_fault_that_may_pass_is_not_kept(folder, monkeypatch):
    refused, whole = [], Path.read_bytes

    def read_bytes(path):
        if path.name == "1.png" and refused:
            raise PermissionError(13, "Permission denied", str(path))
        return whole(path)

    monkeypatch.setattr(Path, "read_bytes", read_bytes)
    refused.append(True)
    for _ in range(2):
        with pytest.warns(UserWarning, match="left out .*: 2, the first cat/1.png: not readable: Permission denied"):
            assert len(load_arrays(str(folder))) == 7
        assert not cache_folder().exists()
    refused.clear()
    assert len(load_arrays(str(folder))) == 8 and cache_folder().exists()


def test_what_another_process_is_writing_is_left_alone(folder):
    load_arrays(str(folder))
    (entry,) = cache_folder().iterdir()
    shutil.rmtree(entry)
    theirs = entry.with_name(f"{entry.name}.{os.getpid()}.tmp")  # the same number on another machine
    theirs.mkdir()
    (theirs / "images.npy").write_bytes(b"half of it")
    assert len(load_arrays(str(folder))) == 8
    assert sorted(cache_folder().iterdir()) == [entry, theirs] and (theirs / "images.npy").is_file()


def test_images_without_splits_are_dealt_out(folder):
    whole, test = load_splits(str(folder))
    assert len(whole) == 8 and test is None
    train, test = train_and_test(str(folder), 0)
    assert len(test) == 2 and sorted(train.keys + test.keys) == whole.keys
    for number, key in zip(range(2), test.keys, strict=True):
        assert torch.equal(test.images[number], whole.images[whole.keys.index(key)])
    assert train_and_test(str(folder), 0)[1].keys == test.keys
    assert any(train_and_test(str(folder), seed)[1].keys != test.keys for seed in range(1, 9))


def test_judged_images_are_of_every_class_also_where_they_are_sorted_by_class(folder):
    whole = load_arrays(str(folder))
    assert judged(whole, 4).labels.tolist() == [0, 0, 1, 1] and judged(whole, 9) is whole
    mixed = whole.subset(torch.tensor([7, 0, 6, 1]))
    assert judged(mixed, 2).keys == mixed.keys[:2]


def test_a_folder_of_splits_is_read_as_such(tmp_path, tiles):
    for number, key in enumerate(["train/ant/1", "train/cat/1", "test/ant/1", "test/cat/2", ".old/ant/3"]):
        path = tmp_path / f"{key}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        picture(tiles[number]).save(path)
    train, test, both = (load_arrays(str(tmp_path), split) for split in ("train", "test", None))
    assert train.keys == ["train/ant/1.png", "train/cat/1.png"] and test.keys == ["test/ant/1.png", "test/cat/2.png"]
    assert both.keys == test.keys + train.keys and both.labels.tolist() == [0, 1, 0, 1]
    assert train.classes == test.classes == both.classes == ["ant", "cat"]
    with pytest.raises(UsageError, match="split into test, train and has no images of the split 'validation'"):
        load_arrays(str(tmp_path), "validation")
    with pytest.raises(UsageError, match="no split 'tset'"):
        load_arrays(str(tmp_path), "tset")
    shutil.rmtree(tmp_path / "test")
    alone, none = load_splits(str(tmp_path))
    assert alone.keys == train.keys and none is None


def test_a_split_without_labels_leaves_the_others_theirs(tmp_path, tiles, none_key):
    root = tmp_path / "set"
    for number, key in enumerate(["train/ant/1", "train/cat/1", "test/cat/2", "unlabeled/1", "unlabeled/sub/2"]):
        path = root / f"{key}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        picture(tiles[number]).save(path)
    train, test = load_splits(str(root))
    assert train.labels.tolist() == [0, 1] and test.labels.tolist() == [1] and train.classes == ["ant", "cat"]
    assert load_arrays(str(root), "unlabeled").labels is None
    with pytest.raises(UsageError, match=r"set has no labels, for unlabeled/1.png lies in no class folder; arrange"):
        load_arrays(str(root)).require_labels()
    done = protect_source(str(root), tmp_path / "out", none_key, ProtectOptions(workers=0, quiet=True))
    assert done.outcome.images == 5
    assert [item.label for item in list_source(str(root)).items] == [1, 0, 1, None, None]


def test_the_image_that_leaves_all_others_without_labels_is_named(tmp_path, tiles):
    for number, key in enumerate(["train/ant/1", "train/cat/1", "test/cat/2", "test/stray"]):
        path = tmp_path / f"{key}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        picture(tiles[number]).save(path)
    for data in load_splits(str(tmp_path)):
        with pytest.raises(UsageError, match=r"has no labels, for test/stray.png lies in no class folder"):
            data.subset(torch.tensor([0])).require_labels()
    (tmp_path / "test" / "stray.png").unlink()
    assert load_arrays(str(tmp_path), "train").labels.tolist() == [0, 1]


def write_rows(path, cells, labels=None):
    columns = {"image": cells} | ({} if labels is None else {"label": labels})
    pq.write_table(pa.table(columns), path)


def test_rows_of_one_path_have_names_of_their_own(tmp_path, tiles):
    cells = [{"bytes": encoded(picture(tile), "PNG"), "path": "x/0.png"} for tile in tiles[:3]]
    write_rows(tmp_path / "a.parquet", cells)
    write_rows(tmp_path / "b.parquet", [*cells[:1], {**cells[0], "path": None}])
    expected = ["x/0.png", "x/a-0000001-0.png", "x/a-0000002-0.png", "x/b-0000000-0.png", "b/0000001"]
    assert load_arrays(str(tmp_path)).keys == expected
    assert [item.key for item in list_source(str(tmp_path)).items] == expected


def test_rows_of_one_path_in_two_splits_have_names_of_their_own(tmp_path, tiles):
    cells = [{"bytes": encoded(picture(tile), "PNG"), "path": f"x/{n}.png"} for n, tile in enumerate(tiles[:4])]
    write_rows(tmp_path / "train-0.parquet", cells[:2])
    write_rows(tmp_path / "test-0.parquet", [cells[3], cells[0], {**cells[0], "path": None}])
    listed = list_source(str(tmp_path)).items
    train, test = load_splits(str(tmp_path))
    assert test.keys == ["x/3.png", "x/0.png", "test-0/0000002"]
    assert train.keys == ["x/train-0-0000000-0.png", "x/1.png"]
    for split, data in (("train", train), ("test", test)):
        assert [item.key for item in listed if item.split == split] == data.keys
    write_rows(tmp_path / "test-0.parquet", [cells[3]], [0])  # other splits may have labels where this one has none
    assert load_arrays(str(tmp_path), "train").keys == ["x/0.png", "x/1.png"]


def test_a_path_that_looks_like_the_name_of_another_row_is_no_second_use_of_it(tmp_path, tiles):
    paths = ["x.png", "t-0000002-x.png", "x.png", "t/0000004", None]
    cells = [
        {"bytes": encoded(picture(tile), "PNG"), "path": path} for tile, path in zip(tiles[:5], paths, strict=True)
    ]
    write_rows(tmp_path / "t.parquet", cells)
    keys = [item.key for item in list_source(str(tmp_path)).items]
    assert keys == load_arrays(str(tmp_path)).keys and keys[:2] == paths[:2] and len(set(keys)) == 5


@pytest.mark.parametrize("read", [list_source, open_source])
@pytest.mark.parametrize(
    ("files", "words"),
    [
        (["a.png", "data.parquet"], r"images \(a.png\) and Parquet files \(data.parquet\)"),
        (["cat/a.png", "data.parquet"], r"images \(cat/a.png\) and Parquet"),
        (["a.png", "data/train.parquet"], r"Parquet files \(data/train.parquet\)"),
        (["one.parquet", "data/train.parquet"], "in folders .* give the folder in which they lie"),
    ],
)
def test_no_image_is_left_out_beside_images_of_another_kind(tmp_path, tiles, files, words, read):
    for name in files:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        if name.endswith("png"):
            picture(tiles[0]).save(tmp_path / name)
        else:
            write_rows(tmp_path / name, [{"bytes": encoded(picture(tiles[1]), "PNG"), "path": "b.png"}])
    with pytest.raises(UsageError, match=words):
        read(str(tmp_path))


def test_links_are_told_and_not_followed(folder, tiles):
    elsewhere = folder.with_name("elsewhere")
    elsewhere.mkdir()
    picture(tiles[8]).save(elsewhere / "8.png")
    assert "ant/8.png" not in load_arrays(str(folder)).keys
    (folder / "ant" / "8.png").symlink_to(elsewhere / "8.png")
    (folder / "dog").symlink_to(elsewhere)
    with pytest.warns(UserWarning, match="left out of .*: 3, the first .*: a link; links are not followed"):
        assert len(load_arrays(str(folder))) == 8
    (elsewhere / "8.png").rename(folder.with_name("8.png"))
    (elsewhere / "8.png").symlink_to(folder.with_name("8.png"))
    for read in (list_source, open_source):
        with pytest.raises(UsageError, match=r"no images that can be reached; 8.png is a link; links are not followed"):
            read(str(elsewhere))


@pytest.fixture
def none_key(tmp_path) -> str:
    """A scheme that writes what it was given, so that tests see what was read."""
    write_key("none", tmp_path / "none.key")
    return str(tmp_path / "none.key")


QUICK = ProtectOptions(workers=0, quiet=True, output="folder")


def test_a_second_run_in_one_process_reads_anew(tmp_path, tiles, none_key):
    path = tmp_path / "plain" / "data.parquet"
    path.parent.mkdir()
    for number in range(2):
        write_rows(path, [{"bytes": encoded(picture(tiles[number]), "PNG"), "path": "a.png"}])
        os.utime(path, ns=(10**18, 10**18))  # as copies that keep the time do
        protect_source(str(path.parent), tmp_path / f"{number}", none_key, QUICK)
        written = np.asarray(Image.open(tmp_path / f"{number}" / "a.png"))
        assert np.array_equal(written, tiles[number].permute(1, 2, 0).numpy())


def test_a_shard_that_changes_during_a_run_ends_it(tmp_path, tiles, none_key, monkeypatch):
    path = tmp_path / "plain" / "data.parquet"
    path.parent.mkdir()
    cells = [{"bytes": encoded(picture(tile), "PNG"), "path": f"{n}.png"} for n, tile in enumerate(tiles[:3])]
    write_rows(path, cells)
    listed = list_source(str(path.parent))
    monkeypatch.setattr("imageveil.deploy.work.list_source", lambda *_, **__: listed)
    write_rows(path, cells[:1])
    os.utime(path, ns=(10**18, 10**18))
    with pytest.raises(RunError, match="has changed since the run began"):
        protect_source(str(path.parent), tmp_path / "out", none_key, QUICK)


@pytest.mark.parametrize("column", [0, 1])  # the images, or their paths
def test_a_damaged_row_group_costs_its_own_rows_only(tmp_path, tiles, none_key, column):
    path = tmp_path / "plain" / "data.parquet"
    path.parent.mkdir()
    cells = [{"bytes": encoded(picture(tile), "PNG"), "path": f"{n}.png"} for n, tile in enumerate(tiles[:6])]
    pq.write_table(pa.table({"image": cells}), path, row_group_size=2, compression="NONE", use_dictionary=False)
    page = pq.ParquetFile(path).metadata.row_group(1).column(column).data_page_offset
    blob = bytearray(path.read_bytes())
    blob[page : page + 30] = b"\xff" * 30
    path.write_bytes(blob)
    with pytest.warns(UserWarning, match="data.parquet, row group 1: the row group is damaged"):
        assert load_arrays(str(path)).keys == ["0.png", "1.png", "4.png", "5.png"]
    done = protect_source(str(path.parent), tmp_path / "out", none_key, QUICK)
    assert sorted(p.name for p in (tmp_path / "out").glob("*.png")) == ["0.png", "1.png", "4.png", "5.png"]
    assert done.exit_code == 1 and done.outcome.images == 4
    assert all("the row group is damaged" in reason for reason in done.outcome.skipped.values())
    with pytest.raises(RunError, match=r"damaged.*\(stopped by --strict\)"):
        protect_source(
            str(path.parent), tmp_path / "strict", none_key, ProtectOptions(workers=0, quiet=True, strict=True)
        )


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (pa.ArrowInvalid("a page of /home/me/wedding.parquet"), "the row group is damaged"),
        (pa.ArrowMemoryError("malloc of size 99 failed"), "too large for this machine's memory"),
        (OSError(5, "of /home/me/wedding.parquet"), "not readable: Input/output error"),
    ],
)
def test_reasons_of_a_row_group_name_no_file(error, reason):
    assert damage(error) == reason


IMAGE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])


@pytest.mark.parametrize("read", [list_source, open_source])
@pytest.mark.parametrize(
    ("image", "label", "words"),
    [
        (IMAGE, pa.string(), "labels of the type string"),
        (IMAGE, pa.float64(), "labels of the type double"),
        (IMAGE, pa.list_(pa.int64()), "labels of the type list"),
        (IMAGE, pa.uint64(), "labels of the type uint64"),
        (pa.struct([("bytes", pa.string()), ("path", pa.string())]), pa.int64(), "no column 'image'"),
        (pa.struct([("bytes", pa.binary()), ("path", pa.int64())]), pa.int64(), "no column 'image'"),
    ],
)
def test_columns_of_a_wrong_type_are_refused(tmp_path, image, label, words, read):
    table = pa.table({"image": pa.array([None], image), "label": pa.array([None], label)})
    pq.write_table(table, tmp_path / "data.parquet")
    with pytest.raises(UsageError, match=words):
        read(str(tmp_path))


@pytest.mark.parametrize("names", [["a", "a"], [1, 2], "ab", {"a": 0, "b": 1}, ["a", "\ud800"]])
def test_class_names_that_tell_no_classes_apart_are_not_used(tmp_path, tiles, names, none_key):
    cells = [{"bytes": encoded(picture(tile), "PNG"), "path": None} for tile in tiles[:2]]
    features = json.dumps({"info": {"features": {"label": {"names": names}}}})
    table = pa.table({"image": cells, "label": [0, 1]}).replace_schema_metadata({"huggingface": features})
    (tmp_path / "plain").mkdir()
    pq.write_table(table, tmp_path / "plain" / "data.parquet")
    protect_source(str(tmp_path / "plain"), tmp_path / "out", none_key, QUICK)
    assert sorted(path.parent.name for path in (tmp_path / "out").rglob("*.png")) == ["0", "1"]


def test_shards_that_do_not_agree_in_labels_are_refused_in_training_too(tmp_path, tiles):
    cell = {"bytes": encoded(picture(tiles[0]), "PNG"), "path": None}
    write_rows(tmp_path / "a.parquet", [cell], [0])
    write_rows(tmp_path / "b.parquet", [cell])
    with pytest.raises(UsageError, match=r"b.parquet has other labels or classes than a.parquet"):
        load_arrays(str(tmp_path))


def test_a_name_that_parquet_cannot_hold_is_skipped(tmp_path, tiles, none_key):
    (tmp_path / "plain").mkdir()
    names = [os.fsdecode(b"caf\xe9.png"), "plain.png"]
    for name in names:
        picture(tiles[0]).save(tmp_path / "plain" / name)
    done = protect_source(
        str(tmp_path / "plain"), tmp_path / "out", none_key, ProtectOptions(workers=0, quiet=True, output="parquet")
    )
    assert list(done.outcome.skipped) == names[:1] and "not UTF-8" in done.outcome.skipped[names[0]]
    assert load_arrays(str(tmp_path / "out")).keys == ["plain.png"]


def test_what_vanishes_or_cannot_be_read_while_a_folder_is_read_is_told(folder, monkeypatch):
    whole = os.scandir

    def scandir(path):
        if str(path).endswith("cat"):
            raise PermissionError(13, "Permission denied")
        entries = list(whole(path))
        if str(path).endswith("ant"):
            (folder / "ant" / "0.png").unlink(missing_ok=True)
        return entries

    monkeypatch.setattr(os, "scandir", scandir)
    listing = list_source(str(folder))
    assert [item.key for item in listing.items] == [f"ant/{n}.png" for n in (2, 4, 6)]
    assert listing.other["ant/0.png"].startswith("vanished")
    assert listing.unreadable == {"cat": "not readable: Permission denied"}
    assert open_source(str(folder)).skipped.reasons == listing.unreadable
    (folder / "ant").rename(folder.with_name("gone"))
    for read in (list_source, open_source):
        with pytest.raises(UsageError, match="no images that can be reached; cat is not readable"):
            read(str(folder))


def test_strict_stops_at_a_folder_that_cannot_be_read(folder, tmp_path, none_key, monkeypatch):
    listing = list_source(str(folder))
    listing.unreadable["dog"] = "not readable: Permission denied"
    monkeypatch.setattr("imageveil.deploy.work.list_source", lambda *_, **__: listing)
    with pytest.raises(RunError, match=r"dog: not readable: Permission denied \(stopped by --strict\)"):
        protect_source(str(folder), tmp_path / "out", none_key, ProtectOptions(quiet=True, strict=True))


def test_shards_without_numbers_and_links(tmp_path, tiles):
    for number, name in enumerate(["train", "test"]):
        write_rows(tmp_path / f"{name}.parquet", [{"bytes": encoded(picture(tiles[number]), "PNG"), "path": name}])
    assert [load_arrays(str(tmp_path), split).keys for split in ("train", "test", None)] == [
        ["train"],
        ["test"],
        ["test", "train"],
    ]
    (tmp_path / "one").mkdir()
    (tmp_path / "train.parquet").rename(tmp_path / "one" / "data.parquet")
    assert (
        load_arrays(str(tmp_path / "one"), "train").keys == load_arrays(str(tmp_path / "one"), "test").keys == ["train"]
    )
    (tmp_path / "links").mkdir()
    (tmp_path / "links" / "a.parquet").symlink_to(tmp_path / "one" / "data.parquet")
    with pytest.raises(UsageError, match="links are not followed; copy"):
        list_source(str(tmp_path / "links"))


def test_faults_of_parquet_are_one_sentence_or_a_warning(tmp_path, tiles):
    good = {"bytes": encoded(picture(tiles[0]), "PNG"), "path": None}
    path = tmp_path / "data.parquet"
    write_rows(path, [good, None, good], [0, 1, 1])
    with pytest.warns(UserWarning, match="left out .*: 1, the first data/0000001: empty"):
        assert load_arrays(str(path)).labels.tolist() == [0, 1]
    write_rows(path, [good, good], [0, None])
    with pytest.raises(UsageError, match="1 images of data have no label, the others do"):
        load_arrays(str(path))
    write_rows(path, [good["bytes"]])
    with pytest.raises(UsageError, match=r"no column .image. of \{bytes, path\}"):
        load_arrays(str(path))
    path.write_bytes(b"PAR1, or what is left of it")
    with pytest.raises(UsageError, match="cannot be read as Parquet"):
        load_arrays(str(path))


def test_flat_folder_has_no_labels(tmp_path, tiles):
    picture(tiles[0]).save(tmp_path / "one.png")
    arrays = load_arrays(str(tmp_path))
    with pytest.raises(UsageError, match="has no labels"):
        arrays.require_labels()


def test_bad_sources_are_one_sentence(tmp_path, tiles):
    (tmp_path / "empty").mkdir()
    (tmp_path / "file.txt").write_text("x")
    long = "x" * 5000
    for spec, words in (
        ("missing", "does not exist"),
        ("empty", "holds no images"),
        ("file.txt", "not Parquet"),
        (long, "cannot be reached"),
    ):
        with pytest.raises(UsageError, match=words) as error:
            load_arrays(str(tmp_path / spec))
        assert "\n" not in str(error.value)
    picture(tiles[0]).save(tmp_path / "empty" / "a.png")
    picture(tiles[0][:, :20]).save(tmp_path / "empty" / "b.png")
    with pytest.raises(UsageError, match="different sizes"):
        load_arrays(str(tmp_path / "empty"))


@pytest.mark.parametrize("reflect", [True, False])
def test_crops_are_crops_of_the_padded_image(tiles, reflect):
    images, padding = tiles[:20], 3
    out = crop_and_flip(images, torch.Generator().manual_seed(0), padding=padding, reflect=reflect)
    mode = "reflect" if reflect else "constant"
    widths = ((0, 0), (padding, padding), (padding, padding))
    offsets, mirrors = set(), 0
    for image, view in zip(images.numpy(), out.numpy(), strict=True):
        padded = np.pad(image, widths, mode=mode)
        found = [
            (row, column, mirrored)
            for row in range(2 * padding + 1)
            for column in range(2 * padding + 1)
            for mirrored in (False, True)
            if np.array_equal(view[..., ::-1] if mirrored else view, padded[:, row : row + 32, column : column + 32])
        ]
        assert found
        offsets.add(found[0][:2])
        mirrors += found[0][2]
    assert len(offsets) > 10 and 3 < mirrors < 17


def test_zoom_enlarges_a_window(tiles):
    images = tiles[:4].float() / 255
    out = zoomed(images, torch.Generator().manual_seed(1), scale=4)
    assert out.shape == images.shape and out.min() >= 0 and out.max() <= 1
    step = (images[..., 1:] - images[..., :-1]).abs().mean()
    assert (out[..., 1:] - out[..., :-1]).abs().mean() < 0.6 * step
