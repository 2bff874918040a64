"""Attacks as recipes write them: by name, with their options, or one inside the other.

In the key of what is made with them they stand with their classes, their versions and all that they ask by default.
"""

from collections.abc import Mapping, Sequence
from typing import Annotated, Any

from pydantic import BeforeValidator, SerializationInfo, SerializerFunctionWrapHandler, ValidationError, WrapSerializer

from posttrain.schema.errors import UsageError
from posttrain.schema.find import attack_class
from posttrain.schema.settings import KEYED, keyed, problems

from .attack import Attack, Composed, Rewrite, parts_of

Spec = str | dict[str, dict[str, Any] | None]


def armed(specs: Sequence[Spec | Sequence[Spec]]) -> dict[str, Attack | Composed]:
    """Family -> attack, for attacks as recipes write them: `direct`, `{persona: {at_most: 2}}`, or a list of those, the
    innermost first. Raises UsageError for none and for an unknown one, for options that do not fit, and for two with one
    name."""
    if not isinstance(specs, list | tuple) or not specs:
        raise UsageError("There are no attacks. List at least one, as `attacks: [direct]`.")
    found: dict[str, Attack | Composed] = {}
    for spec in specs:
        named = [_read(part) for part in (spec if isinstance(spec, list | tuple) else [spec])]
        if not named:
            raise UsageError("An attack is an empty list. Name at least one attack in it, such as `direct`.")
        family = "+".join(name for name, _ in named)
        if family in found:
            raise UsageError(
                f"The attack {family!r} is given twice. Merge the two, or give a `name` to one that has it."
            )
        found[family] = named[0][1] if len(named) == 1 else _composed([part for _, part in named], family)
    return found


def _composed(parts: Sequence[Attack], family: str) -> Composed:
    if sum(not isinstance(part, Rewrite) for part in parts) > 1:
        raise UsageError(f"{family!r} joins two attacks that both lead the talk. Keep one, and rewrites beside it.")
    return Composed(tuple(parts))


def _read(spec: Any) -> tuple[str, Attack]:
    """(family, attack) of one name with its options."""
    name: Any = spec if isinstance(spec, str) else None
    options: Any = {}
    if isinstance(spec, Mapping) and len(spec) == 1:
        ((name, options),) = spec.items()
    if not isinstance(name, str) or not isinstance(options, Mapping | None):
        raise UsageError(
            "An attack is a name, or a name with its options. Write `direct` or `{persona: {at_most: 2}}`."
        )
    found = attack_class(name)
    if not issubclass(found, Attack):
        raise UsageError(f"{name!r} is no attack. Name a class that subclasses posttrain.engine.attack.Attack.")
    try:
        attack: Attack = found.model_validate(dict(options or {}))
    except ValidationError as error:
        told = "; ".join(str(problem) for _, problem in problems(found, dict(options or {})))
        raise UsageError(f"The attack {name!r}: {told}") from error
    return ":".join(filter(None, (name.rpartition(":")[2], attack.label()))), attack


def _known(specs: Any) -> Any:
    """What is said, if it is attacks that there are: a typing mistake is found before anything is attacked."""
    specs = [specs] if isinstance(specs, str | Mapping) else specs
    try:
        armed(specs)
    except UsageError as error:
        raise ValueError(str(error)) from error
    return specs


def _told(specs: Any, written: SerializerFunctionWrapHandler, info: SerializationInfo) -> Any:
    """Attacks as they are written; for a key with their classes, their versions and all that they ask by default."""
    if not (info.context or {}).get(KEYED):
        return written(specs)
    return [[family, *map(_named, parts_of(attack))] for family, attack in armed(specs).items()]


def _named(part: Attack) -> list[Any]:
    return [f"{type(part).__module__}:{type(part).__name__}", part.version, keyed(part)]


Attacks = Annotated[tuple[Spec | list[Spec], ...], BeforeValidator(_known), WrapSerializer(_told)]
"""Attacks by name or with their options; a list of them is one inside the other, the innermost first."""
