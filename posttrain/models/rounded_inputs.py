"""Matrices that read rounded inputs, as those of W8A8 models do: what is measured is then what other programs compute.

    y = W^ x^        x^ each token's x in 8 bits, with a scale of its own that is found while the model computes

vLLM multiplies the integers themselves; here, as in transformers, their values are multiplied, which gives the same but for the
order of sums. Its steps are max |x| / 127, those of compressed-tensors, which are taken here, max |x| / 127.5.
"""

import re
from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from posttrain.functional.rounding import nearest_per_token
from posttrain.schema.errors import ModelError

INPUTS = {
    "num_bits": 8,
    "type": "int",
    "symmetric": True,
    "strategy": "token",
    "group_size": None,
    "dynamic": True,
    "observer": None,
}
"""How compressed-tensors says it of a matrix, as `input_activations`."""
COUNTS = ("num_bits", "type", "symmetric", "strategy", "dynamic")


def round_inputs(linear: nn.Linear) -> None:
    """Lets a matrix read rounded inputs from now on. Gradients pass as if they were not."""
    linear.register_forward_pre_hook(_rounded)


def round_inputs_as_said(model: nn.Module, said: Mapping[str, Any]) -> None:
    """Lets those matrices read rounded inputs of which compressed-tensors' configuration says so. Raises ModelError for a
    rounding that is none of one scale a token."""
    targets = {
        target: group["input_activations"]
        for group in said.get("config_groups", {}).values()
        for target in group["targets"]
        if group.get("input_activations")
    }
    for how in targets.values():
        if any(how.get(key) != INPUTS[key] for key in COUNTS):
            raise ModelError(
                f"The matrices of this model read inputs that are rounded in another way ({how}) than is known here: 8 bits around "
                "zero with one scale a token. Measure the model that it was made from, or quantise that one with `smoothquant`."
            )
    for name, module in model.named_modules():
        if isinstance(module, nn.Linear) and fits(name, targets) and not fits(name, said.get("ignore") or ()):
            round_inputs(module)


def fits(name: str, patterns: Any) -> bool:
    """Whether a matrix is meant by one of some names, patterns that begin with `re:`, or its kind."""
    return any(
        re.match(each.removeprefix("re:"), name) if each.startswith("re:") else each in (name, "Linear")
        for each in patterns
    )


def _rounded(_: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
    x: Tensor = args[0]
    rounded = nearest_per_token(x.detach())
    return (x + (rounded - x).detach() if x.requires_grad else rounded, *args[1:])
