"""Leaks: was a model measured on what it was trained on? Answered from lineage, which nobody had to log.

Every artifact names the digests of its inputs, so a model leads to the rows that made it, through all its ancestors.
Rows are compared by what they ask (`schema.rows.fingerprint`), whatever files they are in.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from typing import Any

from posttrain.data.read import read
from posttrain.engine.method import Stage, stage_class
from posttrain.engine.store import Store
from posttrain.schema.artifacts import Artifact, Dataset, Model
from posttrain.schema.errors import PosttrainError, UsageError
from posttrain.schema.rows import Conversation, Labelled, Pair, Prompt, Row, Text, fingerprint
from posttrain.schema.settings import input_of, inputs

from .step import reads
from .work import SEVERAL, Given

SHAPES: tuple[type[Row], ...] = (Prompt, Conversation, Pair, Labelled, Text)


class Leaks:
    """Looks for overlaps; each dataset is read once."""

    def __init__(self, store: Store):
        self.store = store
        self.asked: dict[tuple[str, type[Any] | None], frozenset[str]] = {}
        self.made: dict[str, Artifact] = {}

    def of(self, model: Model, measure: type[Stage], given: Mapping[str, Given]) -> Iterator[tuple[int, int, str]]:
        """(rows seen before, rows measured on, method that saw them) for each method behind a model that saw some."""
        tested = self.questions(measure, [d for each in given.values() if isinstance(each, tuple) for d in each])
        if not tested:
            return
        for method, stage, datasets in self.lineage(model):
            seen = tested & self.questions(stage, datasets)
            if seen:
                yield len(seen), len(tested), method

    def questions(self, stage: type[Stage], datasets: Sequence[Dataset]) -> frozenset[str]:
        """Fingerprints of all rows of some datasets, read as a stage reads them."""
        return frozenset[str]().union(*(self.fingerprints(dataset, reads(stage)) for dataset in datasets))

    def fingerprints(self, dataset: Dataset, shape: type[Row] | None) -> frozenset[str]:
        place = (dataset.digest, shape)
        if place not in self.asked:
            self.asked[place] = frozenset(fingerprint(row) for row in _rows(dataset, shape))
        return self.asked[place]

    def lineage(self, model: Model) -> Iterator[tuple[str, type[Stage], list[Dataset]]]:
        """Every stage behind a model that read data, the last one first, as far as store and files still hold it."""
        artifact: Artifact | None = model
        while artifact is not None and artifact.method:
            with suppress(UsageError, ImportError, ValueError):  # the method is gone, or its settings have changed
                found = stage_class(artifact.method)
                stage = found.model_validate(dict(artifact.settings))
                yield artifact.method, found, list(self.datasets(stage, artifact.inputs))
            artifact = self.by_digest(artifact.inputs.get("model", ""))

    def datasets(self, stage: Stage, digests: Mapping[str, str]) -> Iterator[Dataset]:
        """The datasets with these digests that a stage's settings name."""
        for option in (name for name, kind in inputs(type(stage)).items() if kind == "dataset"):
            wanted = digests.get(option, "").split(SEVERAL)
            for rows, digest in zip(input_of(stage, option) or (), wanted, strict=False):
                found = self.by_digest(digest)
                if found is None:
                    with suppress(PosttrainError):
                        found = self.store.dataset(rows)
                if isinstance(found, Dataset) and found.digest == digest:
                    yield found

    def by_digest(self, digest: str) -> Artifact | None:
        """The artifact of the store that has this digest."""
        if digest not in self.made:
            self.made = {artifact.digest: artifact for artifact in self.store.artifacts()}
        return self.made.get(digest)


def _rows(dataset: Dataset, shape: type[Row] | None) -> Sequence[Row]:
    """The rows of a dataset in the shape that is given, else in the first that fits; none when they cannot be read."""
    for candidate in (shape,) if shape else SHAPES:
        with suppress(PosttrainError):
            return read(dataset, candidate).rows
    return ()
