"""How rows were read, in one line that is printed before anything is trained on them."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from posttrain.schema.rows import Answered, Conversation, Labelled, Message, Pair, Prompt, Row

from .columns import blanks, named, plainly
from .layouts import ASIDE
from .record import BadRow
from .shapes import Recognised

MEANINGS = {
    "prompt": "user",
    "context": "user",
    "completion": "assistant",
    "history": "earlier turns",
    "label": "thumb",
    "answers": "answers, best first",
    "ids": "tokens",
    "mask": "what is learnt",
    "answer_mask": "what is learnt",
}
"""What a role becomes, where that is not its own name."""
SILENT: dict[type[Row], tuple[str, ...]] = {Prompt: (), Answered: (), Conversation: ("answer", "plain")}
"""Shape -> the roles that it has no use for; other shapes have none for any of ASIDE."""
N_FILES = 3
"""How many files are named."""
N_LISTED = 20
"""How many bad rows an error or a manifest lists."""


@dataclass(frozen=True)
class How:
    """How the rows of a file are read: what rows like these are called, and which column becomes what."""

    name: str
    arrows: str


@dataclass
class Tally:
    """What is counted while files are read: rows that came out, and what became of the others."""

    rows: int = 0
    empty: int = 0
    bad: int = 0
    listed: list[BadRow] = field(default_factory=list)
    left_out: Counter[str] = field(default_factory=Counter)
    read: dict[How, list[str]] = field(default_factory=dict)

    def add(self, row: Row) -> None:
        """A row that came out."""
        self.rows += 1
        self.empty += _has_empty_answer(row)

    def add_bad(self, row: BadRow) -> None:
        """A row that cannot be read."""
        self.bad += 1
        if len(self.listed) < N_LISTED:
            self.listed.append(row)

    def in_one_line(self) -> str:
        """The decision for all files."""
        parts = [f"{how.name} ({_files(names)}): {how.arrows}" for how, names in self.read.items()]
        notes = [f"{n} left out as {why}" for why, n in self.left_out.items()]
        if self.bad:
            notes.append(f"{self.bad} skipped that cannot be read, the first {self.listed[0]}")
        if self.empty:
            notes.append(f"{self.empty} with an empty answer")
        return "; ".join((f"{self.rows} row{'s' * (self.rows != 1)} of {' | '.join(parts)}", *notes))

    def skipped(self) -> list[str]:
        """The bad rows that are listed, and how many more there are."""
        more = self.bad - len(self.listed)
        return [*map(str, self.listed), *([f"… and {more} more."] if more else [])]


def how(recognised: Recognised, sample: Iterable[Mapping[str, Any]]) -> How:
    """How rows are read, with the columns that are not used."""
    columns = list(dict.fromkeys(name for row in sample for name in row))
    shown = {
        role: column for role, column in recognised.roles.items() if role not in SILENT.get(recognised.shape, ASIDE)
    }
    into: dict[str, list[str]] = {}
    for role in (*recognised.layout.reads, *ASIDE):
        if role in shown:
            into.setdefault(MEANINGS.get(role, role), []).append(plainly(shown[role]))
    arrows = ", ".join(_arrow(" + ".join(columns), meaning) for meaning, columns in into.items())
    used = {name for column in shown.values() for name in blanks(column, columns)}
    others = [name for name in columns if name not in used]
    fate = "kept for graders" if recognised.shape in (Prompt, Answered) else "not used"
    return How(_name(recognised, columns), arrows + (f" ({fate}: {named(others)})" if others else ""))


def _arrow(columns: str, meaning: str) -> str:
    return columns if columns == meaning else f"{columns} -> {meaning}"


def _name(recognised: Recognised, columns: Sequence[str]) -> str:
    name = _layout(recognised)
    numbered = columns == [str(n) for n in range(1, len(columns) + 1)]
    return f"{name} in columns without names" if numbered else name


def _layout(recognised: Recognised) -> str:
    roles, layout = recognised.roles, recognised.layout.name
    if layout == "messages" and roles["messages"].startswith("conversation"):
        return "sharegpt"
    if layout != "prompt and completion" or recognised.patterns:
        return layout
    columns = roles["prompt"], roles["completion"]
    return "alpaca" if columns == ("instruction", "output") else "-".join(map(plainly, columns))


def _files(names: Sequence[str]) -> str:
    more = f" and {len(names) - N_FILES} more" if len(names) > N_FILES else ""
    return ", ".join(names[:N_FILES]) + more


def _has_empty_answer(row: Row) -> bool:
    match row:
        case Conversation(messages=(*_, answer)) | Pair(chosen=(*_, answer)) | Labelled(completion=(*_, answer)):
            return _is_empty(answer)
    return False


def _is_empty(answer: Message) -> bool:
    return not (answer.content.strip() or answer.tool_calls)
