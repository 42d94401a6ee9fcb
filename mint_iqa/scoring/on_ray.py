"""Batches of items -> records on the machines of a Ray cluster, with Ray Data."""

import logging
import os
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from typing import Any

from mint_iqa.errors import MintIQAError
from mint_iqa.scoring.batches import Batch, Batches, score_batches
from mint_iqa.scoring.journal import SCORED

MAX_BLOCKS = 10_000


@dataclass(frozen=True)
class Loading:
    """Arguments of `Assessor.from_pretrained` on each machine."""

    model: str
    device: str | None
    dtype: str | None
    quantization: str | None = None
    device_map: str | None = None


def score_batches_on_ray(
    batches: Sequence[Batch], *, loading: Loading, explain: bool, workers: int | None
) -> Batches:
    """The records of one batch after the other, as `mint_iqa.scoring.batches.score_batches` gives them.

    workers: processes that each hold a model and score on one core (with device cuda: and one GPU); None: one
    for each core of the cluster. That is the one in RAY_ADDRESS or started here with `ray start`; else one of
    `workers` cores is started on this machine for the run. Model and images must have the same paths on
    all its machines. Raises MintIQAError (`extra_missing`, `ray_failed`).
    """
    data = _ray_data()
    import ray

    _connect(workers)
    try:
        blocks = min(len(batches), MAX_BLOCKS)  # a block is what a worker takes at a time
        rows = data.from_items([{"batch": list(batch)} for batch in batches], override_num_blocks=blocks)
        scored = rows.map(
            RayScorer,
            fn_constructor_args=(loading, explain, os.getcwd()),
            compute=data.ActorPoolStrategy(size=workers or _cores()),
            num_cpus=1,
            num_gpus=1 if (loading.device or "").startswith("cuda") else 0,
        )
        for row in scored.iter_rows():
            yield [SCORED.validate_json(line) for line in row["lines"]]
    except ray.exceptions.RayError as error:
        raise MintIQAError("ray_failed", f"Ray ended the run: {_reason(error)}.") from None
    finally:
        ray.shutdown()


def _cores() -> int:
    """Of the whole cluster."""
    import ray

    resources: dict[str, float] = ray.cluster_resources()  # type: ignore[no-untyped-call]  # of Ray
    return int(resources["CPU"])


class RayScorer:
    """What runs on the cluster: one model that scores one batch after the other on one core."""

    def __init__(self, loading: Loading, explain: bool, folder: str) -> None:
        from mint_iqa.assessor import Assessor

        with suppress(OSError):  # names are relative to the folder of whoever started the run
            os.chdir(folder)
        self.explain = explain
        self.assessor = Assessor.from_pretrained(**asdict(loading))

    def __call__(self, row: dict[str, Any]) -> dict[str, list[str]]:
        (records,) = score_batches(self.assessor, [list(row["batch"])], explain=self.explain, readers=0)
        return {"lines": [record.model_dump_json() for record in records]}


def _ray_data() -> Any:
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # read at import; it would report to its makers
    try:
        import ray.data
    except ImportError:
        raise MintIQAError(
            "extra_missing", "--engine ray needs Ray: pip install 'mint-iqa[ray]', or leave the option out."
        ) from None
    logging.getLogger("ray.data").setLevel(logging.WARNING)
    context = ray.data.DataContext.get_current()
    context.execution_options.preserve_order = True  # so that a journal can be resumed by either engine
    context.enable_progress_bars = False
    return ray.data


def _connect(workers: int | None) -> None:
    import ray

    address = os.environ.get("RAY_ADDRESS")
    quiet: dict[str, Any] = {"logging_level": logging.WARNING, "log_to_driver": False}
    try:
        ray.init(address=address or "auto", **quiet)
    except (ConnectionError, ValueError):
        if address:
            raise MintIQAError(
                "ray_failed", f"There is no Ray cluster at RAY_ADDRESS={address}: start it, or unset it."
            ) from None
        ray.init(address="local", num_cpus=workers, include_dashboard=False, **quiet)


def _reason(error: Exception) -> str:
    return str(error).strip().splitlines()[-1].rstrip(".") if str(error).strip() else type(error).__name__
