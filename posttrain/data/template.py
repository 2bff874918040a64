"""Chat templates: the one that a tokenizer without gets, rendering, and the token that ends a turn.

A template is somebody else's program: whatever it raises becomes a DataError that says what to do. The words of a row
are hidden in it (`inert`), so that they cannot write a token of the template.
"""

from collections.abc import Mapping, Sequence
from contextlib import suppress
from copy import copy
from dataclasses import dataclass
from inspect import signature
from typing import TYPE_CHECKING, Any

from posttrain.schema.errors import DataError
from posttrain.schema.rows import Message, ToolCall, Tools

from .inert import encode, hidden
from .templates import PLAIN, shipped

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

__all__ = ["TurnEnd", "encode", "fitted", "leading_ids", "render", "turn_end", "with_template"]

QUESTION, ANSWER = Message("user", "Which colour?"), Message("assistant", "Marigold.")
"""What a template is tried with; the answer is a text that no template writes by itself."""
CALL = Message("assistant", "", tool_calls=(ToolCall("colour", '{"of": "Marigold."}', "call00001"),))
RESULT = Message("tool", "Orange.", tool_call_id="call00001", name="colour")


@dataclass(frozen=True, slots=True)
class TurnEnd:
    """What a template writes after an answer. `id` and `token` end the turn and are learnt; both are None when
    neither the template nor the tokenizer has such a token. `call` ends a turn that calls a tool: the same token, but
    where the beginning of the next turn ends the last one. `tail` is all that follows the last answer."""

    id: int | None
    token: str | None
    tail: str
    call: int | None

    def cut(self, said: str) -> str:
        """What a template writes for an answer, up to and including the token that ends the turn."""
        if self.token and self.token in said:
            return said[: said.index(self.token) + len(self.token)]
        return said.removesuffix(self.tail)


def leading_ids(tokenizer: "PreTrainedTokenizerBase") -> list[int]:
    """What the tokenizer puts before every text by itself: [BOS], or nothing."""
    bare, full = encode(tokenizer, "a"), list(tokenizer("a")["input_ids"])
    return full[: full.index(bare[0])] if bare and bare[0] in full else []


def with_template(tokenizer: "PreTrainedTokenizerBase") -> "PreTrainedTokenizerBase":
    """The tokenizer, or where it has no chat template a copy with the plain one."""
    if tokenizer.chat_template:
        return tokenizer
    asked = copy(tokenizer)
    asked.chat_template = fitted(tokenizer, shipped()[PLAIN])
    return asked


def fitted(tokenizer: "PreTrainedTokenizerBase", template: str) -> str:
    """A template that begins with the tokenizer's first token as is its habit, unless it says so itself."""
    leads = leading_ids(tokenizer) and tokenizer.bos_token and "bos_token" not in template
    return "{{- bos_token -}}\n" + template if leads else template


def render(
    tokenizer: "PreTrainedTokenizerBase",
    messages: Sequence[Message],
    *,
    ask: bool,
    tools: Tools = (),
    options: Mapping[str, Any] | None = None,
) -> str:
    """Messages as text, the special tokens that they spell hidden; with `ask` up to where the assistant's next answer
    begins. `options` are for the template alone. Raises DataError."""
    from jinja2 import TemplateError

    if options and (taken := options.keys() & signature(tokenizer.apply_chat_template).parameters.keys()):
        raise DataError(
            f"A row hands {min(taken)!r} to the chat template, which is not its own to say. Leave it out of "
            "chat_template_kwargs."
        )
    turns = hidden(tokenizer, [message.as_dict() for message in messages])
    more = {**hidden(tokenizer, options or {}), **({"tools": hidden(tokenizer, tools)} if tools else {})}
    try:
        texts: Any = tokenizer.apply_chat_template([turns], tokenize=False, add_generation_prompt=ask, **more)
    except (TemplateError, ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
        roles = ", ".join(message.role for message in messages) or "none"
        raise DataError(
            f"The chat template of this model cannot write these turns ({roles}): {error}. "
            "Change the rows to what it takes, or give the tokenizer another chat_template."
        ) from error
    return str(texts[0])  # one of a batch, as transformers takes no empty list of turns by itself


def turn_end(tokenizer: "PreTrainedTokenizerBase") -> TurnEnd:
    """How a turn ends, found by trying: the first special token after an answer, else the end of the sequence.

    Some templates have no end of their own (GLM-4): there the token that begins the next turn ends the answer.
    """
    try:
        last, inside = (_after(tokenizer, [QUESTION, ANSWER, *more]) for more in ([], [QUESTION]))
    except DataError:  # a template that asks for more than a question and an answer
        last = inside = ""
    end = _first_mark(tokenizer, inside, tokenizer.eos_token_id)
    token = None if end is None else str(tokenizer.convert_ids_to_tokens(end))
    call = end
    if token and token in inside and token not in last:
        with suppress(DataError):  # a template that knows no tools
            alone, answered = (_after(tokenizer, [QUESTION, CALL, *more]) for more in ([], [RESULT]))
            call = _first_mark(tokenizer, answered.removeprefix(alone), end)
    return TurnEnd(end, token, last, call)


def _first_mark(tokenizer: "PreTrainedTokenizerBase", text: str, otherwise: int | None) -> int | None:
    """The first special token of a text that can end a turn."""
    marks = set(tokenizer.added_tokens_decoder) | set(tokenizer.all_special_ids)
    others = {tokenizer.bos_token_id, tokenizer.unk_token_id, tokenizer.pad_token_id} - {tokenizer.eos_token_id}
    return next((id for id in encode(tokenizer, text) if id in marks - others), otherwise)


def _after(tokenizer: "PreTrainedTokenizerBase", turns: Sequence[Message]) -> str:
    """What a template writes behind the answer it is tried with."""
    return render(tokenizer, turns, ask=False).rpartition(ANSWER.content)[2]
