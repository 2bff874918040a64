"""Whoever answers conversations: a model that is loaded here, or one behind an address.

Each conversation brings a number that names its draws, so that what is drawn for it depends neither on its neighbours nor on
what was answered before: a run that goes on after a kill hears the same.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

from posttrain.data.chat import ChatFormat
from posttrain.data.inert import encode, hidden
from posttrain.schema.artifacts import Model
from posttrain.schema.errors import UsageError
from posttrain.schema.rows import Messages, Prompt

from .endpoint import Calling, Endpoint
from .load import load_format, load_policy
from .policy import Policy
from .sampler import Sampling, TransformersSampler


class Said(NamedTuple):
    """An answer, and how many tokens it took; None where there was none, and `why`."""

    text: str | None
    n_tokens: int = 0
    why: str = ""


class Speaker(Protocol):
    """Anything that answers conversations."""

    def replies(self, conversations: Sequence[Messages], numbers: Sequence[int]) -> list[Said]:
        """What is said next in each of them."""


@dataclass
class Local:
    """A model that is loaded here. A conversation that leaves no room for an answer gets none; one that ends with the
    assistant's words is gone on with behind them, and they are part of what is said."""

    policy: Policy
    form: ChatFormat
    sampling: Sampling
    seed: int = 0
    watch: Callable[[int], None] = field(default=lambda done: None)

    def replies(self, conversations: Sequence[Messages], numbers: Sequence[int]) -> list[Said]:
        begun = [self._begun(messages) for messages in conversations]
        asked = [
            self.form.ask(Prompt(messages[:-1] if ids else messages)) + ids
            for messages, ids in zip(conversations, begun, strict=True)
        ]
        fits = [i for i, ids in enumerate(asked) if self.policy.room(len(ids)) > 0]
        sampler = TransformersSampler(self.policy, self.form.stop_ids, watch=self.watch)
        drawn = sampler.sample([asked[i] for i in fits], self.sampling, self.seed, numbers=[numbers[i] for i in fits])
        said = [Said(None, 0, "too long")] * len(asked)
        for i, ids in zip(fits, drawn, strict=True):
            said[i] = Said(self.form.read_answer([*begun[i], *ids]), len(ids))
        return said

    def _begun(self, messages: Messages) -> list[int]:
        """The tokens of an answer that is put into the model's mouth, where one is."""
        if messages[-1].role != "assistant":
            return []
        if self.policy.encodes:
            raise UsageError("An encoder-decoder's answer cannot be begun for it. Leave out the attack `prefill`.")
        return encode(self.form.tokenizer, hidden(self.form.tokenizer, messages[-1].content))


@dataclass
class Remote:
    """A model behind an OpenAI-compatible address, which counts its own tokens."""

    calling: Calling

    def replies(self, conversations: Sequence[Messages], numbers: Sequence[int]) -> list[Said]:
        return [Said(reply.text, reply.n_tokens, reply.why) for reply in self.calling(conversations)]


def load_local(model: Model, sampling: Sampling, seed: int = 0) -> Local:
    """A model that answers as it likes to be asked. Raises ModelError."""
    policy = load_policy(model)
    return Local(policy, load_format(model, policy.tokenizer), sampling, seed)


def call(endpoint: Endpoint, sampling: Sampling, who: str) -> Remote:
    """The model of an endpoint; `who` names it in errors. Raises UsageError where its key is not set."""
    return Remote(Calling(endpoint, sampling.max_new_tokens, temperature=sampling.temperature, who=who))
