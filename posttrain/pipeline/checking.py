"""A look at rows as a model would be trained on them: nothing is trained, only the tokenizer is loaded.

rows -> rendered with the model's chat template -> findings, lengths, and a few rows to look at
"""

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

from posttrain.data.audit import Audit, Finding, audit, rendered
from posttrain.data.chat import ChatFormat
from posttrain.data.dressing import Dress, dress
from posttrain.data.read import Reading, read
from posttrain.data.rules import Rendered
from posttrain.engine.method import stage_class
from posttrain.engine.speaking import Speaking
from posttrain.engine.store import Store
from posttrain.functional.layout import Branch, Tree
from posttrain.models.load import load_context, load_format, load_tokenizer
from posttrain.schema.artifacts import Dataset, Model
from posttrain.schema.errors import DataError, RecipeError, UsageError
from posttrain.schema.rows import Conversation, Labelled, Pair, Prompt, Row, Text, fingerprint
from posttrain.schema.settings import Rows, problems

from .run import RUNS, STORE
from .tree import read as read_yaml

SHAPES: tuple[type[Row], ...] = (Pair, Conversation, Text)
"""What is learnt from, the most telling shape first."""
ANY: tuple[type[Row], ...] = (Prompt, *SHAPES, Labelled)
ROWS, SAMPLES, MAX_LENGTH = 5000, 3, 1024
MOST_TEXTS = 4  # of one row that are shown


class Piece(NamedTuple):
    """A text of a row that is learnt, or is not."""

    text: str
    trained: bool


class Shown(NamedTuple):
    """One text that a row is learnt as: a prompt with one of its answers."""

    place: str
    pieces: tuple[Piece, ...]
    tokens: int


@dataclass(frozen=True)
class Checked:
    """All that was found. `decision` says how the rows were read, `template` how the model is talked to."""

    decision: str
    shape: str
    template: str
    max_length: int
    audit: Audit
    shown: tuple[Shown, ...]

    @property
    def ok(self) -> bool:
        """Whether nothing found is an error."""
        return not self.audit.errors

    def as_dict(self) -> dict[str, Any]:
        """Everything, as plain JSON."""
        shown = [
            {"row": one.place, "tokens": one.tokens, "pieces": [piece._asdict() for piece in one.pieces]}
            for one in self.shown
        ]
        said = {name: getattr(self, name) for name in ("decision", "shape", "template", "max_length", "ok")}
        return {**said, **self.audit.as_dict(), "shown": shown}


def check(
    data: Rows,
    model: str,
    *,
    measured: Sequence[Rows] = (),
    method: str | None = None,
    chat_template: str | None = None,
    max_length: int = MAX_LENGTH,
    rows: int = ROWS,
    samples: int = SAMPLES,
    out: Path | str = RUNS,
) -> Checked:
    """What is wrong with the first `rows` rows, were `model` trained on them. They are read as `method` reads them, or in
    the first shape that fits. `measured` are rows that it will be measured on."""
    store = Store(Path(out) / STORE)
    found = store.model(model)
    dataset = store.dataset(data)
    shapes = SHAPES if method is None else (_reads(method),)
    reading = _first(replace(dataset, on_bad_row="skip"), shapes, rows)
    form, given = _form(found, chat_template, chats=not isinstance(reading.rows[0], Text))
    longest = min(max_length, load_context(found))
    seen = frozenset(mark for each in measured for mark in _marks(store.dataset(each)))
    made = list(rendered(reading.rows, form, longest))
    audited = audit(made, form, longest, seen)
    if reading.n_skipped and dataset.on_bad_row == "stop":
        audited = replace(audited, findings=(_bad_rows(reading), *audited.findings))
    shape = type(reading.rows[0]).__name__
    return Checked(reading.decision, shape, str(given), longest, audited, _shown(made, form, samples))


def rows_of(path: str, settings: Sequence[str]) -> Rows:
    """The source of rows that words such as `take=100` and `columns.prompt=question` describe. Raises RecipeError."""
    values: dict[str, Any] = {"path": path}
    for setting in settings:
        name, _, value = setting.partition("=")
        node, wrong = read_yaml(value, setting)
        if wrong:
            raise RecipeError(wrong)
        _put(values, name.split("."), node.plain(), setting)
    if wrong := [problem for _, problem in problems(Rows, values)]:
        raise RecipeError(wrong)
    return Rows.model_validate(values)


def _put(values: dict[str, Any], names: Sequence[str], value: Any, setting: str) -> None:
    first, *rest = names
    if not rest:
        values[first] = value
        return
    inner = values.setdefault(first, {})
    if not isinstance(inner, dict):
        raise UsageError(f"{setting}: {first} is set already, and has nothing inside. Say it once.")
    _put(inner, rest, value, setting)


def _reads(method: str) -> type[Row]:
    shape = stage_class(method).reads
    if shape is None:
        raise UsageError(f"{method!r} reads no rows. Name a method that trains, such as sft.")
    return shape


def _first(dataset: Dataset, shapes: Sequence[type[Row]], limit: int | None) -> Reading[Any]:
    """The rows in the first of some shapes that fits. Raises the DataError of the last where none does."""
    for shape in shapes[:-1]:
        with suppress(DataError):
            return read(dataset, shape, limit=limit)
    return read(dataset, shapes[-1], limit=limit)


def _marks(dataset: Dataset) -> list[str]:
    return [fingerprint(row) for row in _first(dataset, ANY, None).rows]


def _form(model: Model, chat_template: str | None, *, chats: bool) -> tuple[ChatFormat, Dress]:
    """How the model would be talked to once it is trained, all its weights or a LoRA."""
    if wrong := [problem for _, problem in problems(Speaking, {"chat_template": chat_template})]:
        raise RecipeError(wrong)
    chat_template = Speaking(chat_template=chat_template).chat_template
    tokenizer = load_tokenizer(model)
    form = load_format(model, tokenizer)
    if chat_template is None and (form.apart or not chats):
        return form, Dress()
    given = dress(tokenizer, chat_template, grows=not form.apart and model.form == "dense")
    return load_format(model, tokenizer), given


def _bad_rows(reading: Reading[Any]) -> Finding:
    return Finding(
        "bad_row",
        "error",
        f"{reading.n_skipped} rows cannot be read",
        f"Mend them, or read them with `on_bad_row: skip`. {'; '.join(reading.skipped[:3])}",
        reading.n_skipped,
        reading.n_skipped + len(reading.rows),
        reading.skipped[0].partition(": ")[0],
    )


def _shown(rows: Sequence[Rendered], form: ChatFormat, n: int) -> tuple[Shown, ...]:
    """The first texts of `n` rows, evenly taken."""
    readable = [row for row in rows if row.trees]
    chosen = readable[:: max(1, len(readable) // n)][:n] if n > 0 else []
    texts = ((row.place, tree.prompt, branch) for row in chosen for tree, branch in _texts(row))
    return tuple(
        Shown(
            place,
            _pieces(prompt + branch.tokens, (False,) * len(prompt) + branch.trained, form),
            len(prompt + branch.tokens),
        )
        for place, prompt, branch in texts
    )


def _texts(row: Rendered) -> list[tuple[Tree, Branch]]:
    return [(tree, branch) for tree in row.trees for branch in tree.branches][: 1 if row.is_text else MOST_TEXTS]


def _pieces(ids: Sequence[int], trained: Sequence[bool], form: ChatFormat) -> tuple[Piece, ...]:
    cuts = [n for n in range(1, len(ids)) if trained[n] != trained[n - 1]]
    ends = zip([0, *cuts], [*cuts, len(ids)], strict=True)
    return tuple(
        Piece(str(form.tokenizer.decode(list(ids[a:b]), clean_up_tokenization_spaces=False)), trained[a])
        for a, b in ends
    )
