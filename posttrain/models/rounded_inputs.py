"""Matrices that read rounded inputs, as those of W8A8 models do: what is measured is then what other programs compute.

    y = W^ x^        x^ each token's x in 8 bits, with a scale of its own that is found while the model computes

vLLM multiplies the integers themselves; here, as in transformers, their values are multiplied, which gives the same but for the
order of sums. Its steps are max |x| / 127, those of compressed-tensors, which are taken here, max |x| / 127.5. Model Optimizer's are the
same for all tokens, found once on texts and stored.
"""

import re
from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from posttrain.functional.rounding import nearest_of_scale, nearest_per_token
from posttrain.schema.errors import ModelError

from .modelopt_layout import BEFORE, INPUT

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


def round_inputs_as_stored(model: nn.Module, stored: Mapping[str, Tensor]) -> None:
    """Lets matrices read inputs that are multiplied and rounded by what is stored of them: (C,) factors, () scales."""
    for name, module in model.named_modules():
        if isinstance(module, nn.Linear) and {name + INPUT, name + BEFORE} & stored.keys():
            for key, hook in ((BEFORE, _multiplied), (INPUT, _rounded_alike)):
                if name + key in stored:
                    module.register_buffer(key.removeprefix("."), stored[name + key].float(), persistent=False)
                    module.register_forward_pre_hook(hook)


def _rounded(_: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
    return _passing(args, nearest_per_token(args[0].detach()))


def _rounded_alike(module: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
    return _passing(args, nearest_of_scale(args[0].detach(), module.get_buffer("input_scale")))


def _passing(args: tuple[Any, ...], rounded: Tensor) -> tuple[Any, ...]:
    """Inputs that are rounded, with the gradients of those that are not."""
    x: Tensor = args[0]
    return (x + (rounded - x).detach() if x.requires_grad else rounded, *args[1:])


def _multiplied(module: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
    return (args[0] * module.get_buffer("pre_quant_scale").to(args[0].dtype), *args[1:])
