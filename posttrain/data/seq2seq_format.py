"""How an encoder-decoder is talked to: the encoder gets the question, the decoder writes the answer.

    encoder     <what the tokenizer puts first> question </s>
    decoder     <what it puts before a target> answer </s>         all of it is learnt

A question alone is given as it stands, as FLAN-T5 and its kin were trained. A system message stands before it, and of a
conversation every turn but the system's is named:

    Be brief.

    User: Which is the largest planet?
    Assistant: Jupiter.
    User: And the smallest?

Each of the assistant's turns is an answer of its own, to all that stands before it. A chat template is used where the
tokenizer has one. Byte-pair tokenizers that know no line break (T5's) read a space there.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from posttrain.schema.errors import DataError, ModelError
from posttrain.schema.rows import Conversation, Message, Messages, Prompt, Text, Tools

from .chat import ChatFormat, Tokens
from .inert import encode, spelt
from .program import PromptProgram
from .spoken import Dialogue

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


MARKS = ("bos_token", "eos_token", "pad_token", "unk_token", "sep_token", "cls_token", "mask_token")
"""Tokens that mean something to a model, and that the words of a row therefore cannot spell."""


class EncoderDecoderFormat(ChatFormat):
    """The same questions of a row as of any format. `stop_ids` holds the end of the sequence, and for a plain prompt
    program the end of the line."""

    apart: ClassVar[bool] = True

    def __init__(self, tokenizer: "PreTrainedTokenizerBase", program: PromptProgram | None = None) -> None:
        if tokenizer.eos_token_id is None:
            raise ModelError(
                "The tokenizer of this model has no token that ends an answer. Set eos_token in its "
                "tokenizer_config.json."
            )
        self.tokenizer = tokenizer
        self.program = program or PromptProgram()
        self.end = int(tokenizer.eos_token_id)
        self._question, self._answer = (_frame(tokenizer, side) for side in ("text", "text_target"))
        self.stop_ids = frozenset({self.end}) | (self._line_end() if self.program.layout == "plain" else frozenset())

    def conversations(self, row: Conversation) -> Iterator[Tokens]:
        """An encoder's tokens with an answer's behind them, which are learnt, for every turn that is."""
        if not row.messages or row.messages[-1].role != "assistant":
            raise DataError(
                "A conversation must end with the assistant's answer. Add it, or remove the turns after it."
            )
        for n, message in enumerate(row.messages):
            if message.is_trained:
                if message.role != "assistant":
                    raise DataError(
                        f"A turn of the {message.role} is marked to be learnt, and a decoder learns the assistant's "
                        "alone. Remove the mark."
                    )
                asked = self._asked(row.messages[:n], row.tools, row.template_options)
                said = self._said(message)
                yield Tokens((*asked, *said), (*(False for _ in asked), *(True for _ in said)))

    def answer(self, prompt: Messages, completion: Messages, tools: Tools = ()) -> tuple[list[int], list[int]]:
        if [message.role for message in completion] != ["assistant"]:
            raise DataError("A completion must be one message of the assistant. Put earlier turns into the prompt.")
        return self._asked(prompt, tools), self._said(completion[0])

    def ask(self, row: Prompt) -> list[int]:
        if self.program.layout == "plain":
            return self._encoded(self.program.text(row))
        return self._asked(self.program.messages(row), row.tools, row.template_options)

    def text(self, row: Text) -> Tokens:
        raise ModelError(
            "An encoder-decoder gives no probability to a text by itself, only to an answer to a question. Train it on "
            "rows with a question and an answer (sft), and measure it with benchmark or preference_accuracy."
        )

    def _asked(self, messages: Messages, tools: Tools = (), options: Mapping[str, Any] | None = None) -> list[int]:
        """The encoder's tokens for what stands before an answer."""
        if self.tokenizer.chat_template:
            asked = Dialogue(messages, tools, options or {})
            return encode(self.tokenizer, asked.text(self.tokenizer, ask=True)) or [self.end]
        if tools:
            raise DataError(
                "A row offers tools, and an encoder-decoder without chat template has no way to show them. Remove them "
                "from the rows, or give its tokenizer a chat_template."
            )
        return self._encoded(written(messages))

    def _encoded(self, text: str) -> list[int]:
        """A text with what the tokenizer adds for an encoder; never nothing."""
        before, behind = self._question
        return [*before, *self._plain(text), *behind] or [self.end]

    def _said(self, message: Message) -> list[int]:
        """The decoder's tokens for an answer, up to the one end that it has."""
        if message.tool_calls or message.reasoning:
            what = "tool calls" if message.tool_calls else "reasoning"
            raise DataError(
                f"An answer has {what} in a field of its own, and an encoder-decoder has no way to write that. Put it "
                "into the content, or take a model with a chat template that writes it."
            )
        return [*self._answer[0], *self._plain(message.content), self.end]

    def _plain(self, text: str) -> list[int]:
        """The tokens of a text in which no end and no beginning can be spelt. T5's <extra_id_0> can: it is a blank."""
        marks = [mark for mark in (self.tokenizer.special_tokens_map.get(name) for name in MARKS) if mark]
        parts = re.split("(" + "|".join(map(re.escape, marks)) + ")", text)
        return [id for part in parts if part for id in (spelt if part in marks else encode)(self.tokenizer, part)]


def _frame(tokenizer: "PreTrainedTokenizerBase", side: str) -> tuple[list[int], list[int]]:
    """What a tokenizer puts before and behind a `text` or a `text_target`."""
    bare, full = encode(tokenizer, "a"), list(tokenizer(**{side: "a"})["input_ids"])
    for n in range(len(full) - len(bare) + 1):
        if full[n : n + len(bare)] == bare:
            return full[:n], full[n + len(bare) :]
    return [], []


def written(messages: Sequence[Message]) -> str:
    """Messages as the text that an encoder reads.

    >>> written([Message("user", "How old?")])
    'How old?'
    >>> written([Message("system", "Be brief."), Message("user", "How old?")])
    'Be brief.\\n\\nHow old?'
    >>> written([Message("user", "Hi"), Message("assistant", "Hello"), Message("user", "How old?")])
    'User: Hi\\nAssistant: Hello\\nUser: How old?'
    """
    n_system = sum(message.role == "system" for message in messages[:1])
    system, turns = messages[:n_system], messages[n_system:]
    for message in messages:
        if message.tool_calls:
            raise DataError(
                "A turn has tool calls, and an encoder-decoder without chat template has no way to write them. Put "
                "them into the content, or give its tokenizer a chat_template."
            )
    alone = [message.role for message in turns] == ["user"]
    lines = [m.content if alone else f"{m.role.capitalize()}: {m.content}" for m in turns]
    return "\n\n".join(part for part in (*(m.content for m in system), "\n".join(lines)) if part)
