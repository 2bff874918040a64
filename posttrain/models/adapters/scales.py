"""IA3 (Liu et al. 2022, arXiv 2205.05638): keys, values and the inner activations of the feed-forward layers are each
multiplied by a learnt vector, l_k * k, l_v * v and (l_ff * act(h W1)) W2, which begins at one."""

from typing import TYPE_CHECKING, ClassVar

from posttrain.schema.errors import ModelError

from .family import Family, linear_layers, names_a_layer, task_of

if TYPE_CHECKING:
    from peft import IA3Config
    from transformers import PreTrainedModel

KEYS_AND_VALUES = ("k_proj", "v_proj", "qkv_proj", "c_attn", "query_key_value", "k", "v", "key", "value")
INTO_THE_STREAM = ("down_proj", "dense_4h_to_h", "mlp.c_proj", "fc2", "wo")
"""How families of models call the layers that IA3 scales: the outputs of the first, the inputs of the second."""


class IA3(Family):
    """Learnt scales of keys, values and inner activations: the fewest weights of all."""

    times: ClassVar[float] = 500.0

    targets: tuple[str, ...] | None = None
    """Names of the layers whose outputs are scaled, keys and values; found by their usual names if not given."""
    feedforward: tuple[str, ...] | None = None
    """Names of the layers whose inputs are scaled, the second of a feed-forward block; found likewise."""

    def config(self, model: "PreTrainedModel") -> "IA3Config":
        from peft import IA3Config

        targets = self._named(self.targets, KEYS_AND_VALUES, model)
        feedforward = self._named(self.feedforward, INTO_THE_STREAM, model)
        return IA3Config(
            target_modules=[*targets, *feedforward], feedforward_modules=feedforward, task_type=task_of(model)
        )

    @staticmethod
    def _named(given: tuple[str, ...] | None, usual: tuple[str, ...], model: "PreTrainedModel") -> list[str]:
        found = [name for name in (usual if given is None else given) if names_a_layer(model, name)]
        if not found or (given and len(found) < len(given)):
            asked = "none of the usual ones" if given is None else f"not all of {', '.join(given)}"
            raise ModelError(
                f"IA3 scales layers by their names, and {asked} are in this model. Write `targets` and `feedforward`; "
                f"its layers are {', '.join(linear_layers(model))}."
            )
        return found
