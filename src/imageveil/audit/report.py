"""One self-contained HTML page: text, tables, image sheets and curves in a single file that opens from disk."""

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined
from PIL import Image

from imageveil.audit.charts import Chart
from imageveil.images.sinks import write_files

LARGEST_PNG = 150_000
"""Bytes up to which a picture that may be compressed is not; thirty sheets of protected photographs have 10 MB."""


@dataclass(frozen=True, kw_only=True)
class Text:
    """Paragraphs under a heading."""

    heading: str
    paragraphs: Sequence[str]
    kind: str = field(default="text", init=False)


@dataclass(frozen=True, kw_only=True)
class Table:
    """A table; the first column names the rows and is the only one set flush left.

    Attributes:
        heading: above the table.
        columns: their names.
        rows: texts, as many a row as there are columns.
        note: a line below, with n, definitions and the like.
    """

    heading: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    note: str = ""
    kind: str = field(default="table", init=False)


@dataclass(frozen=True, kw_only=True)
class Picture:
    """A PNG file with the caption that HTML sets above it.

    Attributes:
        caption: what is shown, also read to those who do not see it.
        png: the file's bytes.
        pixelated: enlarge in whole pixels instead of smoothly, for sheets of small images.
        compress: the page may hold it as WebP of quality 90 where the PNG is large.
    """

    caption: str
    png: bytes
    pixelated: bool = False
    compress: bool = False

    @property
    def source(self) -> str:
        """The image as a data URI."""
        kind, content = "png", self.png
        if self.compress and len(content) > LARGEST_PNG:
            buffer = io.BytesIO()
            Image.open(io.BytesIO(content)).save(buffer, "WEBP", quality=90)
            kind, content = "webp", buffer.getvalue()
        return f"data:image/{kind};base64," + base64.b64encode(content).decode()


@dataclass(frozen=True, kw_only=True)
class Sheet:
    """Rows of pictures side by side; on a narrow screen they still stand beside each other where they fit.

    Attributes:
        heading: above the rows.
        rows: the pictures of each row.
        note: a line below.
    """

    heading: str
    rows: Sequence[Sequence[Picture]]
    note: str = ""
    kind: str = field(default="sheet", init=False)


@dataclass(frozen=True, kw_only=True)
class Curves:
    """Line charts side by side.

    Attributes:
        heading: above the charts.
        charts: what is drawn.
        note: a line below.
    """

    heading: str
    charts: Sequence[Chart]
    note: str = ""
    kind: str = field(default="curves", init=False)


Section = Text | Table | Sheet | Curves


@dataclass(frozen=True, kw_only=True)
class Page:
    """A page.

    Attributes:
        title: of the document.
        lead: one paragraph under the title: what the reader may take away.
        sections: in the order they are shown.
        footer: a line at the end: version, command, machine.
    """

    title: str
    lead: str
    sections: Sequence[Section]
    footer: str = ""


def render(page: Page) -> str:
    """Return the page as HTML; every text is escaped, and nothing is fetched when it is opened."""
    environment = Environment(
        loader=PackageLoader("imageveil.audit"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("page.html").render(page=page)


def write_page(page: Page, path: Path) -> None:
    """Write the page, complete or not at all.

    Raises:
        RunError: it could not be written.
    """
    write_files([(path, render(page).encode())])
