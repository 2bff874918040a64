"""Size: what a model weighs, on disk and in numbers."""

from pathlib import Path
from typing import ClassVar

from posttrain.engine.files import files_under
from posttrain.engine.job import Job
from posttrain.engine.method import Measure
from posttrain.models.gguf_file import file_in
from posttrain.models.load import load_weights
from posttrain.schema.artifacts import Dataset, Model
from posttrain.schema.findings import Findings, Metric


class Size(Measure):
    """Bytes on disk (with the base that an adapter needs, of several GGUF files the smallest) and number of weights."""

    version: ClassVar[int] = 2

    blind: ClassVar[bool] = True

    def measure(self, job: Job, model: Model, **data: tuple[Dataset, ...]) -> Findings:
        folders = [Path(model.path), *([Path(model.base)] if model.base else [])]
        files = [file for folder in folders for file in files_under(folder)]
        if model.form == "gguf":  # of several, the one that is measured
            files = [file for file in files if file.suffix != ".gguf" or file == file_in(Path(model.path))]
        on_disk = sum(file.stat().st_size for file in files)
        weights = sum(p.numel() for p in load_weights(model).parameters())
        metrics = {
            "bytes": Metric(on_disk, unit="bytes", better="lower"),
            "weights": Metric(weights, unit="count", better="none"),
        }
        return Findings("size", "size", metrics)
