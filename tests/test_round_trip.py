"""An owner's whole way: a key, a protected folder, and back, bit for bit."""

import numpy as np
import pytest
from PIL import Image

from imageveil.deploy.bulk import ProtectOptions, protect_source
from imageveil.deploy.plan import Sizes
from imageveil.deploy.reveal import reveal_folder
from imageveil.errors import UsageError
from imageveil.schemes import SCHEMES


@pytest.mark.parametrize("names", ["keep", "hash"])
@pytest.mark.parametrize("name", ["tanaka", "pixel-different", "compressible"])
def test_reveal_undoes_protect(name, names, photograph, tmp_path):
    plain = {}
    for number, (height, width) in enumerate([(32, 32), (30, 45), (61, 33)]):
        pixels = photograph[:, number * 40 :][:, :height, :width].permute(1, 2, 0).numpy()
        path = tmp_path / "plain" / "some" / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(path)
        plain[number] = pixels
    for key in ("key", "other"):
        SCHEMES[name].generate().save(tmp_path / key)
    options = ProtectOptions(workers=0, quiet=True, names=names)
    summary = protect_source(str(tmp_path / "plain"), tmp_path / "protected", str(tmp_path / "key"), options)
    assert summary.exit_code == 0
    with pytest.raises(UsageError, match="is not the"):
        reveal_folder(tmp_path / "other", tmp_path / "protected", tmp_path / "wrong")
    report = reveal_folder(tmp_path / "key", tmp_path / "protected", tmp_path / "back")
    assert report.count == 3 and not report.padded
    found = [np.asarray(Image.open(path)) for path in sorted((tmp_path / "back").rglob("*.png"))]
    for pixels in plain.values():
        assert any(np.array_equal(pixels, back) for back in found)


@pytest.mark.parametrize("name", ["tanaka", "pixel-different"])
def test_shards_and_vanished_sources_are_undone(name, photograph, tmp_path):
    plain = {}
    for number in range(4):
        plain[f"{number}.png"] = photograph[:, 40 * number :][:, :29, :34].permute(1, 2, 0).numpy()
        (tmp_path / "plain").mkdir(exist_ok=True)
        Image.fromarray(plain[f"{number}.png"]).save(tmp_path / "plain" / f"{number}.bmp")
    SCHEMES[name].generate().save(tmp_path / "key")

    def protect(shard):
        options = ProtectOptions(workers=0, quiet=True, shard=shard, sizes=Sizes(images=1, bytes=2**30))
        protect_source(str(tmp_path / "plain"), tmp_path / "protected", str(tmp_path / "key"), options)

    for shard in ("1/2", "2/2"):
        protect(shard)
    # Its protected image stays, and so must what the way back needs of it.
    (tmp_path / "plain" / "3.bmp").unlink()
    protect("2/2")
    report = reveal_folder(tmp_path / "key", tmp_path / "protected", tmp_path / "back")
    assert report.count == 4 and not report.padded and not report.skipped
    for path, pixels in plain.items():
        assert np.array_equal(np.asarray(Image.open(tmp_path / "back" / path)), pixels)
    # Plain images that are there are not replaced unasked, for a key that is not right would destroy them.
    with pytest.raises(UsageError, match="already there"):
        reveal_folder(tmp_path / "key", tmp_path / "protected", tmp_path / "back")
    assert reveal_folder(tmp_path / "key", tmp_path / "protected", tmp_path / "back", overwrite=True).count == 4
    # An image that stands in no table has no known key where every image has its own.
    Image.fromarray(plain["0.png"][:28, :32]).save(tmp_path / "protected" / "stray.png")
    report = reveal_folder(tmp_path / "key", tmp_path / "protected", tmp_path / "again")
    assert ("stray.png" in report.skipped) == SCHEMES[name].needs_ids
