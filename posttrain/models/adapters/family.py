"""What every kind of adapter can: say how PEFT builds it, put first values into it, and how fast it likes to learn."""

from abc import abstractmethod
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from posttrain.schema.errors import ModelError
from posttrain.schema.settings import Settings

if TYPE_CHECKING:
    from peft import PeftConfig, PeftModel
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

NAME = "default"
"""What the one adapter that is trained and saved is called inside a model."""


class Family(Settings):
    """One kind of adapter. `times` is how much faster than all weights it learns best, `recommended` are further
    settings of a training that it learns best with; `quantises` is whether its base is held in four bits, `grows`
    whether it can learn new tokens."""

    times: ClassVar[float] = 1.0
    recommended: ClassVar[Mapping[str, Any]] = {}
    quantises: ClassVar[bool] = False
    grows: ClassVar[bool] = False

    @abstractmethod
    def config(self, model: "PreTrainedModel") -> "PeftConfig":
        """PEFT's description of this adapter on a model."""

    def begin(self, adapted: "PeftModel", tokenizer: "PreTrainedTokenizerBase") -> None:
        """Puts first values into the fresh adapter, where PEFT's own are not the ones wanted."""


def task_of(model: "PreTrainedModel") -> Any:
    """What PEFT calls the kind of model."""
    from peft import TaskType

    if hasattr(model, "score"):
        return TaskType.SEQ_CLS  # PEFT saves the head with the adapter
    return TaskType.SEQ_2_SEQ_LM if model.config.is_encoder_decoder else TaskType.CAUSAL_LM


def head_of(model: "PreTrainedModel") -> Any:
    """The last layer of a model, which no adapter changes: the one that writes, or the one that scores."""
    return model.get_output_embeddings() or getattr(model, "score", None)


def linear_layers(model: "PreTrainedModel") -> list[str]:
    """The last parts of the names of a model's linear layers, its head left out."""
    from torch import nn
    from transformers.pytorch_utils import Conv1D

    head = head_of(model)
    found = (name for name, m in model.named_modules() if isinstance(m, nn.Linear | Conv1D) and m is not head)
    return sorted({name.rpartition(".")[2] for name in found})


def names_a_layer(model: "PreTrainedModel", target: str) -> bool:
    """Whether some module is called so, or its name ends so."""
    return any(name == target or name.endswith(f".{target}") for name, _ in model.named_modules())


def target_modules(model: "PreTrainedModel", targets: str | tuple[str, ...]) -> str | list[str]:
    """Targets as PEFT takes them. Raises ModelError when one of several names no layer."""
    if isinstance(targets, str):
        return targets
    if not all(names_a_layer(model, target) for target in targets):
        raise no_such_layers(model, ", ".join(targets))
    return list(targets)


def no_such_layers(model: "PreTrainedModel", targets: object) -> ModelError:
    """The error for targets that name nothing in this model."""
    there = ", ".join(linear_layers(model))
    return ModelError(f"The model has no layers called {targets!r} to adapt. Name some of: {there}.")
