"""How rows were read, in one line that is printed before anything is trained on them."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from posttrain.schema.rows import Conversation, Labelled, Message, Pair, Prompt, Row

from .columns import named, plainly
from .layouts import ASIDE
from .shapes import Recognised

MEANINGS = {
    "prompt": "user",
    "context": "user",
    "completion": "assistant",
    "history": "earlier turns",
    "label": "thumb",
}
"""What a role becomes, where that is not its own name."""
SILENT: dict[type[Row], tuple[str, ...]] = {Prompt: (), Conversation: ("answer", "plain")}
"""Shape -> the roles that it has no use for; other shapes have none for any of ASIDE."""
N_FILES = 3
"""How many files are named."""


@dataclass(frozen=True)
class How:
    """How the rows of a file are read: what rows like these are called, and which column becomes what."""

    name: str
    arrows: str


def how(recognised: Recognised, sample: Iterable[Mapping[str, Any]]) -> How:
    """How rows are read, with the columns that are not used."""
    shown = {
        role: column for role, column in recognised.roles.items() if role not in SILENT.get(recognised.shape, ASIDE)
    }
    into: dict[str, list[str]] = {}
    for role in (*recognised.layout.reads, *ASIDE):
        if role in shown:
            into.setdefault(MEANINGS.get(role, role), []).append(plainly(shown[role]))
    arrows = ", ".join(_arrow(" + ".join(columns), meaning) for meaning, columns in into.items())
    others = [name for name in dict.fromkeys(name for row in sample for name in row) if name not in shown.values()]
    fate = "kept for graders" if recognised.shape is Prompt else "not used"
    return How(_name(recognised), arrows + (f" ({fate}: {named(others)})" if others else ""))


def _arrow(columns: str, meaning: str) -> str:
    return columns if columns == meaning else f"{columns} -> {meaning}"


def _name(recognised: Recognised) -> str:
    roles, layout = recognised.roles, recognised.layout.name
    if layout == "messages" and roles["messages"].startswith("conversation"):
        return "sharegpt"
    if layout != "prompt and completion":
        return layout
    columns = roles["prompt"], roles["completion"]
    return "alpaca" if columns == ("instruction", "output") else "-".join(map(plainly, columns))


def in_one_line(rows: Sequence[Row], read: Mapping[How, Sequence[str]], left_out: Mapping[str, int]) -> str:
    """The decision for all files. `read` maps how files were read to their names."""
    parts = [f"{how.name} ({_files(names)}): {how.arrows}" for how, names in read.items()]
    notes = [f"{n} left out as {why}" for why, n in left_out.items()]
    if n_empty := sum(map(_has_empty_answer, rows)):
        notes.append(f"{n_empty} with an empty answer")
    return "; ".join((f"{len(rows)} row{'s' * (len(rows) != 1)} of {' | '.join(parts)}", *notes))


def _files(names: Sequence[str]) -> str:
    more = f" and {len(names) - N_FILES} more" if len(names) > N_FILES else ""
    return ", ".join(names[:N_FILES]) + more


def _has_empty_answer(row: Row) -> bool:
    match row:
        case Conversation(messages=(*_, Message(content=answer))) | Pair(chosen=(*_, Message(content=answer))):
            return not answer.strip()
        case Labelled(completion=(*_, Message(content=answer))):
            return not answer.strip()
    return False
