"""Leaks: was a model measured on what it was trained on? Answered from lineage, which nobody had to log.

Every artifact names the digests of its inputs, so a model leads to the rows that made it, through all its ancestors.
Rows are compared by what they ask (`schema.rows.fingerprint`), whatever files they are in.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress

from posttrain.data.read import read
from posttrain.engine.method import Stage, stage_class
from posttrain.engine.store import Store
from posttrain.schema.artifacts import Artifact, Dataset, Model
from posttrain.schema.errors import PosttrainError, UsageError
from posttrain.schema.rows import Conversation, Labelled, Pair, Prompt, Row, Text, fingerprint
from posttrain.schema.settings import input_of, inputs

from .work import SEVERAL, Given

Shapes = tuple[type[Row], ...]
SHAPES: Shapes = (Prompt, Conversation, Pair, Labelled, Text)


class Leaks:
    """Looks for overlaps; each dataset is read once."""

    def __init__(self, store: Store):
        self.store = store
        self.asked: dict[tuple[str, Shapes], frozenset[str]] = {}
        self.made: dict[str, Artifact] = {}

    def of(self, model: Model, measure: Stage, given: Mapping[str, Given]) -> Iterator[tuple[int, int, str]]:
        """(rows seen before, rows measured on, method that saw them) for each method behind a model that saw some."""
        tested = self.questions(
            measure, [d for each in given.values() if isinstance(each, tuple) for d in each if isinstance(d, Dataset)]
        )
        if not tested:
            return
        for method, stage, datasets in self.lineage(model):
            seen = tested & self.questions(stage, datasets)
            if seen:
                yield len(seen), len(tested), method

    def questions(self, stage: Stage, datasets: Sequence[Dataset]) -> frozenset[str]:
        """Fingerprints of all rows of some datasets, read as a stage reads them."""
        return frozenset[str]().union(*(self.fingerprints(dataset, stage.shapes()) for dataset in datasets))

    def fingerprints(self, dataset: Dataset, shapes: Shapes) -> frozenset[str]:
        place = (dataset.digest, shapes)
        if place not in self.asked:
            self.asked[place] = frozenset(fingerprint(row) for row in _rows(dataset, shapes))
        return self.asked[place]

    def lineage(self, model: Model) -> Iterator[tuple[str, Stage, list[Dataset]]]:
        """Every stage behind a model that read data, the last one first, as far as store and files still hold it. One that
        was made of several models has what is behind each of them."""
        behind: list[Artifact | None] = [model]
        for artifact in behind:  # which grows while it is gone through
            if artifact is None or not artifact.method:
                continue
            parents = [artifact.inputs.get("model", "")]
            with suppress(UsageError, ImportError, ValueError):  # the method is gone, or its settings have changed
                stage = stage_class(artifact.method).model_validate(dict(artifact.settings))
                yield artifact.method, stage, list(self.datasets(stage, artifact.inputs))
                parents += others_of(stage, artifact.inputs)
            known = {each.digest for each in behind if each is not None}
            behind += [self.by_digest(digest) for digest in dict.fromkeys(parents) if digest not in known]

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


def others_of(stage: Stage, digests: Mapping[str, str]) -> Iterator[str]:
    """The digests of the further models that a model was made of: of the settings that name several."""
    for option, kind in inputs(type(stage)).items():
        if kind == "model" and isinstance(input_of(stage, option), tuple):
            yield from digests.get(option, "").split(SEVERAL)


def _rows(dataset: Dataset, shapes: Shapes) -> Sequence[Row]:
    """The rows of a dataset in the first of the shapes that fits, of all where none is given; none when they cannot be
    read."""
    for shape in shapes or SHAPES:
        with suppress(PosttrainError):
            return read(dataset, shape).rows
    return ()
