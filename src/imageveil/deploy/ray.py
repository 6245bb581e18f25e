"""`imageveil protect --ray`: units of work spread over a Ray cluster, or over the processors of this machine.

Every worker reads the source and the scheme file and writes the destination itself, under the same paths as here;
neither pixels nor keys pass through Ray. A unit that a dying worker leaves behind is done again by another one, and
its files come out the same.
"""

import os
import pickle
import warnings
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any

from imageveil.deploy.journal import Outcome
from imageveil.deploy.plan import Unit
from imageveil.errors import RunError, UsageError

if TYPE_CHECKING:
    from imageveil.deploy.options import ProtectOptions
    from imageveil.deploy.work import Work


class UnitWorker:
    """An actor that protects whole units; it opens the scheme once.

    Args:
        work: the plan, without its units and its scheme.
        scheme: the scheme's shipped name or path.
        options: how.
    """

    def __init__(self, work: "Work", scheme: str, options: "ProtectOptions") -> None:
        import torch

        from imageveil.deploy.work import open_protector
        from imageveil.schemes import load_scheme

        torch.set_num_threads(1)  # Ray gives every worker one processor
        warnings.simplefilter("ignore")  # the notice on public schemes was given where the run was started
        protector = open_protector(load_scheme(scheme), options)
        if protector.name != work.settings["engine"]:
            raise RuntimeError(f"a worker computes with {protector.name}, not {work.settings['engine']}")
        self.work = replace(work, protector=protector)
        self.strict = options.strict

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        """Protect the unit in `row` and return what became of it, or the sentence that says why it failed."""
        from imageveil.deploy.pipeline import Pipeline
        from imageveil.deploy.pool import InProcess

        work, found = self.work, list[Outcome]()
        assert work.protector is not None
        pipeline = Pipeline(
            work.listing,
            work.protector,
            work.target,
            work.destination,
            pool=InProcess(),
            depth=1,
            strict=self.strict,
        )
        unit = pickle.loads(row["unit"])  # made by `run_units`, moments ago
        try:
            pipeline.run([unit], begin=lambda _: None, finish=lambda _, outcome: found.append(outcome))
        except RunError as error:
            return {"number": row["number"], "outcome": b"", "error": str(error)}
        return {"number": row["number"], "outcome": pickle.dumps(asdict(found[0])), "error": ""}


def run_units(
    work: "Work",
    units: Sequence[Unit],
    options: "ProtectOptions",
    *,
    begin: Callable[[Unit], None],
    finish: Callable[[Unit, Outcome], None],
) -> None:
    """Protect units on Ray; see `Pipeline.run` for `begin` and `finish`.

    Raises:
        UsageError: Ray is not installed.
        RunError: a unit failed, or Ray did.
    """
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"  # before the import: Ray reports usage unless told not to
    try:
        import ray
        import ray.data
        from ray.exceptions import RayError
    except ImportError as error:
        raise UsageError("--ray needs Ray: pip install 'imageveil[ray]'") from error
    if not ray.is_initialized():
        # Joins the cluster in $RAY_ADDRESS, if there is one, or starts Ray on this machine.
        ray.init(include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    ray.data.DataContext.get_current().enable_progress_bars = False
    for unit in units:
        begin(unit)
    rows = [{"number": number, "unit": pickle.dumps(unit)} for number, unit in enumerate(units)]
    processors = max(1, int(ray.cluster_resources().get("CPU", 1)))
    plan = replace(work, listing=replace(work.listing, items=[], other={}), units=[], files={}, protector=None)
    gpu = work.settings["engine"].startswith("cuda")
    # Ray Data restarts actors that die and tries their units again, without limit, unless told otherwise.
    done = ray.data.from_items(rows, override_num_blocks=len(rows)).map(
        UnitWorker,
        fn_constructor_args=(plan, work.scheme, options),
        compute=ray.data.ActorPoolStrategy(min_size=1, max_size=min(processors, len(units))),
        num_cpus=1,
        num_gpus=1 if gpu else 0,
    )
    try:
        for row in done.iter_rows():
            if row["error"]:
                raise RunError(row["error"])
            finish(units[row["number"]], Outcome(**pickle.loads(row["outcome"])))
    except RayError as error:
        reason = str(error).strip().splitlines()[-1]
        raise RunError(f"Ray stopped: {reason}; the same command continues") from error
