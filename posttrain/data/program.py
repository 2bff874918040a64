"""The prompt program of a model: how it is asked, as part of the model and stored beside its weights.

`chat` asks in the tokenizer's chat format, `plain` as running text for a model that knows no chat; both may show
examples first:

    plain    red -> rako            chat    user       red ->
             blue -> timi                   assistant  rako
             green ->                       user       green ->
"""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal, get_args

from posttrain.schema.errors import ModelError
from posttrain.schema.rows import Message, Messages, Prompt

FILE = "prompt_program.json"
SCHEMA = 1
Layout = Literal["chat", "plain"]


@dataclass(frozen=True, slots=True)
class Example:
    """A question with its answer, to be shown before another question of the same `task`."""

    prompt: str
    answer: str
    task: str = ""


@dataclass(frozen=True)
class PromptProgram:
    """The layout of a prompt and a pool of `examples`, of which `k` are shown; with `by_task` those of the same task."""

    layout: Layout = "chat"
    examples: tuple[Example, ...] = ()
    k: int = 0
    by_task: bool = False

    def picks(self, row: Prompt) -> tuple[Example, ...]:
        """The examples shown before this question: the first `k` that fit. The question itself is never among them."""
        asked = question(row, self.layout)
        fitting = (e for e in self.examples if e.prompt != asked and (e.task == row.task or not self.by_task))
        return tuple(example for example, _ in zip(fitting, range(self.k), strict=False))

    def text(self, row: Prompt) -> str:
        """The question as running text, a line for each example before it."""
        lines = [f"{example.prompt} {example.answer}\n" for example in self.picks(row)]
        return "".join(lines) + question(row, "plain")

    def messages(self, row: Prompt) -> Messages:
        """The question as messages, with the examples as earlier turns after the system's."""
        turns = [
            message
            for example in self.picks(row)
            for message in (Message("user", example.prompt), Message("assistant", example.answer))
        ]
        n_system = sum(message.role == "system" for message in row.messages[:1])
        return (*row.messages[:n_system], *turns, *row.messages[n_system:])

    def save(self, folder: Path) -> None:
        """Writes the program into a model's folder."""
        text = json.dumps({"schema": SCHEMA, **asdict(self)}, ensure_ascii=False, indent=1)
        (folder / FILE).write_text(text + "\n", encoding="utf-8")

    @classmethod
    def load(cls, folder: Path) -> "PromptProgram | None":
        """The program in a model's folder, or None where there is none. Raises ModelError."""
        path = folder / FILE
        if not path.is_file():
            return None
        try:
            said = json.loads(path.read_text(encoding="utf-8"))
            if said.pop("schema") != SCHEMA or said["layout"] not in get_args(Layout):
                raise ValueError(f"layout {said['layout']!r} is not known")
            return cls(**{**said, "examples": tuple(Example(**example) for example in said["examples"])})
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise ModelError(
                f"{path} is no prompt program ({error}). Make the model again, or remove the file."
            ) from error


def question(row: Prompt, layout: Layout) -> str:
    """What a row asks, as an example of this layout writes it."""
    last = row.messages[-1].content if row.messages else ""
    return row.plain if layout == "plain" and row.plain is not None else last
