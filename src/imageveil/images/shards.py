"""Protected images as Parquet shards in the Hugging Face layout."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from imageveil.images.sinks import cannot_write, remove, sync, temporary_name


class ShardWriter:
    """One Parquet shard in the Hugging Face layout: `image` {bytes, path} and, with classes, an integer `label`.

    The shard appears when it is closed, and `discard` leaves nothing behind.

    Args:
        path: where the shard is put.
        classes: class names by label, or None where there are no labels.
        labelled: whether there is a column `label`.
        tag: see `write_files`.
    """

    def __init__(self, path: Path, *, classes: Sequence[str] | None, labelled: bool, tag: str = "") -> None:
        self.path = path
        self.temporary = path.with_name(temporary_name(0, f"{path.stem}.{tag}"))
        self.schema = _schema(classes, labelled)
        self.labelled = labelled
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            # PNG does not shrink further; without compression the bytes depend on no other library's version.
            self.writer = pq.ParquetWriter(self.temporary, self.schema, compression="NONE", use_dictionary=False)
        except OSError as error:
            raise cannot_write(path, error) from error

    def write(self, rows: Sequence[tuple[str, bytes, int | None]]) -> None:
        """Append rows (path, encoded image, label).

        Raises:
            RunError: the disk does not take them.
        """
        columns: dict[str, Any] = {"image": [{"bytes": blob, "path": path} for path, blob, _ in rows]}
        if self.labelled:
            columns["label"] = [label for *_, label in rows]
        try:
            self.writer.write_table(pa.table(columns, schema=self.schema))
        except OSError as error:
            self.discard()
            raise cannot_write(self.path, error) from error

    def close(self) -> None:
        """Put the shard in its place.

        Raises:
            RunError: the disk does not take it.
        """
        try:
            self.writer.close()
            sync(self.temporary)
            self.temporary.replace(self.path)
            sync(self.path.parent)
        except OSError as error:
            self.discard()
            raise cannot_write(self.path, error) from error

    def discard(self) -> None:
        """Leave nothing behind."""
        try:
            self.writer.close()
        except (OSError, pa.ArrowException):
            pass  # closing writes a footer, which a full disk refuses
        finally:
            remove(self.temporary)


def _schema(classes: Sequence[str] | None, labelled: bool) -> pa.Schema:
    image = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    fields = [pa.field("image", image)]
    features: dict[str, Any] = {"image": {"_type": "Image"}}
    if labelled:
        fields.append(pa.field("label", pa.int64()))
        names = {"names": list(classes), "_type": "ClassLabel"} if classes is not None else None
        features["label"] = names or {"dtype": "int64", "_type": "Value"}
    return pa.schema(fields, {"huggingface": json.dumps({"info": {"features": features}})})
