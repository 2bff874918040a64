"""The chat template that a training gives its model: one that is named, the model's own, or for a base model ChatML.

ChatML writes two tokens that a base model does not have. They are added to the tokenizer, and `models.vocabulary` gives
them rows in the weights. Where the weights cannot grow, a base model gets the plain layout, which needs no token.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from posttrain.schema.errors import ModelError

from .template import fitted
from .templates import CHATML, PLAIN, name_of, text_of, tokens_of

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True, slots=True)
class Dress:
    """What a tokenizer was given: a template's name (empty where it keeps its own), and the tokens that are new to it,
    with their ids."""

    name: str = ""
    tokens: tuple[str, ...] = ()
    ids: tuple[int, ...] = ()

    def __str__(self) -> str:
        new = f", with {', '.join(self.tokens)} added to its vocabulary" if self.tokens else ""
        return f"chat template: {self.name}{new}" if self.name else "chat template: the model's own"


def dress(tokenizer: "PreTrainedTokenizerBase", said: str | None, *, grows: bool) -> Dress:
    """Gives a tokenizer the template that is `said` by name or as text, or one if it has none. `grows` is whether the
    weights can take new tokens. Raises ModelError where the template needs some and they cannot."""
    if said is None and tokenizer.chat_template:
        return Dress()
    template = text_of(said or (CHATML if grows else PLAIN))
    known = tokenizer.get_vocab()
    wanted = tokens_of(template)
    new = [token for token in wanted if token not in known]
    if new and not grows:
        raise ModelError(
            f"The chat template writes tokens that the model does not have ({', '.join(new)}), and what is trained here "
            f"cannot learn them. Train all weights or `adapter: lora`, or set `chat_template: {PLAIN}`."
        )
    _add(tokenizer, wanted)
    tokenizer.chat_template = fitted(tokenizer, template)
    return Dress(name_of(template), tuple(new), tuple(int(tokenizer.get_vocab()[token]) for token in new))


def added(before: "PreTrainedTokenizerBase", after: "PreTrainedTokenizerBase") -> list[int]:
    """The ids of the tokens that one tokenizer has and another has not."""
    known = before.get_vocab()
    return sorted(id for token, id in after.get_vocab().items() if token not in known)


def _add(tokenizer: "PreTrainedTokenizerBase", tokens: Sequence[str]) -> None:
    """Makes texts single tokens, those included that the vocabulary holds as ordinary pieces."""
    from tokenizers import AddedToken

    special = {str(token) for token in tokenizer.added_tokens_decoder.values()}
    missing = [AddedToken(token, special=True, normalized=False) for token in tokens if token not in special]
    if missing:
        tokenizer.add_tokens(missing, special_tokens=True)
