"""Make the demo's embedded photographs: eight classes of Caltech-101 at 96x96, the WebP files as they are.

    python benchmarks/make_demo_photos.py --data PHOTOS96 [--out src/imageveil/assets/photos]

PHOTOS96 holds Caltech-101, centre-cropped to 96x96, as train-*.parquet and test-*.parquet in the Hugging Face layout.
Without --data the script says what it needs and ends.
"""

import argparse
import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

# The classes with the most images, less those that look like another one; their outlines differ at a glance.
CLASSES = ("Faces", "Leopards", "Motorbikes", "airplanes", "car_side", "grand_piano", "ketch", "watch")
PER_CLASS = {"train": 64, "test": 20}
LIMIT = 3_000_000


def select(table: pa.Table, split: str) -> pa.Table:
    """The first images of each chosen class, in the order of the source, with labels by the place in CLASSES."""
    names = json.loads(table.schema.metadata[b"huggingface"])["info"]["features"]["label"]["names"]
    left = dict.fromkeys(CLASSES, PER_CLASS[split])
    rows, labels = [], []
    for row, label in enumerate(table["label"].to_pylist()):
        if left.get(names[label], 0):
            left[names[label]] -= 1
            rows.append(row)
            labels.append(CLASSES.index(names[label]))
    features = {"image": {"_type": "Image"}, "label": {"names": list(CLASSES), "_type": "ClassLabel"}}
    metadata = {"huggingface": json.dumps({"info": {"features": features}})}
    image = table["image"].take(rows).combine_chunks()
    return pa.table({"image": image, "label": pa.array(labels, pa.int64())}).replace_schema_metadata(metadata)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path)
    parser.add_argument("--out", type=Path, default=Path("src/imageveil/assets/photos"))
    options = parser.parse_args()
    if options.data is None:
        print("make_demo_photos: give --data FOLDER with train-*.parquet and test-*.parquet; nothing done")
        return
    options.out.mkdir(parents=True, exist_ok=True)
    total = 0
    for split in PER_CLASS:
        table = pa.concat_tables(pq.read_table(path) for path in sorted(options.data.glob(f"{split}-*.parquet")))
        path = options.out / f"{split}-00000-of-00001.parquet"
        # Compressed images do not shrink again.
        pq.write_table(select(table, split), path, compression="none", use_dictionary=False)
        total += path.stat().st_size
        print(f"{path}: {pq.read_metadata(path).num_rows} images, {path.stat().st_size / 1e6:.2f} MB")
    assert total <= LIMIT, f"{total} bytes are more than the package should carry"


if __name__ == "__main__":
    main()
