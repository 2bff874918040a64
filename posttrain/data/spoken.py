"""One turn as its template writes it: (what stands before it, what is said), both as text.

Usually the rendering with the answer begins with the rendering that asks for it, and what is said is the rest. Three
kinds of template break that, and each is put right here without changing a letter of the prompt:

    writes the prompt anew once it is answered (Mistral: the system's words stand in the last turn only)
        asked   [INST] be brief ⏎⏎ hi[/INST]          whole   [INST] hi[/INST] hello</s>       said   hello</s>
    opens the reasoning in the prompt and leaves it out of the answer (DeepSeek-R1)
        asked   …<|Assistant|><think> ⏎               whole   …<|Assistant|>hello<eos>         said   why ⏎ </think> ⏎⏎ hello<eos>
    leaves something out of what is said: refused, as it would not be learnt
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from itertools import takewhile
from typing import TYPE_CHECKING, Any

from posttrain.schema.errors import DataError
from posttrain.schema.rows import Message, Messages, Tools

from .inert import hidden
from .template import render

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

SAID = "\U0010fffd"
"""A text that no row has and no template writes, to see where a turn begins."""
OPENED = re.compile(r"<think>\s*$")
LONGEST_HEADER = 64  # characters between the prompt and the answer that a template may write of its own: `<think>…`
UNSEEN = re.compile(r"\s|</?think>")


@dataclass(frozen=True, slots=True)
class Dialogue:
    """What stands before a turn: messages, the tools on offer, and what the row tells its template."""

    messages: Messages
    tools: Tools = ()
    options: Mapping[str, Any] = field(default_factory=dict)

    def text(self, tokenizer: "PreTrainedTokenizerBase", *more: Message, ask: bool = False) -> str:
        """The rendered messages, and `more` behind them."""
        return render(tokenizer, (*self.messages, *more), ask=ask, tools=self.tools, options=self.options)


def answer_in(tokenizer: "PreTrainedTokenizerBase", before: Dialogue, answer: Message) -> tuple[str, str]:
    """(the prompt as a sampler is given it, what the template writes for the answer and after). Raises DataError."""
    asked, whole = before.text(tokenizer, ask=True), before.text(tokenizer, answer)
    _require_tools(before.tools, asked)
    if whole.startswith(asked):
        said = whole[len(asked) :]
    elif opened := OPENED.search(asked):
        said = _thought_aloud(tokenizer, before, answer, asked[: opened.start()])
    else:
        said = _behind(tokenizer, before, asked, answer)
    _require_all(hidden(tokenizer, answer.as_dict()), said)
    return asked, said


def turn_in(tokenizer: "PreTrainedTokenizerBase", before: Dialogue, turn: Message) -> tuple[str, str]:
    """The same for a turn of anybody else: what is said begins with the content. Raises DataError."""
    header = before.text(tokenizer, replace(turn, content=SAID)).partition(SAID)[0]
    whole = before.text(tokenizer, turn)
    if not whole.startswith(header) or not header:
        raise DataError(
            f"The chat template does not write the turn of the {turn.role} by itself, so it cannot be learnt. Leave out "
            "its mark, so that only answers are."
        )
    _require_all({"content": hidden(tokenizer, turn.content)}, whole[len(header) :])
    return header, whole[len(header) :]


def _thought_aloud(tokenizer: "PreTrainedTokenizerBase", before: Dialogue, answer: Message, asked: str) -> str:
    """The answer as a model writes it behind `<think>`: its reasoning, the end of it, and what the template writes of
    the rest."""
    thought, rest = answer.reasoning, answer.content
    if not thought and "</think>" in rest:
        thought, _, rest = rest.partition("</think>")
        thought = thought.rpartition("<think>")[2]
    said = _behind(tokenizer, before, asked, replace(answer, reasoning="", content=rest))
    said = said.lstrip().removeprefix("</think>").lstrip("\n")
    thought = hidden(tokenizer, thought).strip("\n")
    return f"{thought}\n</think>\n\n{said}"


def _behind(tokenizer: "PreTrainedTokenizerBase", before: Dialogue, asked: str, answer: Message) -> str:
    """What a rendering with the answer adds to a prompt that it writes otherwise: the place where most of the prompt's
    end stands before the answer, the last question among it."""
    whole = before.text(tokenizer, answer)
    if whole.startswith(asked):
        return whole[len(asked) :]
    blank = replace(answer, content=SAID, reasoning="", tool_calls=())
    header = before.text(tokenizer, blank).partition(SAID)[0]
    header = header[: _alike(header, whole)]
    starts = range(len(header), max(len(header) - LONGEST_HEADER, 0), -1)
    start = max(starts, key=lambda n: _shared(header[:n], asked), default=0)
    question = hidden(tokenizer, before.messages[-1].content).strip() if before.messages else ""
    shared = _shared(header[:start], asked)
    if not shared or question not in asked[len(asked) - shared :]:
        raise DataError(_rewritten(asked, whole))
    return whole[start:]


def _shared(a: str, b: str) -> int:
    """How many characters two texts end alike with."""
    return _alike(a[::-1], b[::-1])


def _alike(a: str, b: str) -> int:
    """How many characters two texts begin alike with."""
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(a, b, strict=False)))


def _require_all(answer: Mapping[str, Any], said: str) -> None:
    """Raises DataError when a template leaves out a part of what is said."""
    written = UNSEEN.sub("", said)
    calls = [call["function"]["name"] for call in answer.get("tool_calls", ())]
    parts = {
        "the reasoning": [answer.get("reasoning_content", "")],
        "a tool call": calls,
        "a part": [answer["content"]],
    }
    for what, texts in parts.items():
        if lost := next((text for text in texts if UNSEEN.sub("", text) not in written), None):
            raise DataError(
                f"The chat template leaves out {what} of an answer ({lost.strip()[:40]!r}), so it would not be learnt. "
                "Set `chat_template: chatml`, which writes it, or remove it from the rows."
            )


def _require_tools(tools: Tools, asked: str) -> None:
    """Raises DataError when a template does not tell the model of its tools."""
    names = (str(tool.get("function", tool).get("name", "")) for tool in tools)
    if unseen := next((name for name in names if name not in asked), None):
        raise DataError(
            f"The chat template does not show the tools that a row offers ({unseen[:40]!r} is one). Set "
            "`chat_template: chatml`, which does, or remove them from the rows."
        )


def _rewritten(asked: str, whole: str) -> str:
    n = _alike(asked, whole)
    return (
        f"The chat template writes the prompt differently once it is answered ({asked[n : n + 30]!r} becomes "
        f"{whole[n : n + 30]!r}), and the answer cannot be told from it. Set `chat_template: chatml`, or give the tokenizer "
        "a template that leaves the prompt alone."
    )
