"""Size: what a model weighs, on disk and in numbers."""

from pathlib import Path
from typing import ClassVar

from posttrain.engine.files import files_under
from posttrain.engine.job import Job
from posttrain.engine.method import Measure
from posttrain.models.load import load_weights
from posttrain.schema.artifacts import Dataset, Model
from posttrain.schema.findings import Findings, Metric


class Size(Measure):
    """Bytes on disk (with the base that an adapter needs) and number of weights."""

    blind: ClassVar[bool] = True

    def measure(self, job: Job, model: Model, **data: tuple[Dataset, ...]) -> Findings:
        folders = [Path(model.path), *([Path(model.base)] if model.base else [])]
        on_disk = sum(file.stat().st_size for folder in folders for file in files_under(folder))
        weights = sum(p.numel() for p in load_weights(model).parameters())
        metrics = {
            "bytes": Metric(on_disk, unit="bytes", better="lower"),
            "weights": Metric(weights, unit="count", better="none"),
        }
        return Findings("size", "size", metrics)
