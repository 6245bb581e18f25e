"""The documentation says what the records say."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

pytestmark = pytest.mark.skipif(not (ROOT / "results").is_dir(), reason="a checkout has records, an sdist has none")


def test_tables_are_made_of_the_records() -> None:
    command = [sys.executable, str(ROOT / "docs" / "tables.py"), "--check"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr


def test_a_table_needs_one_place(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "docs"))
    from tables import filled

    page = "before\n<!-- a -->\nold\n<!-- end a -->\nafter"
    assert filled(page, "a", "new") == "before\n<!-- a -->\nnew\n<!-- end a -->\nafter"
    with pytest.raises(ValueError, match="0 places"):
        filled(page, "b", "new")
