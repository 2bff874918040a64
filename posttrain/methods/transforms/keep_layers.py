"""Fewer layers: a smaller model of the same kind, made of some layers of another, as a student to distil into.

every    as many as there are, divided by k, spread from the first layer to the last, as students are begun (DistilBERT,
         Sanh et al. 2019, arXiv 1910.01108)
drop     without the n that change least what goes through them: each by itself, by its block influence (ShortGPT, Men et
         al. 2024, arXiv 2403.03853), or n neighbours together (Gromov et al. 2024, arXiv 2403.17887, by the cosine itself)

    BI_i = 1 - mean over tokens of cos(h_i, h_i+1)          h_i is what layer i reads

Nothing is trained here: a few layers less cost little where they changed little, and `distill` from the whole model heals
the rest. Embeddings, head and norms stay as they are.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from pydantic import Field, model_validator

from posttrain.data.planting import shape_of
from posttrain.data.read import read
from posttrain.data.trees import plant
from posttrain.engine.job import Job
from posttrain.engine.method import Made, Transform
from posttrain.models.depth import changes, keep, layers_of
from posttrain.models.drawn import drawn_logits, require_same
from posttrain.models.load import load_format, load_tokenizer, load_weights, save_weights
from posttrain.schema.artifacts import Dataset, Model
from posttrain.schema.errors import ModelError
from posttrain.schema.rows import Conversation, Row, Text
from posttrain.schema.settings import DatasetRef


@dataclass(frozen=True)
class Chosen:
    """The layers that are kept, and how much each layer changes, or run of layers, where that was looked at."""

    layers: list[int]
    changes: list[float] | None = None


class KeepLayers(Transform):
    """Keep some layers of a model: every k-th, those that are named, or all but the ones that change least."""

    accepts: ClassVar[frozenset[str]] = frozenset({"dense"})

    every: int | None = Field(None, ge=2)
    """Keep one layer of so many, spread from the first to the last."""
    layers: tuple[int, ...] | None = None
    """Which layers to keep, counted from 0."""
    drop: int | None = Field(None, ge=1)
    """How many layers to leave out, those that change least what goes through them in `data`."""
    by: Literal["influence", "block"] = "influence"
    """Leave out the layers that change least each by itself, or neighbours that change least together."""
    data: DatasetRef = ()
    """Conversations or plain text, such as the model will meet, for `drop`."""
    rows: int = Field(128, ge=1)
    """How many rows of `data` are looked at."""
    max_length: int = Field(512, ge=2)
    """Tokens of a row that are looked at."""

    @model_validator(mode="after")
    def _one_way(self) -> "KeepLayers":
        ways = [name for name in ("every", "layers", "drop") if getattr(self, name) is not None]
        if len(ways) != 1:
            raise ValueError(f"one way to choose layers is wanted: `every`, `layers` or `drop`, not {ways or 'none'}")
        if (self.drop is not None) != bool(self.data):
            raise ValueError(
                "`drop` looks at rows to choose by, and nothing else does: give `data` with it, and only then"
            )
        return self

    def shapes(self) -> tuple[type[Row], ...]:
        return Conversation, Text

    def run(self, job: Job, **inputs: Any) -> Made:
        model: Model = inputs["model"]
        weights: Any = load_weights(model)
        tokenizer, before = load_tokenizer(model), weights.num_parameters()
        n = len(layers_of(weights))
        chosen = self._chosen(n, weights, model, tokenizer, inputs.get("data", ()))
        keep(weights, chosen.layers)
        save_weights(weights, tokenizer, job.folder, source=model)
        after, expected = weights.num_parameters(), drawn_logits(weights)
        del weights  # before it is loaded once more
        told = "its configuration says of layers by their number what they are"
        require_same(expected, job.folder, "with fewer layers", told)
        job.note(
            f"{len(chosen.layers)} of {n} layers kept ({', '.join(map(str, chosen.layers))}): {after:,} weights of {before:,}"
        )
        changed = {} if chosen.changes is None else {"influence": chosen.changes}
        return Made(
            {"layers": chosen.layers, "layers_before": n, "weights": after, "weights_before": before, **changed}
        )

    def _chosen(self, n: int, weights: Any, model: Model, tokenizer: Any, data: Sequence[Dataset]) -> Chosen:
        """Raises ModelError where the model has not layers enough."""
        if self.every is not None:
            return Chosen(spread(n, max(1, n // self.every)))
        if self.layers is not None:
            return Chosen(_known(self.layers, n))
        assert self.drop is not None
        if self.drop >= n:
            raise ModelError(f"{self.drop} of {n} layers cannot be left out. Set `drop: {max(1, n // 4)}`.")
        shown = [
            row for dataset in data for row in read(dataset, shape_of(dataset, self.shapes()), limit=self.rows).rows
        ]
        form = load_format(model, tokenizer)
        texts = [(*t.prompt, *t.branches[0].tokens) for t in plant(shown[: self.rows], form, self.max_length)]
        span = self.drop if self.by == "block" else 1
        found = changes(weights, texts, span)
        order = sorted(range(len(found)), key=found.__getitem__)
        out = range(order[0], order[0] + span) if self.by == "block" else order[: self.drop]
        return Chosen([i for i in range(n) if i not in out], found)


def spread(n: int, kept: int) -> list[int]:
    """`kept` of `n` places, as far apart as can be; the first alone where one is kept.

    >>> spread(12, 4)
    [0, 4, 7, 11]
    """
    return [round(i * (n - 1) / max(1, kept - 1)) for i in range(kept)]


def _known(layers: Sequence[int], n: int) -> list[int]:
    """The layers in their order. Raises ModelError for one that there is not."""
    if not layers or not all(0 <= layer < n for layer in layers) or len(set(layers)) < len(layers):
        raise ModelError(
            f"`layers: {list(layers)}` are not some of the model's {n}. Name each once, from 0 to {n - 1}."
        )
    return sorted(layers)
