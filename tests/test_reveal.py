"""The commands keygen, schemes and reveal, on files."""

import csv
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from corpus import encoded
from PIL import Image
from typer.testing import CliRunner

from imageveil.cli import app
from imageveil.deploy.private import write_key_note
from imageveil.deploy.reveal import reveal_folder
from imageveil.errors import UsageError
from imageveil.presets.classifier import classifier_smoke
from imageveil.schemes import SCHEMES, load_scheme
from imageveil.training.classifier import build_classifier, load_classifier, save_classifier


def save(path, pixels: torch.Tensor) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels.permute(1, 2, 0).numpy()).save(path)


def load(path) -> torch.Tensor:
    return torch.from_numpy(np.array(Image.open(path))).permute(2, 0, 1)


@pytest.fixture
def protected(photograph, tmp_path):
    """A function that makes a key and a folder of protected images with what belongs beside it."""

    def make(name: str) -> dict[str, torch.Tensor]:
        result = CliRunner().invoke(app, ["keygen", name, str(tmp_path / "key")])
        assert result.exit_code == 0, result.output
        scheme = load_scheme(tmp_path / "key")
        plain = {"a/one.png": photograph[:, 50:83, 40:90], "b/two.png": photograph[:, 100:132, 60:92]}
        (tmp_path / "out.private").mkdir()
        with (tmp_path / "out.private" / "names.csv").open("w", newline="") as file:
            table = csv.writer(file)
            table.writerow(["protected", "source", "height", "width"])
            for path, image in plain.items():
                identity = path.replace(".png", ".jpg")
                save(tmp_path / "out" / path, scheme.protect(image[None], ids=[identity])[0])
                table.writerow([path, identity, *image.shape[1:]])
        write_key_note(tmp_path / "out", scheme)
        return plain

    return make


@pytest.mark.parametrize("name", ["tanaka", "pixel-different", "compressible"])
def test_reveal_gives_the_plain_images_back(name, protected, tmp_path):
    plain = protected(name)
    command = ["reveal", *(str(tmp_path / part) for part in ("key", "out", "plain"))]
    result = CliRunner().invoke(app, command)
    assert result.exit_code == 0 and "2 images revealed" in result.output
    for path, image in plain.items():
        assert torch.equal(load(tmp_path / "plain" / path), image)
        assert (tmp_path / "plain" / path).stat().st_mode & 0o077 == 0


def test_without_a_table_the_padding_stays_and_is_said(protected, tmp_path):
    plain = protected("tanaka")
    (tmp_path / "out.private" / "names.csv").unlink()
    report = reveal_folder(tmp_path / "key", tmp_path / "out", tmp_path / "plain")
    assert report.count == report.padded == 2 and "padded" in str(report) and "could not be checked" not in str(report)
    whole = load(tmp_path / "plain" / "a" / "one.png")
    assert whole.shape == (3, 36, 52) and torch.equal(whole[:, :33, :50], plain["a/one.png"])


@pytest.mark.parametrize("name", ["tanaka", "pixel-different"])
def test_images_that_were_moved_are_undone_by_what_was_written_down(name, protected, tmp_path):
    plain = protected(name)
    SCHEMES[name].generate().save(tmp_path / "other")
    # A folder of the folder: its table and its note are found above it.
    with pytest.raises(UsageError, match="fingerprint differs"):
        reveal_folder(tmp_path / "other", tmp_path / "out" / "a", tmp_path / "part")
    report = reveal_folder(tmp_path / "key", tmp_path / "out" / "a", tmp_path / "part")
    assert report.count == 1 and not report.padded and report.checked
    assert torch.equal(load(tmp_path / "part" / "one.png"), plain["a/one.png"])
    # Elsewhere: without ids nothing is guessed, and that the key could not be checked is said.
    (tmp_path / "out").rename(tmp_path / "back")
    if name == "pixel-different":
        with pytest.raises(UsageError, match=r"has a key per image.* --private"):
            reveal_folder(tmp_path / "key", tmp_path / "back", tmp_path / "plain")
    else:
        report = reveal_folder(tmp_path / "key", tmp_path / "back", tmp_path / "guess")
        assert report.padded == 2 and "could not be checked" in str(report)
    with pytest.raises(UsageError, match=r"neither names.csv nor key.json"):
        reveal_folder(tmp_path / "key", tmp_path / "back", tmp_path / "plain", private=tmp_path)
    command = ["reveal", *(str(tmp_path / part) for part in ("key", "back", "plain"))]
    result = CliRunner().invoke(app, [*command, "--private", str(tmp_path / "out.private")])
    assert result.exit_code == 0 and result.output == "2 images revealed\n"
    for path, image in plain.items():
        assert torch.equal(load(tmp_path / "plain" / path), image)


@pytest.mark.parametrize(
    ("file", "blob", "message"),
    [
        ("key.json", b"\xff", "is damaged"),
        ("key.json", b"[1]", "is damaged"),
        ("names.csv", b"protected\na/one.png\n", "is no table"),
        ("names.csv", b"protected,source,height,width\na/one.png,a/one.jpg,33,\n", "is no table"),
        ("names.csv", b"protected,source\na/one.png\n", "is no table"),
    ],
)
def test_what_is_damaged_beside_the_images_is_named(file, blob, message, protected, tmp_path):
    protected("tanaka")
    (tmp_path / "out.private" / file).write_bytes(blob)
    with pytest.raises(UsageError, match=f"{file} {message}"):
        reveal_folder(tmp_path / "key", tmp_path / "out", tmp_path / "plain")


@pytest.mark.parametrize(
    ("other", "message"),
    [("tanaka", "fingerprint differs"), ("extended", "is a key of extended"), ("blur", "no key undoes")],
)
def test_wrong_keys_are_noticed(other, message, protected, tmp_path):
    protected("tanaka")
    SCHEMES[other].generate().save(tmp_path / "other")
    with pytest.raises(UsageError, match=message):
        reveal_folder(tmp_path / "other", tmp_path / "out", tmp_path / "plain")
    assert not (tmp_path / "plain").exists()


def test_images_that_do_not_fit_are_named(protected, tmp_path, photograph):
    protected("tanaka")
    save(tmp_path / "out" / "a" / "half.png", photograph[:, :33, :33])
    with pytest.raises(UsageError, match=r"a/half.png: .*whole blocks"):
        reveal_folder(tmp_path / "key", tmp_path / "out", tmp_path / "plain")
    with pytest.raises(UsageError, match="no key file"):
        reveal_folder(tmp_path / "missing", tmp_path / "out", tmp_path / "plain")
    with pytest.raises(UsageError, match="another destination"):
        reveal_folder(tmp_path / "key", tmp_path / "out", tmp_path / "out" / "plain")


def test_the_list_names_every_scheme():
    result = CliRunner().invoke(app, ["schemes"])
    assert result.exit_code == 0
    assert {line.split()[0] for line in result.output.splitlines()[1:]} == set(SCHEMES)


def test_keygen_warns_with_the_number_and_never_overwrites(tmp_path):
    command = ["keygen", "compressible", str(tmp_path / "key"), "--block", "16"]
    assert "only 31 key bits" in CliRunner().invoke(app, command).output
    assert isinstance(CliRunner().invoke(app, command).exception, UsageError)
    large = CliRunner().invoke(
        app, ["keygen", "compressible", str(tmp_path / "large"), "--block", "16", "--size", "96"]
    )
    assert "warning" not in large.output


def test_a_classifier_makes_the_control_class(tiles, tmp_path):
    config = replace(classifier_smoke(), network="resnet18")
    torch.manual_seed(0)
    network = build_classifier(config, 7)
    network(tiles.float() / 255)
    network.eval()
    with torch.no_grad():  # untrained, it would call all of them one class
        network.head.bias -= network(tiles.float() / 255).mean(dim=0)
    save_classifier(tmp_path / "c", network, config, list("abcdefg"))
    path = str(tmp_path / "class.safetensors")
    done = CliRunner().invoke(app, ["keygen", "class", path, "--classifier", str(tmp_path / "c")])
    assert done.exit_code == 0, done.output
    scheme = load_scheme(path)
    with torch.no_grad():
        predicted = load_classifier(tmp_path / "c")[0](tiles.float() / 255).argmax(1)
    assert len(predicted.unique()) > 1
    for image, label in zip(scheme.protect(tiles), predicted, strict=True):
        assert torch.equal(image[:, ::8, ::8], scheme.pattern(int(label)))
    wrong = ["keygen", "blur", str(tmp_path / "other"), "--classifier", str(tmp_path / "c")]
    assert "leave --classifier out" in str(CliRunner().invoke(app, wrong).exception)
    missing = ["keygen", "class", str(tmp_path / "other")]
    assert "with --classifier" in str(CliRunner().invoke(app, missing).exception)


def test_parquet_shards_are_undone_under_the_names_of_the_source(photograph, tmp_path):
    plain = {f"{kind}/{n}.png": photograph[:, 40 * n : 40 * n + 33, 50:83] for kind in "ab" for n in range(3)}
    plain = {path: image.flip(1) if path[0] == "b" else image for path, image in plain.items()}
    for path, image in plain.items():
        save(tmp_path / "photos" / path, image)
    key, out = str(tmp_path / "key"), str(tmp_path / "out")
    for command in (
        ["keygen", "pixel-different", key],
        ["protect", str(tmp_path / "photos"), out, "--scheme", key, "--output", "parquet", "--workers", "0"],
        ["reveal", key, out, str(tmp_path / "back")],
    ):
        result = CliRunner().invoke(app, command)
        assert result.exit_code == 0, result.output
    for path, image in plain.items():
        assert torch.equal(load(tmp_path / "back" / path), image)


@pytest.mark.parametrize(
    ("names", "message"), [(["../escaped.png", "/tmp/kept.png"], ""), (["a.png", "a.jpg"], "would both become")]
)
def test_paths_inside_parquet_stay_in_the_destination(names, message, photograph, tmp_path):
    key = tmp_path / "key"
    assert CliRunner().invoke(app, ["keygen", "tanaka", str(key)]).exit_code == 0
    scheme = load_scheme(key)
    rows = []
    for n, name in enumerate(names):
        image = scheme.protect(photograph[None, :, 32 * n : 32 * n + 32, 50:82])[0]
        rows.append({"bytes": encoded(Image.fromarray(image.permute(1, 2, 0).numpy()), "PNG"), "path": name})
    (tmp_path / "out").mkdir()
    pq.write_table(pa.table({"image": rows}), tmp_path / "out" / "data.parquet")
    if message:
        with pytest.raises(UsageError, match=message):
            reveal_folder(key, tmp_path / "out", tmp_path / "deep" / "plain")
        return
    reveal_folder(key, tmp_path / "out", tmp_path / "deep" / "plain")
    written = sorted(path.relative_to(tmp_path / "deep").as_posix() for path in tmp_path.rglob("*.png"))
    assert written == ["plain/escaped.png", "plain/tmp/kept.png"]
    assert torch.equal(load(tmp_path / "deep" / "plain" / "escaped.png"), photograph[:, :32, 50:82])
