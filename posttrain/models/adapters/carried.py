"""What an adapter adds to a model's memory, told from the model's anatomy: nothing is attached."""

import json
import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from posttrain.models.anatomy import Anatomy, Matrix, shapes_in
from posttrain.schema.errors import ModelError

from .family import Family
from .low_rank import LowRank, QLoRA
from .scales import IA3
from .subspace import OSF
from .virtual import Prefix, PTuning, Virtual


@dataclass(frozen=True)
class Carried:
    """An adapter's weights; whether a matrix keeps its input for it; the summed width that it keeps beside, a token;
    whether its base is in four bits; how many numbers it holds that are not trained."""

    weights: int
    reads: Callable[[Matrix], bool]
    keeps: int = 0
    four_bits: bool = False
    frozen: int = 0


def carried(family: Family, model: Anatomy) -> Carried:
    """What a fresh adapter of this kind would add."""
    match family:
        case LowRank():
            return _low_rank(family, model)
        case IA3():
            values = model.attended - model.queries
            return Carried(values + model.inner, lambda m: m.is_output and not m.in_attention, values)
        case OSF():
            return _subspace(family, model)
        case Prefix():
            return Carried(family.tokens * (model.attended - model.queries), _none)
        case PTuning():
            network = 2 * model.width * family.hidden + family.hidden**2 + 2 * family.hidden + model.width
            return Carried(family.tokens * model.width + network, _none)
        case Virtual():
            return Carried(family.tokens * model.width, _none)
    raise ModelError(f"The memory of {type(family).__name__} cannot be told before it is attached.")


def _none(matrix: Matrix) -> bool:
    return False


def _low_rank(family: LowRank, model: Anatomy) -> Carried:
    chosen = [m for m in model.matrices if targets(m, family.targets)]
    weights = sum(family.rank * (m.n_in + m.n_out) + (m.n_out if family.dora else 0) for m in chosen)
    keeps = sum(family.rank + (2 * m.n_out if family.dora else 0) for m in chosen)
    names = {m.name for m in chosen}
    return Carried(weights, lambda m: m.name in names, keeps, isinstance(family, QLoRA))


def _subspace(family: OSF, model: Anatomy) -> Carried:
    """The weak directions twice, as they are and as they were, and the strong ones of a matrix's longer side."""
    chosen = [m for m in model.matrices if targets(m, family.targets)]
    strong = {m.name: int(family.kept * min(m.n_in, m.n_out)) for m in chosen}
    weak = {m.name: min(m.n_in, m.n_out) - strong[m.name] for m in chosen}
    weights = sum(weak[m.name] * (m.n_in + m.n_out + 1) for m in chosen)
    longer = sum(strong[m.name] * max(m.n_in, m.n_out) for m in chosen if m.n_in != m.n_out)
    return Carried(weights, lambda m: m.name in weak, 2 * sum(weak.values()), frozen=weights + longer)


def targets(matrix: Matrix, named: str | Sequence[str]) -> bool:
    """Whether PEFT's `target_modules` mean this matrix: all of them, a pattern for whole names, or last parts."""
    if isinstance(named, str):
        return named == "all-linear" or bool(re.fullmatch(named, matrix.name))
    return any(matrix.name == name or matrix.name.endswith(f".{name}") for name in named)


def carried_in(folder: Path) -> Carried:
    """What the adapter in a folder adds."""
    try:
        config = json.loads((folder / "adapter_config.json").read_text(encoding="utf-8"))
        named, rank = config.get("target_modules") or [], int(config.get("r") or 0)
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise ModelError(f"{folder}/adapter_config.json cannot be read ({error}). Copy the adapter again.") from error
    shapes = list(shapes_in(folder))
    keeps = rank * sum("lora_A" in name for name, _ in shapes)
    in_four = (folder / "base_quantization.json").is_file()
    return Carried(sum(math.prod(shape) for _, shape in shapes), lambda m: targets(m, named), keeps, in_four)
