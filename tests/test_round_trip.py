"""An owner's whole way: a key, a protected folder, and back, bit for bit."""

import numpy as np
import pytest
from PIL import Image

from imageveil.deploy.bulk import ProtectOptions, protect_source
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
