"""Every setting that is marked as an input is one for the planner: a mark inside a union would be overlooked in silence."""

from collections.abc import Iterator
from typing import Any, get_args

import pytest

from posttrain.engine.method import stage_class
from posttrain.schema.find import attack_class, attacks, methods
from posttrain.schema.settings import DatasetRef, Mark, ModelRef, Settings, inputs


def marked_within(annotation: Any) -> Iterator[str]:
    """The kinds of input that are marked anywhere inside an annotation."""
    for part in get_args(annotation):
        if isinstance(part, Mark):
            yield part.kind
        yield from marked_within(part)


def overlooked(settings: type[Settings]) -> list[str]:
    """The fields that hold an input which the planner does not see."""
    seen = inputs(settings)
    return [
        name
        for name, info in settings.model_fields.items()
        if {"dataset", "model"} & set(marked_within(info.annotation)) and name not in seen
    ]


@pytest.mark.parametrize("name", methods())
def test_no_input_of_a_method_is_overlooked(name: str) -> None:
    assert overlooked(stage_class(name)) == []


@pytest.mark.parametrize("name", attacks())
def test_an_attack_reads_nothing_of_its_own(name: str) -> None:
    assert inputs(attack_class(name)) == {} and overlooked(attack_class(name)) == []


def test_a_mark_in_a_union_is_found() -> None:
    class Wrong(Settings):
        rows: DatasetRef | None = None
        other: ModelRef | None = None
        right: DatasetRef = ()

    assert overlooked(Wrong) == ["rows", "other"]
