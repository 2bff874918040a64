"""Messages -> tokens and the exact mask of what is learnt: the one place that renders a chat template.

An answer is what a template writes between `messages[:i]` with the generation prompt and `messages[:i+1]`; each
rendering must extend the one before. What is learnt is the answer up to and including the token that ends the turn:

    <|im_start|>user ⏎ hi<|im_end|> ⏎ <|im_start|>assistant ⏎ hello<|im_end|> ⏎
                                                             ^^^^^^^^^^^^^^^^^
The tokens before an answer are exactly those that a sampler is given, so training and sampling cannot drift apart.
Where a template rewrites earlier turns the mask cannot be exact, and the row is refused.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from posttrain.schema.errors import DataError, ModelError
from posttrain.schema.rows import Conversation, Message, Messages, Prompt, Text

from .program import PromptProgram
from .template import encode, ensure_template, leading_ids, render, turn_end

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
    """How one model is talked to. A tokenizer without chat template is given a plain one, which is saved with it.

    `stop_ids` are the tokens that end an answer: the end of the sequence, the end of a turn, and for a plain prompt
    program the end of the line. `apart` is whether a question and its answer have their lengths each for itself.
    """

    apart: ClassVar[bool] = False

    def __init__(self, tokenizer: "PreTrainedTokenizerBase", program: PromptProgram | None = None) -> None:
        ensure_template(tokenizer)
        self.tokenizer = tokenizer
        self.program = program or PromptProgram()
        self._end = turn_end(tokenizer)
        self._ends = frozenset(id for id in (tokenizer.eos_token_id, self._end.id) if id is not None)
        self._leading = leading_ids(tokenizer)
        self.stop_ids = self._ends | (self._line_end() if self.program.layout == "plain" else frozenset())

    def conversation(self, row: Conversation) -> Tokens:
        """All turns as tokens, of which the assistant's answers are learnt. Raises DataError where it is not exact."""
        ids: list[int] = []
        trained: list[bool] = []
        text = ""
        for piece, learn in self._pieces(row.messages):
            new = self._continued(ids, text, piece)
            ids, trained, text = ids + new, trained + [learn] * len(new), text + piece
        end = self._missing_end(ids)
        return Tokens((*ids, *end), (*trained, *(True for _ in end)))

    def conversations(self, row: Conversation) -> Iterable[Tokens]:
        """The texts that a conversation is learnt as: one, or where a model reads apart from writing one an answer."""
        return (self.conversation(row),)

    def answer(self, prompt: Messages, completion: Messages) -> tuple[list[int], list[int]]:
        """(tokens of the prompt as a sampler gets them, tokens of the completion with the one that ends it)."""
        if [message.role for message in completion] != ["assistant"]:
            raise DataError("A completion must be one message of the assistant. Put earlier turns into the prompt.")
        asked, said = self._turn(prompt, completion[0])
        before = encode(self.tokenizer, asked)
        after = self._continued(before, asked, said)
        return before, after + self._missing_end(after)

    def ask(self, row: Prompt) -> list[int]:
        """The tokens that a sampler continues, as the prompt program of the model wants it to be asked."""
        if self.program.layout == "plain":
            return self._led(encode(self.tokenizer, self.program.text(row)))
        return encode(self.tokenizer, render(self.tokenizer, self.program.messages(row), ask=True))

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

    def _turn(self, before: Messages, answer: Message) -> tuple[str, str]:
        """(text up to the answer, the answer with the token that ends the turn if the template writes one)."""
        asked = render(self.tokenizer, before, ask=True)
        said = _beyond(render(self.tokenizer, (*before, answer), ask=False), asked)
        return asked, self._end.cut(said)

    def _pieces(self, messages: Messages) -> list[tuple[str, bool]]:
        """The rendered conversation cut into (text, whether it is learnt); it ends with the last answer."""
        if not messages or messages[-1].role != "assistant":
            raise DataError(
                "A conversation must end with the assistant's answer. Add it, or remove the turns after it."
            )
        pieces: list[tuple[str, bool]] = []
        done = ""
        for n, message in enumerate(messages):
            if message.role == "assistant":
                asked, said = self._turn(messages[:n], message)
                between = _beyond(asked, done)
                pieces += [*self._ended(pieces, between), (said, True)]
                done = asked + said
        return pieces

    def _ended(self, pieces: list[tuple[str, bool]], between: str) -> list[tuple[str, bool]]:
        """The text between two answers; the token that ends the first belongs to it, also where it begins the turn of
        the user."""
        end = self._end.token
        if not pieces or end is None or pieces[-1][0].endswith(end) or not between.lstrip().startswith(end):
            return [(between, False)]
        cut = between.index(end) + len(end)
        return [(between[:cut], True), (between[cut:], False)]

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

    def _missing_end(self, ids: list[int]) -> list[int]:
        """The token that ends a turn, where the template did not write it."""
        if self._end.id is None:
            raise ModelError(
                "The tokenizer of this model has no token that ends an answer, so a model trained with it would never "
                "stop. Set eos_token in its tokenizer_config.json."
            )
        return [] if ids and ids[-1] in self._ends else [self._end.id]

    def _led(self, ids: list[int]) -> list[int]:
        """With the tokens before it that the tokenizer is used to, once."""
        return ids if ids[: len(self._leading)] == self._leading else self._leading + ids

    def _line_end(self) -> frozenset[int]:
        last = encode(self.tokenizer, "a\n")[-1:]
        return frozenset(last) if self._decoded(last) == "\n" else frozenset()


def _beyond(longer: str, shorter: str) -> str:
    """What `longer` adds to `shorter`. Raises DataError when it changes it."""
    if longer.startswith(shorter):
        return longer[len(shorter) :]
    n = next((n for n, (a, b) in enumerate(zip(longer, shorter, strict=False)) if a != b), len(longer))
    raise DataError(
        f"The chat template writes earlier text differently once more follows ({shorter[n : n + 30]!r} becomes "
        f"{longer[n : n + 30]!r}), so the tokens of the answers cannot be told exactly. Train on rows with one answer "
        "and without reasoning in earlier turns, or give the tokenizer a chat_template that leaves earlier turns alone."
    )
