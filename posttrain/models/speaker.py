"""Whoever answers conversations: a model that is loaded here, or one behind an address.

Each conversation brings a number that names its draws, so that what is drawn for it depends neither on its neighbours nor on
what was answered before: a run that goes on after a kill hears the same.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

from posttrain.data.chat import ChatFormat
from posttrain.schema.artifacts import Model
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
    """A model that is loaded here. A conversation that leaves no room for an answer gets none."""

    policy: Policy
    form: ChatFormat
    sampling: Sampling
    seed: int = 0
    watch: Callable[[int], None] = field(default=lambda done: None)

    def replies(self, conversations: Sequence[Messages], numbers: Sequence[int]) -> list[Said]:
        asked = [self.form.ask(Prompt(messages)) for messages in conversations]
        fits = [i for i, ids in enumerate(asked) if self.policy.room(len(ids)) > 0]
        sampler = TransformersSampler(self.policy, self.form.stop_ids, watch=self.watch)
        drawn = sampler.sample([asked[i] for i in fits], self.sampling, self.seed, numbers=[numbers[i] for i in fits])
        said = [Said(None, 0, "too long")] * len(asked)
        for i, ids in zip(fits, drawn, strict=True):
            said[i] = Said(self.form.read_answer(ids), len(ids))
        return said


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
