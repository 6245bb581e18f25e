"""How a source is protected: every option of `imageveil protect`, checked."""

from dataclasses import dataclass

from imageveil.deploy.engines import ENGINES
from imageveil.deploy.naming import NAMES
from imageveil.deploy.plan import Sizes
from imageveil.deploy.tiles import Room
from imageveil.errors import UsageError
from imageveil.images.sinks import SUFFIX
from imageveil.training.device import DEVICES, PRECISIONS

OUTPUTS = ("auto", "folder", "parquet")
QUALITY = 95


@dataclass(frozen=True, kw_only=True)
class ProtectOptions:
    """How a source is protected.

    Attributes:
        output: `folder`, `parquet`, or `auto` for the kind of the source (folder for a data set by name).
        format: `png`, `webp` (both lossless) or `jpeg`.
        quality: of JPEG.
        names: `keep`, `hash` or `index`.
        shard: `i/n`, the i-th of n shares of the source, which are about equal.
        split: see `list_source`.
        engine: see `open_engine`.
        device: see `open_engine`.
        precision: see `open_engine`.
        workers: processes that decode and encode; None for two more than there are processors, 0 for none.
        strict: stop at the first image that cannot be protected.
        overwrite: replace files that are there, and a run with another scheme or options.
        ray: spread the units with Ray Data instead of processes of this machine.
        quiet: show no progress.
        sizes: when a unit of work is full; None for the default.
        room: how much is computed at once; None for the default.
    """

    output: str = "auto"
    format: str = "png"
    quality: int = QUALITY
    names: str = "keep"
    shard: str = "1/1"
    split: str | None = None
    engine: str = "auto"
    device: str = "auto"
    precision: str = "auto"
    workers: int | None = None
    strict: bool = False
    overwrite: bool = False
    ray: bool = False
    quiet: bool = False
    sizes: Sizes | None = None
    room: Room | None = None

    @property
    def share(self) -> tuple[int, int]:
        """`shard` as two numbers.

        Raises:
            UsageError: it is not `i/n` with 1 <= i <= n.
        """
        first, _, last = self.shard.partition("/")
        if not (first.isdecimal() and last.isdecimal() and 1 <= int(first) <= int(last)):
            raise UsageError(f"--shard {self.shard} is not i/n with i from 1 to n, for example 2/8")
        return int(first), int(last)

    def check(self) -> None:
        """Refuse values that cannot work.

        Raises:
            UsageError: names the option.
        """
        for option, value, known in (
            ("--output", self.output, OUTPUTS),
            ("--format", self.format, tuple(SUFFIX)),
            ("--names", self.names, NAMES),
            ("--engine", self.engine, ENGINES),
            ("--device", self.device, DEVICES),
            ("--precision", self.precision, PRECISIONS),
        ):
            if value not in known:
                raise UsageError(f"{option} {value} is unknown; use one of: {', '.join(known)}")
        if not 1 <= self.quality <= 100:
            raise UsageError(f"--quality {self.quality} is not from 1 to 100")
        if self.quality != QUALITY and self.format != "jpeg":
            raise UsageError(f"--quality is for --format jpeg; {self.format} is written without loss")
        if self.ray and self.workers is not None:
            raise UsageError("--workers is for one machine; with --ray, leave it out: Ray takes the processors it has")
        if self.workers is not None and self.workers < 0:
            raise UsageError(f"--workers {self.workers} is negative; 0 works without processes")
        _ = self.share
