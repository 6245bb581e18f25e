"""Units of work through a scheme without waiting: decoding, the network and encoding overlap.

Worker processes decode and encode; this process runs the network; bounded queues lie between them. Units of work,
their batches and their bytes do not depend on timing, so that an interrupted run ends with the same files.
"""

from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import BrokenExecutor, Executor, Future
from dataclasses import dataclass, field
from pathlib import Path

from imageveil.deploy.journal import Outcome
from imageveil.deploy.listing import Listing
from imageveil.deploy.plan import Unit
from imageveil.deploy.streams import give_back_memory
from imageveil.deploy.tiles import Protector
from imageveil.deploy.workers import Group, Origin, Part, Target, decode_part, read_large, write_part
from imageveil.errors import RunError
from imageveil.images.decode import PASSING, ImageError
from imageveil.images.shards import ShardWriter

Written = tuple[dict[int, bytes], dict[int, str]]


@dataclass(kw_only=True)
class Job:
    """A unit under way: what came of its parts so far, and its shard if it becomes one."""

    unit: Unit
    outcome: Outcome = field(default_factory=Outcome)
    unwritten: int = 0
    decoded: bool = False
    shard: ShardWriter | None = None


class Pipeline:
    """Takes units through decoding, protection and encoding.

    Args:
        listing: the source.
        protector: the scheme on its engine.
        target: how and where images are written.
        destination: the folder for shards.
        pool: runs decoding and encoding.
        depth: calls that may wait in each queue.
        strict: stop at the first image that cannot be protected.
    """

    def __init__(
        self,
        listing: Listing,
        protector: Protector,
        target: Target,
        destination: Path,
        *,
        pool: Executor,
        depth: int,
        strict: bool = False,
    ) -> None:
        self.listing, self.protector, self.target = listing, protector, target
        self.destination, self.pool, self.depth, self.strict = destination, pool, depth, strict
        self.origin = Origin(kind=listing.kind, root=listing.root)
        self.decoding: deque[tuple[Job, Future[Part]]] = deque()
        self.shards: list[ShardWriter] = []
        self.writing: deque[tuple[Job, Part, Future[Written]]] = deque()

    def run(
        self, units: Sequence[Unit], *, begin: Callable[[Unit], None], finish: Callable[[Unit, Outcome], None]
    ) -> None:
        """Protect units, in their order.

        Args:
            units: the units.
            begin: called before anything of a unit is written.
            finish: called when all of it is on disk.

        Raises:
            RunError: the source or a worker is gone, or the destination does not take the images.
        """
        waiting = deque(units)
        try:
            while waiting or self.decoding:
                while waiting and len(self.decoding) < self.depth:
                    job = Job(unit=waiting.popleft())
                    begin(job.unit)
                    self._decode(job, 0)
                job, future = self.decoding.popleft()
                part = future.result()
                if part.stop < len(job.unit.items):
                    self._decode(job, part.stop)
                else:
                    job.decoded = True
                self._protect(job, part)
                while len(self.writing) > self.depth:
                    self._write(finish)
            while self.writing:
                self._write(finish)
        except BrokenExecutor as error:
            raise RunError(
                "a worker process died, perhaps for lack of memory; the same command continues, with fewer --workers "
                "if it happens again"
            ) from error
        finally:
            for shard in self.shards:
                shard.discard()

    def _decode(self, job: Job, start: int) -> None:
        self.decoding.append((job, self.pool.submit(decode_part, self.origin, job.unit.items, start)))

    def _protect(self, job: Job, part: Part) -> None:
        """Protect a decoded part and hand it on to be written."""
        if part.large:
            # Too large for a message: decoded, protected and encoded here, one such image at a time.
            part = read_large(self.origin, job.unit.items, part.start)
            give_back_memory()
            groups = self._protected(job, part, spare_memory=True)
            give_back_memory()
            future: Future[Written] = Future()
            future.set_result(write_part(self.target, groups, job.unit.outputs))
        else:
            groups = self._protected(job, part)
            future = self.pool.submit(write_part, self.target, groups, job.unit.outputs)
        job.unwritten += 1
        self.writing.append((job, part, future))

    def _protected(self, job: Job, part: Part, *, spare_memory: bool = False) -> list[Group]:
        ids = [[job.unit.items[place].key for place in group.places] for group in part.groups]
        images = [(group.pixels, names) for group, names in zip(part.groups, ids, strict=True)]
        done = self.protector.protect_all(images, spare_memory=spare_memory)
        groups = []
        for group, pixels in zip(part.groups, done, strict=True):
            if isinstance(pixels, ImageError):
                part.skipped.update(dict.fromkeys(group.places, str(pixels)))
                continue
            if pixels.shape != group.pixels.shape:
                true = [group.pixels.shape[2], group.pixels.shape[1]]
                job.outcome.sizes.update({job.unit.outputs[place]: true for place in group.places})
            groups.append(Group(places=group.places, pixels=pixels))
        part.groups = []  # the plain pixels are not needed any more
        return groups

    def _write(self, finish: Callable[[Unit, Outcome], None]) -> None:
        """Wait for the oldest part being written, and finish its unit when it was the last."""
        job, part, future = self.writing[0]
        blobs, refused = future.result()
        self.writing.popleft()
        unit = job.unit
        if unit.shard:
            if job.shard is None:
                job.shard = ShardWriter(
                    self.destination / unit.shard,
                    classes=self.listing.classes,
                    labelled=self.listing.labelled,
                    tag=self.target.tag,
                )
                self.shards.append(job.shard)
            if blobs:
                job.shard.write([(unit.outputs[n], blobs[n], unit.items[n].label) for n in sorted(blobs)])
        reasons = {**part.skipped, **refused}
        if reasons and self.strict:
            first = min(reasons)
            raise RunError(f"{unit.shown[first]}: {reasons[first]} (stopped by --strict)")
        job.outcome.images += part.stop - part.start - len(reasons)
        job.outcome.skipped.update({unit.shown[n]: reason for n, reason in reasons.items()})
        job.outcome.again |= any(reason.startswith(PASSING) for reason in reasons.values())
        job.outcome.notes.update({unit.outputs[n]: list(notes) for n, notes in part.notes.items()})
        job.unwritten -= 1
        if job.decoded and not job.unwritten:
            if job.shard is not None:
                job.shard.close()
                self.shards.remove(job.shard)
            finish(unit, job.outcome)
