"""The adapter that a recipe asks for: `lora`, `{lora: {rank: 8}}`, `{prefix: {tokens: 20}}` and so on; exactly one."""

from typing import Any

from pydantic import SerializerFunctionWrapHandler, ValidationError, model_serializer, model_validator

from posttrain.schema.errors import nearest
from posttrain.schema.settings import Settings

from .family import Family
from .low_rank import LoRA, QLoRA
from .scales import IA3
from .subspace import OSF
from .virtual import Prefix, Prompt, PTuning


class Adapter(Settings):
    """Which adapter to train instead of all weights; exactly one of these."""

    lora: LoRA | None = None
    """Low-rank updates of the linear layers."""
    qlora: QLoRA | None = None
    """LoRA on a base whose layers are held in four bits."""
    prefix: Prefix | None = None
    """Keys and values of virtual tokens in every layer."""
    p_tuning: PTuning | None = None
    """Embeddings of virtual tokens, made by a small network."""
    prompt: Prompt | None = None
    """Embeddings of virtual tokens."""
    ia3: IA3 | None = None
    """Scales of keys, values and inner activations."""
    osf: OSF | None = None
    """Changes of the linear layers that leave their strongest directions alone."""

    @model_validator(mode="before")
    @classmethod
    def _one(cls, value: Any) -> Any:
        """`lora` and `{lora: }` mean LoRA as it comes."""
        value = {value: {}} if isinstance(value, str) else value
        if not isinstance(value, dict):
            return value
        if unknown := [name for name in value if name not in cls.model_fields]:
            raise ValueError(f"There is no adapter {unknown[0]!r}. {nearest(str(unknown[0]), cls.model_fields)}")
        given = {name: each for name, each in value.items() if each is not None}
        given = given or ({name: {} for name in value} if len(value) == 1 else {})
        if len(given) != 1:
            raise ValueError(f"name exactly one adapter of {', '.join(cls.model_fields)}")
        return given

    @model_serializer(mode="wrap")
    def _written(self, write: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """The one adapter that there is."""
        return {name: value for name, value in write(self).items() if value is not None}

    @property
    def family(self) -> Family:
        return next(value for name in type(self).model_fields if (value := getattr(self, name)) is not None)


def as_recommended(values: dict[str, Any], rate: float) -> dict[str, Any]:
    """The settings of a training, where `rate` is what all weights would learn with, and its adapter's own ones where
    nothing is given. An adapter that is written wrongly is left for the check to tell."""
    try:
        family = Adapter.model_validate(values["adapter"]).family
    except ValidationError:
        return values
    return {"learning_rate": family.times * rate, **family.recommended, **values}
