"""Models that are to be made one: whether they can be, and their tensors one at a time.

Each is loaded whole once, alone, and laid down in a file of fp32 tensors under the names that transformers gives them; from
there on one tensor of all is in memory at a time. An adapter is merged into its base on the way.
"""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from fnmatch import fnmatchcase
from pathlib import Path
from reprlib import repr as shortened
from typing import TYPE_CHECKING, Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from posttrain.schema.artifacts import Model
from posttrain.schema.errors import ModelError

from .adapters import is_virtual
from .drawn import drawn_logits
from .four_bits import is_in_four_bits
from .load import load_config, load_rounded, load_tokenizer, load_weights

if TYPE_CHECKING:
    from peft import PeftModel
    from transformers import PreTrainedModel

HARMLESS = ("*dropout*", "*_pdrop", "*dtype", "*_token_id", "*_path", "use_cache", "max_position_embeddings", "initializer_*",
            "transformers_version", "architectures", "generation_*", "id2label", "label2id", "pretraining_tp")  # fmt: skip
"""What configurations may say differently of models that compute alike."""
SAME_BASE = "Merge models that were trained from the same base."


def merged_adapter(model: Model, adapted: "PeftModel") -> "PreTrainedModel":
    """An adapter in the weights that it sits on, fp32. Raises ModelError for virtual tokens."""
    if is_virtual(Path(model.path)):
        raise ModelError(
            f"{model.path} holds virtual tokens, which the model reads before every text: no weight can hold them. "
            "Ship the adapter with its base, or train with `adapter: lora` to merge."
        )
    whole: Any = load_rounded(model, adapted) if is_in_four_bits(adapted) else adapted
    dense: PreTrainedModel = whole.merge_and_unload()
    return dense


def dense_weights(model: Model) -> Any:
    """The weights of a model in fp32, an adapter's with its base's in one. Raises ModelError."""
    weights: Any = load_weights(model)
    return merged_adapter(model, weights) if model.base else weights


def stored_dtype(model: Model) -> torch.dtype:
    """How a model's weights are stored; an adapter merged is in fp32."""
    said = None if model.base else load_config(model).dtype
    return said if isinstance(said, torch.dtype) and said.is_floating_point else torch.float32


def tensors(weights: nn.Module) -> dict[str, Tensor]:
    """The tensors of a model by name, tied ones once, under the first of their names."""
    found: dict[tuple[int, torch.Size], str] = {}
    state = weights.state_dict()
    for name, x in state.items():
        found.setdefault((x.data_ptr(), x.shape), name)
    return {name: state[name] for name in found.values()}


def require_mergeable(parents: Sequence[Model]) -> None:
    """Raises ModelError that names the first thing in which a model is of another kind than the first one."""
    first, *others = parents
    config, vocabulary = load_config(first), load_tokenizer(first).get_vocab()
    for other in others:
        theirs = load_config(other)
        if config.model_type == theirs.model_type:  # else that is told
            _require_tokens(first, other, vocabulary)
        for name, *values in _different(config, theirs):
            ours, those = map(shortened, values)
            raise ModelError(f"{first.path} and {other.path} differ in `{name}`: {ours} and {those}. {_cure(name)}")


def _require_tokens(first: Model, other: Model, vocabulary: dict[str, int]) -> None:
    theirs = load_tokenizer(other).get_vocab()
    apart = sorted(token for token in vocabulary.keys() | theirs.keys() if vocabulary.get(token) != theirs.get(token))
    if apart:
        raise ModelError(
            f"{first.path} and {other.path} have other tokens, or other numbers for them: {len(apart)}, such as {apart[0]!r}. "
            f"{SAME_BASE} Where a chat template brought the tokens, let all learn with the same one, and the base too: a "
            "stage that they all begin with."
        )


def _different(config: Any, theirs: Any) -> Iterator[tuple[str, Any, Any]]:
    """(name, ours, theirs) of what two configurations say differently, the kind of model first."""
    mine, other = config.to_dict(), theirs.to_dict()
    order = ("model_type", "vocab_size", "tie_word_embeddings")
    for name in (*order, *sorted({*mine, *other} - {*order})):
        if mine.get(name) != other.get(name) and not any(fnmatchcase(name, pattern) for pattern in HARMLESS):
            yield name, mine.get(name), other.get(name)


def _cure(name: str) -> str:
    if name == "vocab_size":
        return f"Their tables have other numbers of rows. {SAME_BASE} Padding rows count too: give both the same."
    if name == "tie_word_embeddings":
        return (
            "One has a head of its own, the other's is its embedding. Untie the second (`tie_word_embeddings: false`, and its "
            "embedding once more as `lm_head.weight`), or merge models that were trained from the same base."
        )
    return SAME_BASE


def lay_down(model: Model, path: Path) -> Tensor:
    """Writes the tensors of a model to a file, and returns what it says after drawn tokens, (N, V). Raises ModelError for
    weights that are no numbers."""
    weights = dense_weights(model)
    state = {name: x.cpu().contiguous() for name, x in tensors(weights).items()}
    for name, x in state.items():
        if x.is_floating_point() and not x.isfinite().all():
            raise ModelError(
                f"{name} of {model.path} holds weights that are infinite or no numbers, and so would all that is merged with "
                "it. Go back to the last model that answers, and train it with a lower learning rate."
            )
    save_file(state, path)
    return drawn_logits(weights).cpu()


class Laid:
    """Tensors of several models by name, read when asked for. A context: within it the files are open."""

    def __init__(self, models: Sequence[Model], paths: Sequence[Path]):
        self.models, self.paths = models, paths
        self.files: list[Any] = []
        self.stack = ExitStack()

    def __enter__(self) -> "Laid":
        self.files = [self.stack.enter_context(safe_open(path, "pt")) for path in self.paths]
        self._require_same_shapes()
        return self

    def __exit__(self, *_: object) -> None:
        self.stack.close()

    def of(self, name: str) -> Tensor:
        """(M, ...): a tensor of all models."""
        return torch.stack([file.get_tensor(name) for file in self.files])

    def _require_same_shapes(self) -> None:
        first, *others = [{name: file.get_slice(name).get_shape() for name in file.keys()} for file in self.files]  # noqa: SIM118
        for model, shapes in zip(self.models[1:], others, strict=True):
            for name in sorted({*first, *shapes}):
                if first.get(name) != shapes.get(name):
                    ours, theirs = (known.get(name, "none") for known in (first, shapes))
                    raise ModelError(
                        f"{self.models[0].path} and {model.path} differ in {name}: {ours} and {theirs}. {SAME_BASE}"
                    )
