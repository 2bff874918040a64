"""GGUF files of one model, one of each type: written here, or by llama.cpp from the file in fp32, and read back for what they hold."""

from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from posttrain.data.ggml_vocab import Vocab
from posttrain.functional.ggml_blocks import Array
from posttrain.models import llama_cpp
from posttrain.models.gguf_file import Blocks, layouts, tensors_in, write_gguf
from posttrain.models.gguf_types import (
    GgufType,
    TensorType,
    default_embedding,
    fell_back,
    fitting,
    is_blend,
    is_matrix,
    is_ours,
)

from .files import readable
from .job import Job


@dataclass(frozen=True)
class Writer:
    """What the files of a model are made of. `matters` is what the columns of matrices are worth, by transformers' names."""

    job: Job
    weights: Any
    vocab: Vocab
    embedding: TensorType | None = None
    matters: Mapping[str, Array] = field(default_factory=dict)

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Of the matrices in layers, by the file's names."""
        state = self.weights.state_dict()
        laid = layouts(self.weights.config, list(state))
        places = {place: way.shape(tuple(state[name].shape)) for name, way in laid.items() for place in way.names}
        return {place: shape for place, shape in places.items() if is_matrix(place, shape)}

    @contextmanager
    def exact(self, wanted: bool) -> Iterator[Path]:
        """Within: the file in fp32, where it is `wanted`."""
        path = self.job.scratch / "exact.gguf"
        try:
            if wanted:
                write_gguf(path, self.weights.state_dict(), self.weights.config, self.vocab, "f32")
            yield path
        finally:
            path.unlink(missing_ok=True)

    def write(self, kind: GgufType, exact: Path, solved: Mapping[str, Blocks]) -> dict[str, Any]:
        """Writes the file of a type, in which `solved` are matrices rounded already; its size, how many tensors it has of each
        type, and what fell back."""
        path = self.job.folder / f"model-{kind.upper()}.gguf"
        embedding = self.embedding or default_embedding(kind)
        if is_blend(kind):
            width = self.weights.get_input_embeddings().weight.shape[1]
            llama_cpp.quantise(exact, path, kind, fitting(embedding, width), self._by_place())
        elif is_ours(kind):
            config = self.weights.config
            write_gguf(path, self.weights.state_dict(), config, self.vocab, kind, embedding, solved, self.matters)
        tensors, size = tensors_in(path), path.stat().st_size
        fallen = fell_back(tensors, kind, embedding)
        for became in sorted(set(fallen.values())):
            names = Counter(_in_any_layer(name) for name, each in fallen.items() if each == became)
            told = ", ".join(f"{name} ({n})" if n > 1 else name for name, n in names.items())
            self.job.note(f"{kind}: rows of no whole blocks become {became}: {told}")
        self.job.note(f"{path.name}: {readable(size)}")
        return {"bytes": size, "types": dict(Counter(each for each, _ in tensors.values())), "fell_back": fallen}

    def _by_place(self) -> dict[str, Array]:
        """What columns are worth by the file's names; where nothing is known of a matrix they are worth the same."""
        if not self.matters:
            return {}
        laid = layouts(self.weights.config, list(self.weights.state_dict()))
        known = {place: self.matters[name] for name, way in laid.items() if name in self.matters for place in way.names}
        shapes = self.shapes()
        if unknown := sorted(shapes.keys() - known.keys()):
            self.job.note(
                f"nothing is known of what {len(unknown)} matrices read, such as {unknown[0]}: columns count alike"
            )
        alike = {name: np.ones((*shapes[name][:-2], shapes[name][-1]), dtype=np.float32) for name in unknown}
        return {name: known[name] if name in known else alike[name] for name in shapes}


def _in_any_layer(name: str) -> str:
    """The name of a tensor with a star for the number of its layer."""
    first, *rest = name.split(".")
    return ".".join(["blk", "*", *rest[1:]]) if first == "blk" else name
