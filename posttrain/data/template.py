"""Chat templates: the one that a tokenizer without gets, rendering, and the token that ends a turn.

A template is somebody else's program: whatever it raises becomes a DataError that says what to do.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from posttrain.schema.errors import DataError
from posttrain.schema.rows import Message

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

PLAIN = (
    "{% for message in messages %}"
    "{{ message['role'] | capitalize }}: {{ message['content'] }}"
    "{{ eos_token if message['role'] == 'assistant' else '' }}{{ '\\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}Assistant:{% endif %}"
)
"""`User: …`, `Assistant: …` in plain words, so that no token has to be added to a trained vocabulary."""

QUESTION, ANSWER = Message("user", "Which colour?"), Message("assistant", "Marigold.")
"""What a template is tried with; the answer is a text that no template writes by itself."""


@dataclass(frozen=True, slots=True)
class TurnEnd:
    """What a template writes after an answer. `id` and `token` end the turn and are learnt; both are None when
    neither the template nor the tokenizer has such a token. `tail` is all that follows the last answer."""

    id: int | None
    token: str | None
    tail: str

    def cut(self, said: str) -> str:
        """What a template writes for an answer, up to and including the token that ends the turn."""
        if self.token and self.token in said:
            return said[: said.rindex(self.token) + len(self.token)]
        return said.removesuffix(self.tail)


def encode(tokenizer: "PreTrainedTokenizerBase", text: str) -> list[int]:
    """The tokens of a text as it stands, nothing added."""
    return list(tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"])


def leading_ids(tokenizer: "PreTrainedTokenizerBase") -> list[int]:
    """What the tokenizer puts before every text by itself: [BOS], or nothing."""
    bare, full = encode(tokenizer, "a"), list(tokenizer("a")["input_ids"])
    return full[: full.index(bare[0])] if bare and bare[0] in full else []


def ensure_template(tokenizer: "PreTrainedTokenizerBase") -> None:
    """Gives a tokenizer without chat template the plain one, which is saved with it. BOS as is its habit."""
    if not tokenizer.chat_template:
        tokenizer.chat_template = ("{{ bos_token }}" if leading_ids(tokenizer) else "") + PLAIN


def render(tokenizer: "PreTrainedTokenizerBase", messages: Sequence[Message], *, ask: bool) -> str:
    """Messages as text; with `ask` up to where the assistant's next answer begins. Raises DataError."""
    from jinja2 import TemplateError

    turns = [message.as_dict() for message in messages]
    try:
        text: Any = tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=ask)
    except (TemplateError, ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
        roles = ", ".join(message.role for message in messages) or "none"
        raise DataError(
            f"The chat template of this model cannot write these turns ({roles}): {error}. "
            "Change the rows to what it takes, or give the tokenizer another chat_template."
        ) from error
    return str(text)


def turn_end(tokenizer: "PreTrainedTokenizerBase") -> TurnEnd:
    """How a turn ends, found by trying: the first special token after an answer, else the end of the sequence.

    Some templates have no end of their own (GLM-4): there the token that begins the user's next turn ends the answer.
    """
    try:
        last, inside = (_after_answer(tokenizer, turns) for turns in ([], [QUESTION]))
    except DataError:  # a template that asks for more than a question and an answer
        last = inside = ""
    marks = set(tokenizer.added_tokens_decoder) | set(tokenizer.all_special_ids)
    others = {tokenizer.bos_token_id, tokenizer.unk_token_id, tokenizer.pad_token_id} - {tokenizer.eos_token_id}
    found = (id for id in encode(tokenizer, inside) if id in marks - others)
    end = next(found, tokenizer.eos_token_id)
    return TurnEnd(end, None if end is None else str(tokenizer.convert_ids_to_tokens(end)), last)


def _after_answer(tokenizer: "PreTrainedTokenizerBase", more: Sequence[Message]) -> str:
    return render(tokenizer, [QUESTION, ANSWER, *more], ask=False).rpartition(ANSWER.content)[2]
