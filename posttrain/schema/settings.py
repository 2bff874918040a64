"""Settings: the frozen options of a method, written where they are read.

The sentence under a field is its help text everywhere (terminal, docs, web form). A field marked `Cosmetic` changes
what is shown, never what is made, and stays out of an artifact's key. A field of type `DatasetRef` or `ModelRef` names
an input, one of `ParentRefs` several; the planner turns them into artifacts before the method runs.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal, get_args, get_origin

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from .errors import Problem, nearest


@dataclass(frozen=True)
class Mark:
    """What the planner must know of a field: `cosmetic`, or an input of kind `dataset` or `model`, whose weights must be
    of one of the `forms` where some are said."""

    kind: str
    forms: tuple[str, ...] = ()


class Settings(BaseModel):
    """Frozen, strict about names, documented by the sentences under its fields."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True, allow_inf_nan=False)


class Range(Settings):
    """Numbers from `min` to `max`, either of which may be left out."""

    min: float | None = None
    """The smallest number that fits."""
    max: float | None = None
    """The largest number that fits."""


Value = bool | int | float | str
Condition = Value | list[Value] | Range


def as_share(value: Any) -> Any:
    """`40%` is what recipes say."""
    if isinstance(value, str) and value.endswith("%"):
        return float(value.removesuffix("%")) / 100
    return value


def _as_names(value: Any) -> Any:
    """A column without a name is called by its number, which recipes write as one."""
    return {role: str(name) for role, name in value.items()} if isinstance(value, dict) else value


class Rows(Settings):
    """One source of rows: a file, a folder or one of its splits, a Hub data set, `lab:NAME`, or an earlier stage."""

    path: str
    """Where the rows are: a file, a folder, a pattern, `org/name` of the Hub, `lab:NAME`, or the name of an earlier
    stage; `#SPLIT` or `#SPLIT:ROWS` behind it names a split and how many rows of it."""
    columns: Annotated[dict[str, str], BeforeValidator(_as_names)] = Field(default_factory=dict)
    """Which column plays which role, as `role: column` or `role: "{column} and {column}"`, where the shape is not
    recognised by itself."""
    header: bool | None = None
    """Whether the first line of a CSV file names its columns; found out by itself if not given."""
    take: int | None = Field(None, ge=1)
    """How many rows to read, from the start; all if not given."""
    where: dict[str, Condition] = Field(default_factory=dict)
    """Which rows to keep, as `column: value`, `column: [values]` or `column: {min: 1, max: 5}`."""
    min_chars: int | None = Field(None, ge=0)
    """Leave out rows with fewer characters than this."""
    max_chars: int | None = Field(None, ge=1)
    """Leave out rows with more characters than this."""
    deduplicate: Literal["exact", "near"] | None = None
    """Leave out rows that an earlier one equals, or nearly equals."""
    on_bad_row: Literal["stop", "skip"] = "stop"
    """Stop before anything is done when a row cannot be read, or skip it and report it."""
    weight: float | None = Field(None, gt=0)
    """How much of a mix of several sources is from this one, in proportion to the weights of the others."""
    epochs: float = Field(1.0, gt=0)
    """How often the rows of this source are used in one pass; in a mix by weights, how often at most."""

    def reading(self) -> dict[str, Any]:
        """Everything but the path that was said, as plain JSON."""
        return self.model_dump(mode="json", exclude={"path"}, exclude_defaults=True)


def _as_sources(value: Any) -> Any:
    """`a.jsonl`, `{path: a.jsonl, take: 10}` and lists of either are all written in recipes; a list comes out."""
    values = value if isinstance(value, list | tuple) else [value]
    if not values:
        raise ValueError("an empty list of sources: name at least one file or stage")
    return tuple({"path": v} if isinstance(v, str) else v for v in values)


DatasetRef = Annotated[tuple[Rows, ...], BeforeValidator(_as_sources), Mark("dataset")]


def _as_models(value: Any) -> Any:
    """`sft` and `[sft, dpo]` are both written in recipes; a list comes out."""
    return (value,) if isinstance(value, str) else value


ModelRef = Annotated[str, Mark("model")]
RewardRef = Annotated[str | None, Mark("model", ("reward",))]
ParentRef = Annotated[str | None, Mark("model", ("dense", "adapter"))]
ParentRefs = Annotated[tuple[str, ...], BeforeValidator(_as_models), Mark("model", ("dense", "adapter"))]
Cosmetic = Mark("cosmetic")
KEYED = "keyed"
"""What the context of a serializer holds while options are written for a key."""


@dataclass(frozen=True)
class Option:
    """One setting as help shows it."""

    name: str
    type: str
    default: Any
    required: bool
    help: str
    mark: str | None


def _mark(info: FieldInfo) -> str | None:
    return next((m.kind for m in info.metadata if isinstance(m, Mark)), None)


def _type_name(annotation: Any, mark: str | None) -> str:
    if mark in ("dataset", "model"):
        return "models" if mark == "model" and get_origin(annotation) is tuple else mark
    text = (
        annotation.__name__ if isinstance(annotation, type) and not hasattr(annotation, "__args__") else str(annotation)
    )
    text = re.sub(r"Annotated\[(\w+), [^\]]*\]", r"\1", text)  # how a value is checked is nobody's reading
    for noise in ("typing.", "NoneType", "posttrain.schema.settings."):
        text = text.replace(noise, "none" if noise == "NoneType" else "")
    return text


def options(settings: type[Settings]) -> Iterator[Option]:
    """The settings of a class in the order they are written."""
    for name, info in settings.model_fields.items():
        mark = _mark(info)
        default = None if info.default is PydanticUndefined else info.default
        default = info.default_factory() if info.default_factory else default  # type: ignore[call-arg]
        yield Option(name, _type_name(info.annotation, mark), default, info.is_required(), info.description or "", mark)


def inputs(settings: type[Settings]) -> dict[str, str]:
    """Name -> `dataset` or `model`, for the fields that name an input; one inside a group is called `group.name`."""
    found: dict[str, str] = {}
    for name, info in settings.model_fields.items():
        mark = _mark(info)
        if mark in ("dataset", "model"):
            found[name] = mark
        for group in _groups(info):
            found |= {f"{name}.{inner}": kind for inner, kind in inputs(group).items()}
    return found


def forms_of(settings: type[Settings], path: str) -> tuple[str, ...]:
    """The forms that the weights of an input may have, by a name that `inputs` gives; none where any will do."""
    *groups, last = path.split(".")
    info = _at(settings, groups).model_fields[last]
    return next((mark.forms for mark in info.metadata if isinstance(mark, Mark)), ())


def input_of(settings: Settings, path: str) -> Any:
    """What stands under a name that `inputs` gives; None where its group is left out."""
    value: Any = settings
    for name in path.split("."):
        value = getattr(value, name, None)
    return value


def keyed(settings: Settings) -> dict[str, Any]:
    """The options that change the result, as plain JSON; inputs are left out, as their digests stand for them. A field that
    stands for more than is written in it may tell all of it here: its serializer finds KEYED in the context."""
    return settings.model_dump(mode="json", exclude=_marked(type(settings)), context={KEYED: True})


def _groups(info: FieldInfo) -> Iterator[type[Settings]]:
    """The settings classes that a field may hold."""
    for each in (info.annotation, *get_args(info.annotation)):
        if isinstance(each, type) and issubclass(each, Settings):
            yield each


def _marked(settings: type[Settings]) -> dict[str, Any]:
    """The marked fields of a class and of the groups in it, as pydantic leaves them out."""
    found: dict[str, Any] = {}
    for name, info in settings.model_fields.items():
        if _mark(info):
            found[name] = True
        elif inner := {k: v for group in _groups(info) for k, v in _marked(group).items()}:
            found[name] = inner
    return found


def problems(settings: type[Settings], values: dict[str, Any]) -> list[tuple[str, Problem]]:
    """Every mistake in `values`, as (path of the option, problem); empty when they are valid."""
    try:
        settings.model_validate(values)
    except ValidationError as error:
        return [_problem(settings, e) for e in error.errors()]
    return []


def _problem(settings: type[Settings], error: Any) -> tuple[str, Problem]:
    names = [str(part) for part in error["loc"] if part != "function-before[_as_sources()]"]
    path, before = ".".join(names), "".join(f"{name}." for name in names[:-1])
    options = _at(settings, names[:-1]).model_fields
    if error["type"] == "extra_forbidden":
        return path, Problem(f"there is no option {path!r}. {nearest(path, [before + name for name in options])}")
    if error["type"] == "missing":
        info = options.get(names[-1])
        return path, Problem(
            f"the option {path!r} is missing. Write `{path}: …`: {info.description if info else ''}".strip()
        )
    reason = error["msg"].removeprefix("Value error, ")
    reason = f"{reason[0].lower()}{reason[1:]}{'' if reason.endswith(('.', '?')) else '.'}"
    if not path:  # said of several options together
        return path, Problem(reason)
    return path, Problem(f"{path}: {error['input']!r} does not fit: {reason}")


def _at(settings: type[Settings], names: Sequence[str]) -> type[Settings]:
    """The settings class of a group within a group, as far as the names lead to one."""
    for name in names:
        info = settings.model_fields.get(name)
        settings = next(_groups(info), settings) if info else settings
    return settings
