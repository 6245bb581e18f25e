"""Write the controls under results/controls into the package, where an installed audit reads them."""

from pathlib import Path

from imageveil.audit.control_state import as_json, summarise
from imageveil.records import read_records

ROOT = Path(__file__).parents[1]
TARGET = ROOT / "src" / "imageveil" / "assets" / "controls.json"


def main() -> None:
    """Write the summary."""
    found = summarise(read_records(ROOT / "results" / "controls"))
    TARGET.write_text(as_json(found), encoding="utf-8")
    print(f"{TARGET.relative_to(ROOT)}: {len(found)} controls, {sum(one.passed for one in found)} passed")


if __name__ == "__main__":
    main()
