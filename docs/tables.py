"""Write all that is made of the records under results/: the tables of the documentation, the model card, and what an
installed package knows of its controls and of its shipped scheme.

    make tables                      # after new records
    python docs/tables.py --check    # name what is behind its records; the exit code is then 1

A table stands between `<!-- name -->` and `<!-- end name -->` in the file that `TABLES` names.
"""

import argparse
import json
import re
import sys
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "results"
ASSETS = ROOT / "src" / "imageveil" / "assets"
sys.path.append(str(ROOT / "benchmarks"))

import accuracy  # noqa: E402
import engines  # noqa: E402
import floors_table  # noqa: E402
import model_card  # noqa: E402
import protect  # noqa: E402
import schemes  # noqa: E402
import table_one  # noqa: E402
import transform_weight  # noqa: E402

from imageveil.audit.breaks import breaks_table  # noqa: E402
from imageveil.audit.control_state import as_json, summarise  # noqa: E402
from imageveil.audit.controls import controls_table  # noqa: E402
from imageveil.records import read_records  # noqa: E402

SHIPPED = "gan-cifar10"
TABLES: dict[str, tuple[str, Callable[[], str]]] = {
    "results": ("README.md", lambda: model_card.summary(model_card.table_records(), SHIPPED)),
    "floors": ("docs/measures.md", lambda: floors_table.table(RESULTS / "floors", "cifar10")),
    "photographs": ("docs/measures.md", lambda: floors_table.table(RESULTS / "floors", "photos")),
    "speed": ("docs/protect.md", lambda: protect.table(RESULTS / "throughput")),
    "engines": ("docs/protect.md", lambda: engines.table(RESULTS / "engines")),
    "accuracy": ("docs/schemes.md", lambda: accuracy.table("cifar10", RESULTS / "classify", accuracy.RECIPES)),
    "weights": ("docs/schemes.md", lambda: transform_weight.table(RESULTS / "transform")),
    "rates": ("docs/schemes.md", lambda: schemes.table(RESULTS / "throughput")),
    "breaks": (
        "docs/attacks.md",
        lambda: breaks_table(RESULTS / "attacks", RESULTS / "audits", RESULTS / "similarity"),
    ),
    "table-one": ("docs/attacks.md", lambda: table_one.table(model_card.table_records(), "photos96")),
    "controls": ("docs/attacks.md", lambda: controls_table(RESULTS / "controls")),
}


def filled(text: str, name: str, table: str) -> str:
    """A page with one of its tables replaced.

    Raises:
        ValueError: the page has no place for it, or more than one.
    """
    place = re.compile(rf"(<!-- {name} -->\n).*?(<!-- end {name} -->)", re.DOTALL)
    text, count = place.subn(lambda found: f"{found[1]}{table}\n{found[2]}", text)
    if count != 1:
        raise ValueError(f"{count} places for the table {name!r}")
    return text


def pages() -> dict[Path, str]:
    """What every file that is made of records must say."""
    out = {
        ROOT / "docs" / f"{SHIPPED}.md": model_card.card(SHIPPED),
        ASSETS / "schemes" / f"{SHIPPED}.json": json.dumps(model_card.measured(SHIPPED), indent=1) + "\n",
        ASSETS / "controls.json": as_json(summarise(read_records(RESULTS / "controls"))),
    }
    for name, (page, table) in TABLES.items():
        path = ROOT / page
        out[path] = filled(out.get(path) or path.read_text(), name, table())
    return out


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="change nothing")
    check = parser.parse_args().check
    behind = {path: text for path, text in pages().items() if not path.is_file() or path.read_text() != text}
    for path, text in behind.items():
        print(f"{path.relative_to(ROOT)} {'is behind its records: make tables' if check else 'written'}")
        if not check:
            path.write_text(text)
    if check and behind:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
