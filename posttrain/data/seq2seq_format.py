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

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from posttrain.schema.errors import DataError, ModelError
from posttrain.schema.rows import Conversation, Message, Messages, Prompt, Text, Tools

from .chat import ChatFormat, Tokens
from .program import PromptProgram
from .template import encode, render

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


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
        self.stop_ids = frozenset({self.end}) | (self._line_end() if self.program.layout == "plain" else frozenset())

    def conversations(self, row: Conversation) -> Iterator[Tokens]:
        """An encoder's tokens with an answer's behind them, which are learnt, for every turn that is."""
        if not row.messages or row.messages[-1].role != "assistant":
            raise DataError(
                "A conversation must end with the assistant's answer. Add it, or remove the turns after it."
            )
        for n, message in enumerate(row.messages):
            if message.role == "assistant" and message.is_trained:
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
            text = render(self.tokenizer, messages, ask=True, tools=tools, options=options)
            return encode(self.tokenizer, text) or [self.end]
        if tools:
            raise DataError(
                "A row offers tools, and an encoder-decoder without chat template has no way to show them. Remove them "
                "from the rows, or give its tokenizer a chat_template."
            )
        return self._encoded(written(messages))

    def _encoded(self, text: str) -> list[int]:
        """A text with what the tokenizer adds for an encoder; never nothing."""
        return list(self.tokenizer(text, verbose=False)["input_ids"]) or [self.end]

    def _said(self, message: Message) -> list[int]:
        """The decoder's tokens for an answer, up to the one end that it has."""
        if message.tool_calls or message.reasoning:
            what = "tool calls" if message.tool_calls else "reasoning"
            raise DataError(
                f"An answer has {what} in a field of its own, and an encoder-decoder has no way to write that. Put it "
                "into the content, or take a model with a chat template that writes it."
            )
        ids = list(self.tokenizer(text_target=message.content, verbose=False)["input_ids"])
        while ids and ids[-1] == self.end:
            ids.pop()
        return [*ids, self.end]


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
