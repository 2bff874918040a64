"""Messages -> tokens and the exact mask of what is learnt: the one place that renders a chat template.

An answer is what a template writes between `messages[:i]` with the generation prompt and `messages[:i+1]`. What is
learnt is the answer up to and including the token that ends the turn:

    <|im_start|>user ⏎ hi<|im_end|> ⏎ <|im_start|>assistant ⏎ hello<|im_end|> ⏎
                                                             ^^^^^^^^^^^^^^^^^
The tokens before an answer are exactly those that a sampler is given, so training and sampling cannot drift apart. A
conversation is one text as long as each prompt begins with the tokens of the answer before it. Where a template writes
earlier turns anew (leaves out their reasoning, moves the system's or the tools to the last question), a new text begins.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from posttrain.schema.errors import DataError, ModelError
from posttrain.schema.rows import Conversation, Message, Messages, Prompt, Text, Tools

from .inert import encode, hidden
from .program import PromptProgram
from .spoken import Dialogue, answer_in, turn_in
from .template import leading_ids, turn_end, with_template

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

ANCHORS = ("", ".", "\n")
"""Texts behind which a piece is tokenised where it would melt into what stands before it."""


@dataclass(frozen=True, slots=True)
class Tokens:
    """Token ids and which of them are learnt, equally long."""

    ids: tuple[int, ...]
    trained: tuple[bool, ...]


class ChatFormat:
    """How one model is talked to. A tokenizer without chat template is asked in the plain layout.

    `stop_ids` are the tokens that end an answer: the end of the sequence, the end of a turn, and for a plain prompt
    program the end of the line. `apart` is whether a question and its answer have their lengths each for itself.
    """

    apart: ClassVar[bool] = False

    def __init__(self, tokenizer: "PreTrainedTokenizerBase", program: PromptProgram | None = None) -> None:
        self.tokenizer = tokenizer = with_template(tokenizer)
        self.program = program or PromptProgram()
        self._end = turn_end(tokenizer)
        ends = (tokenizer.eos_token_id, self._end.id, self._end.call)
        self._ends = frozenset(id for id in ends if id is not None)
        self._leading = leading_ids(tokenizer)
        self.stop_ids = self._ends | (self._line_end() if self.program.layout == "plain" else frozenset())

    def conversations(self, row: Conversation) -> Iterable[Tokens]:
        """The texts that a conversation is learnt as, with what is learnt of each; none where no turn is learnt. Raises
        DataError where it is not exact."""
        if not row.messages or row.messages[-1].role != "assistant":
            raise DataError(
                "A conversation must end with the assistant's answer. Add it, or remove the turns after it."
            )
        ids: list[int] = []
        trained: list[bool] = []
        for n, message in enumerate(row.messages):
            if not message.is_trained:
                continue
            before, said = self._turn(Dialogue(row.messages[:n], row.tools, row.template_options), message)
            if before[: len(ids)] != ids:
                yield Tokens(tuple(ids), tuple(trained))
                ids, trained = [], []
            given = self._given(said, message)
            trained += [False] * (len(before) - len(ids) + given) + [True] * (len(said) - given)
            ids = before + said
        if ids:
            yield Tokens(tuple(ids), tuple(trained))

    def answer(self, prompt: Messages, completion: Messages, tools: Tools = ()) -> tuple[list[int], list[int]]:
        """(tokens of the prompt as a sampler gets them, tokens of the completion with the one that ends it)."""
        if [message.role for message in completion] != ["assistant"]:
            raise DataError("A completion must be one message of the assistant. Put earlier turns into the prompt.")
        return self._turn(Dialogue(prompt, tools), completion[0])

    def ask(self, row: Prompt) -> list[int]:
        """The tokens that a sampler continues, as the prompt program of the model wants it to be asked."""
        if self.program.layout == "plain":
            return self._led(encode(self.tokenizer, hidden(self.tokenizer, self.program.text(row))))
        asked = Dialogue(self.program.messages(row), row.tools, row.template_options)
        return encode(self.tokenizer, asked.text(self.tokenizer, ask=True))

    def read_answer(self, ids: Sequence[int]) -> str:
        """What a sampler's tokens say, up to the first that ends an answer; one line in the plain layout."""
        n = next((n for n, id in enumerate(ids) if id in self.stop_ids), len(ids))
        text = self._decoded(list(ids[:n]), readable=True).strip()
        return text.partition("\n")[0].rstrip() if self.program.layout == "plain" else text

    def text(self, row: Text) -> Tokens:
        """A document with the end of sequence behind it. All is learnt but the very first token, which nothing
        precedes."""
        end = self.tokenizer.eos_token_id
        ids = self._led(encode(self.tokenizer, row.text)) + ([] if end is None else [end])
        return Tokens(tuple(ids), tuple(n > 0 for n in range(len(ids))))

    def _turn(self, before: Dialogue, message: Message) -> tuple[list[int], list[int]]:
        """The tokens before a turn and those that it is learnt by; an answer's end with the token that ends it."""
        if message.role != "assistant":
            header, said = turn_in(self.tokenizer, before, message)
            asked = encode(self.tokenizer, header)
            return asked, self._continued(asked, header, self._end.cut(said))
        prompt, said = answer_in(self.tokenizer, before, message)
        asked = encode(self.tokenizer, prompt)
        after = self._continued(asked, prompt, self._end.cut(said))
        return asked, after + self._missing_end(after, message)

    def _given(self, said: list[int], message: Message) -> int:
        """How many of a turn's tokens are given: the most that say nothing but its given words. A token of half a character
        says nothing yet."""
        whole = (n for n in range(1, len(said) + 1) if message.given.startswith(self._decoded(said[:n]).lstrip()))
        return max(whole, default=0) if message.given else 0

    def _continued(self, before: list[int], text: str, piece: str) -> list[int]:
        """The tokens of `piece` behind `text`, whose tokens are `before` and stay as they are."""
        together = encode(self.tokenizer, text + piece)
        if together[: len(before)] == before:
            return together[len(before) :]
        for anchor in ANCHORS:  # the first token of the piece would melt into the last one before
            alone, behind = encode(self.tokenizer, anchor), encode(self.tokenizer, anchor + piece)
            new = behind[len(alone) :]
            if behind[: len(alone)] == alone and self._decoded(before + new) == self._decoded(together):
                return new
        raise DataError(
            f"The tokenizer joins the beginning of an answer ({piece[:20]!r}) with the text before it, so its tokens "
            "cannot be told apart. Change the beginning of that answer, or the chat_template."
        )

    def _decoded(self, ids: list[int], *, readable: bool = False) -> str:
        """The text of tokens to the letter; `readable` leaves special tokens out."""
        text = self.tokenizer.decode(ids, skip_special_tokens=readable, clean_up_tokenization_spaces=False)
        return str(text)

    def _missing_end(self, ids: list[int], message: Message) -> list[int]:
        """The token that ends a turn, where the template did not write it."""
        if self._end.id is None:
            raise ModelError(
                "The tokenizer of this model has no token that ends an answer, so a model trained with it would never "
                "stop. Set eos_token in its tokenizer_config.json."
            )
        end = self._end.call if message.tool_calls and self._end.call is not None else self._end.id
        return [] if ids and ids[-1] in self._ends else [end]

    def _led(self, ids: list[int]) -> list[int]:
        """With the tokens before it that the tokenizer is used to, once."""
        return ids if ids[: len(self._leading)] == self._leading else self._leading + ids

    def _line_end(self) -> frozenset[int]:
        last = encode(self.tokenizer, "a\n")[-1:]
        return frozenset(last) if self._decoded(last) == "\n" else frozenset()
