"""How wide a decoder is, and the same decoder without channels that have no effect: of its inner layers, of its stream, and
whole groups of a key-value head with its query heads.

Which axis of a weight belongs to which width is not read off names: transformers is asked to build the model, without weights,
with one width changed, and the axes that follow are of that width.

    inner width   F    gate, up (F, D)    down (D, F)              fused ones hold F twice, one behind the other
    groups        K    query (K g d, D)   key, value (K d, D)      output (D, K g d)          g query heads share one of K
    stream        D    all that reads it or writes to it, embeddings and head

RMSNorm divides by the mean over the whole stream. With only D' channels that are not zero, of D,

    w x / sqrt(S / D + eps)  =  w sqrt(D / D') x / sqrt(S / D' + eps D / D')          S = sum over channels of x^2

so a narrow norm computes the same with weights of sqrt(D / D') times as much and an eps of D / D' times as much. Norms over
heads have the same eps in the configuration, which then grows too: a trace, as it is small beside what they divide by. Where a model
multiplies its embeddings by sqrt(D), as Gemma does, they become larger by sqrt(D / D') themselves.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from math import sqrt
from typing import Any, Literal

import torch
from torch import Tensor, nn

from posttrain.schema.errors import ModelError

from .activations import layers
from .blocks import Blocks
from .matrices import matrices_in, others_in

Width = Literal["ffn", "hidden", "kv_groups"]
Kept = Mapping[tuple[Width, str], Tensor]
"""The channels or groups that stay, in their order, by width and name of the layer; of the stream by no name."""

EPS = re.compile(r"norm.*eps|^eps$|epsilon$")


@dataclass(frozen=True)
class Axis:
    """An axis of a parameter that follows a width. A channel or group has `sections` entries there, in each of several parts
    that lie one behind the other."""

    name: str
    dim: int
    width: Width
    layer: str
    sections: tuple[int, ...]

    @property
    def key(self) -> tuple[Width, str]:
        return self.width, self.layer

    @property
    def module(self) -> str:
        return self.name.rpartition(".")[0]

    def places(self, units: Tensor, length: int) -> Tensor:
        """Where the entries of some channels or groups are, on the axis of such a length."""
        found, start, n = [], 0, length // sum(self.sections)
        for size in self.sections:
            found.append((start + units[:, None] * size + torch.arange(size)).flatten())
            start += n * size
        return torch.cat(found)


def widths_of(weights: Any) -> dict[Width, int]:
    """The widths of a model. Raises ModelError for a mixture of experts, and where its configuration does not say."""
    config = weights.config.get_text_config()
    matrices_in(weights)  # which says so where there is none
    blocks = others_in(weights)
    if blocks:
        raise ModelError(
            f"{blocks[0]} is no matrix of one inner layer: mixtures of experts are not made narrower. Write `keep_layers`, or "
            "name a dense model."
        )
    heads = getattr(config, "num_attention_heads", None)
    found = {
        "ffn": getattr(config, "intermediate_size", None),
        "hidden": getattr(config, "hidden_size", None),
        "kv_groups": getattr(config, "num_key_value_heads", None) or heads,
    }
    for name, value in found.items():
        if not isinstance(value, int):
            raise ModelError(
                f"The configuration of {type(weights).__name__} says {value!r} of its {name}, which is no one number for all "
                "layers. Take a Llama, Mistral, Qwen, Gemma or Phi."
            )
    return found  # type: ignore[return-value]


def narrowed(config: Any, widths: Mapping[Width, int]) -> Any:
    """A configuration with other widths. Raises ModelError where transformers opens none."""
    from huggingface_hub.errors import StrictDataclassError

    made = _changed(config, widths)
    try:
        return type(made).from_dict(made.to_dict())
    except (ValueError, StrictDataclassError) as error:
        said = str(error).strip().splitlines()[-1].strip().rpartition("Error: ")[2]
        whole = config.get_text_config()
        groups = getattr(whole, "num_key_value_heads", None) or whole.num_attention_heads
        raise ModelError(
            f"transformers opens no such {type(made).__name__} ({said.rstrip('.')}). Choose `hidden` and `kv_groups` so that the "
            f"width is a multiple of the query heads, {whole.num_attention_heads // groups} for each group."
        ) from error


def _changed(config: Any, widths: Mapping[Width, int]) -> Any:
    """The same as yet unchecked. Heads stay as wide as they are."""
    made = deepcopy(config)
    text = made.get_text_config()
    heads, whole = text.num_attention_heads, text.hidden_size
    groups = getattr(text, "num_key_value_heads", None) or heads
    text.head_dim = getattr(text, "head_dim", None) or whole // heads
    if "ffn" in widths:
        text.intermediate_size = widths["ffn"]
    if "kv_groups" in widths:
        text.num_attention_heads = heads // groups * widths["kv_groups"]
        if hasattr(text, "num_key_value_heads"):
            text.num_key_value_heads = widths["kv_groups"]
    if "hidden" in widths:
        text.hidden_size = widths["hidden"]
        for name in [name for name in vars(text) if EPS.search(name) and isinstance(getattr(text, name), float)]:
            setattr(text, name, getattr(text, name) * whole / widths["hidden"])
    return made


def axes(weights: Any, widths: Mapping[Width, int]) -> list[Axis]:
    """Every axis that follows one of the widths, which are those to come. Raises ModelError where one cannot be made sense of."""
    whole, shapes = widths_of(weights), _shapes(weights, {})
    named = [name for name, _ in layers(weights)]
    found = []
    for width in (width for width, narrow in widths.items() if narrow != whole[width]):
        followed = list(_followed(shapes, _shapes(weights, {width: widths[width]})))
        odd = _odd(weights, width, followed)
        for name, dim, before, after in followed:
            each = before // whole[width]
            sections = _sections(weights.config.get_text_config(), width, each)
            if (each * whole[width], each * widths[width]) != (before, after) or not sections:
                odd = odd or f"{name} of {type(weights).__name__} follows its `{width}` in a way that is not known"
            layer = next((layer for layer in named if name.startswith(f"{layer}.")), "")
            found.append(Axis(name, dim, width, "" if width == "hidden" else layer, sections))
        if odd:
            raise ModelError(f"{odd}. Leave `{width}` out, or take a Llama, Mistral, Qwen, Gemma or Phi.")
    return found


def _shapes(weights: Any, widths: Mapping[Width, int]) -> dict[str, tuple[int, ...]]:
    """The shapes of a model's parameters with some widths."""
    with torch.device("meta"):
        made = type(weights)(_changed(weights.config, widths))
    return {name: tuple(x.shape) for name, x in made.named_parameters()}


def _followed(
    before: Mapping[str, tuple[int, ...]], after: Mapping[str, tuple[int, ...]]
) -> Iterator[tuple[str, int, int, int]]:
    """(name, axis, length, length) of what is not as long as before."""
    for name, shape in before.items():
        for dim, (old, new) in enumerate(zip(shape, after.get(name, (0,) * len(shape)), strict=True)):
            if old != new:
                yield name, dim, old, new


def _odd(weights: Any, width: Width, followed: Sequence[tuple[str, int, int, int]]) -> str:
    """What speaks against changing a width, if anything."""
    kind, names = type(weights).__name__, [name for name, *_ in followed]
    plain = {name for name in names if isinstance(weights.get_submodule(name.rpartition(".")[0]), nn.Linear)}
    read = [name for name, dim, *_ in followed if name in plain and dim == 1]
    if not read:
        return f"No matrix of {kind} reads its `{width}` alone"
    twice = [name for name in names if names.count(name) > 1]
    if twice:
        return f"{twice[0]} of {kind} follows its `{width}` on both sides"
    across = [name for name in names if width == "kv_groups" and name.endswith("norm.weight") and name not in plain]
    return f"{across[0]} of {kind} is a norm over all heads together, and would be another over some" if across else ""


def _sections(config: Any, width: Width, each: int) -> tuple[int, ...]:
    """How the entries of a channel or group lie on an axis that has `each` of them for it; nothing where that is not known."""
    if width == "hidden":
        return (1,) if each == 1 else ()
    if width == "ffn":
        return {1: (1,), 2: (1, 1)}.get(each, ())
    groups = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
    shared = config.num_attention_heads // groups
    d = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    if each == (shared + 2) * d:
        return shared * d, d, d
    return (each,) if each in (shared * d, d, shared, 1) else ()


def norms(weights: Any, found: Sequence[Axis]) -> dict[str, float]:
    """The norms over the stream by name, with what they add to their weights before they multiply by them. Raises ModelError
    for others than root-mean-square norms: a mean over the stream would be another one over some of it."""
    told: dict[str, float] = {}
    for axis in found:
        name, module = axis.module, weights.get_submodule(axis.module)
        if axis.width == "hidden" and axis.name.endswith(".weight") and module.weight.dim() == 1:
            trial = deepcopy(module).cpu()
            with torch.no_grad():
                trial.weight.fill_(1)
                value = float(trial(torch.full((1, len(trial.weight)), 1e3)).mean())  # so that eps is nothing
            if round(value, 2) not in (1, 2):
                raise ModelError(
                    f"{name} of {type(weights).__name__} is no root-mean-square norm, and others change with the width of the "
                    "stream. Leave `hidden` out."
                )
            told[name] = float(round(value) - 1)
    if not told and any(axis.width == "hidden" for axis in found):
        raise ModelError(f"{type(weights).__name__} has no root-mean-square norm over its stream. Leave `hidden` out.")
    return told


@torch.no_grad()
def without_effect(weights: Any, found: Sequence[Axis], kept: Kept) -> None:
    """Makes zero whatever is not kept."""
    for axis in found:
        x = weights.get_parameter(axis.name)
        gone = torch.ones(x.shape[axis.dim], dtype=torch.bool)
        gone[axis.places(kept[axis.key], len(gone))] = False
        x.index_fill_(axis.dim, gone.nonzero().flatten().to(x.device), 0)


@torch.no_grad()
def cut(weights: Any, found: Sequence[Axis], kept: Kept, widths: Mapping[Width, int]) -> Any:
    """The model without what is not kept, which must have no effect in it; it computes the same. Raises ModelError."""
    state: dict[str, Tensor] = dict(weights.named_parameters()) | {
        name: x for name, x in weights.named_buffers() if name in weights.state_dict()
    }
    for axis in found:
        x = state[axis.name]
        state[axis.name] = x.index_select(axis.dim, axis.places(kept[axis.key], x.shape[axis.dim]))
    made, said = type(weights).from_pretrained(
        None,
        config=narrowed(weights.config, widths),
        state_dict=state,
        dtype=torch.float32,
        attn_implementation=weights.config._attn_implementation,
        output_loading_info=True,
    )
    if said["missing_keys"] or said["unexpected_keys"]:
        odd = sorted({*said["missing_keys"], *said["unexpected_keys"]})[0]
        raise ModelError(
            f"{type(weights).__name__} cannot be made narrower: nothing is known of {odd}. Take another model."
        )
    made.generation_config = weights.generation_config
    if ("hidden", "") in kept:
        _match(weights, made, found, kept["hidden", ""])
    return made.eval()


def _match(weights: Any, made: Any, found: Sequence[Axis], kept: Tensor) -> None:
    """Scales the norms of a model with fewer channels, and its embeddings where the model multiplies them by its width. A head
    that is the same matrix is then as much too large, for which the last norm makes up."""
    wide, narrow = _read(weights), _read(made)
    by = round(float((wide[..., kept] * narrow).sum() / narrow.square().sum()), 5)
    inside, head = made.get_input_embeddings(), made.get_output_embeddings()
    inside.weight.mul_(by)
    told = norms(weights, found)
    for name, offset in told.items():
        last = name == list(told)[-1] and head.weight is inside.weight
        norm, times = made.get_submodule(name), sqrt(wide.shape[-1] / len(kept)) / (by if last else 1)
        norm.weight.copy_((norm.weight + offset) * times - offset)


def _read(model: Any) -> Tensor:
    """(1, T, D): what the first layer reads of some tokens."""
    ids = torch.arange(8)[None] % model.get_input_embeddings().num_embeddings
    return Blocks(model, ids, torch.device("cpu")).states
