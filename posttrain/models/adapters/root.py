"""Virtual tokens as keys and values that stand before every text: a root that all answers share.

Prefix-tuning learns the keys and values of n virtual tokens themselves; prompt and P-tuning learn n embeddings, of
which the model makes keys and values. As attention is causal, no text changes them: they are computed once for all
answers of a batch, and a gradient flows back through them. Shapes: keys and values of a layer are (1, K, n, D).
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from transformers import Cache, DynamicCache
from transformers.cache_utils import DynamicLayer

if TYPE_CHECKING:
    from peft import PeftModel


class _Standing(DynamicLayer):
    """Keys and values that stand before those of a call, whose own are not kept: a layer that is computed again for
    its gradient finds what it found before."""

    def __init__(self, keys: Tensor, values: Tensor):
        super().__init__()
        self.keys, self.values, self.is_initialized = keys, values, True
        self.standing = (keys, values)

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        rows = len(key_states)
        keys, values = (x.to(key_states.dtype).expand(rows, -1, -1, -1) for x in self.standing)
        return torch.cat([keys, key_states], 2), torch.cat([values, value_states], 2)


class _Noting(DynamicLayer):
    """Notes the keys and values of a call."""

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        self.keys, self.values = key_states, value_states
        return key_states, value_states


Pairs = Sequence[tuple[Tensor, Tensor]]


class Root(Cache):
    """Keys and values of virtual tokens, as a cache that a forward pass reads and does not change."""

    def __init__(self, pairs: Pairs):
        super().__init__(layers=[_Standing(keys, values) for keys, values in pairs])
        self.pairs = pairs

    def grown(self, rows: int, config: Any) -> DynamicCache:
        """A cache that begins with the virtual tokens in each of its rows, to decode with."""
        cache = DynamicCache(config=config)
        for layer, pair in enumerate(self.pairs):
            keys, values = (x.expand(rows, -1, -1, -1) for x in pair)
            cache.update(keys, values, layer)
        return cache


def root_of(adapted: "PeftModel") -> Root:
    """The root that the active adapter's virtual tokens make."""
    prompt: Any = adapted.get_prompt(batch_size=1)
    if isinstance(prompt, Tensor):
        return Root(keys_and_values(adapted.get_base_model(), prompt))
    return Root([(layer.keys, layer.values) for layer in prompt.layers])


def keys_and_values(model: Any, embeddings: Tensor) -> Pairs:
    """What every layer of a causal model makes of embeddings (1, n, width) at the start of a text."""
    notes = Cache(layer_class_to_replicate=_Noting)
    backbone = getattr(model, str(model.base_model_prefix))
    backbone(inputs_embeds=embeddings, past_key_values=notes, use_cache=True)
    noted: Any = notes.layers
    return [(layer.keys, layer.values) for layer in noted]
