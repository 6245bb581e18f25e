"""The documentation says what the records say."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from imageveil.records import record

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


def test_the_card_leaves_out_what_is_void_unless_it_found_something(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    monkeypatch.syspath_prepend(str(ROOT / "docs"))
    import model_card

    def made(attack: str, low: float) -> dict[str, Any]:
        figures = {"metrics": {"ssim": 0.3, "mse_var": 0.9, "reid_within": 0.9, "reid_within_candidates": 100.0}}
        found = {"intervals": {"reid_within": [low, 1.0]}, "floors": {"chance": {"reid_within": 0.01}}}
        return record(**base, **figures, **found, attack=attack, threat="oracle", void=True)

    base: dict[str, Any] = {"task": "attack", "scheme": "x", "data": "d", "n": 1000, "seconds": 1.0}
    section = "\n".join(model_card.undo_section([made("gan", 0.8), made("statistics", 0.0)], "x"))
    assert "| gan | oracle |" in section and "statistics" not in section
    monkeypatch.setattr(
        model_card, "table_records", lambda: [one | {"earlier": False} for one in (made("gan", 0.8), made("sdar", 0.0))]
    )
    assert list(model_card.measured("x")) == ["d, gan, oracle"]


def test_the_card_holds_confirmation_against_the_best_guess(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    monkeypatch.syspath_prepend(str(ROOT / "docs"))
    import model_card

    floors = {"chance": {"confirm_top1": 0.001}, "label_only": {"confirm_top1": 0.01}}
    metrics = {"confirm_top1": 1.0, "confirm_candidates": 1000.0}
    told = model_card.confirmed({"attack": "a", "threat": "oracle", "data": "d", "floors": floors, "metrics": metrics})
    assert "100.00 % of the cases on d; guessing does in 1.00 %." in told
