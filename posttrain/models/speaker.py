"""Whoever answers conversations: a model that is loaded here, or one behind an address.

Each conversation brings a number that names its draws, so that what is drawn for it depends neither on its neighbours nor on
what was answered before: a run that goes on after a kill hears the same.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Annotated, ClassVar, Protocol, Self

from pydantic import model_validator

from posttrain.data.chat import ChatFormat
from posttrain.data.inert import encode, hidden
from posttrain.data.program import PromptProgram
from posttrain.schema.artifacts import Model
from posttrain.schema.errors import UsageError
from posttrain.schema.rows import Messages, Prompt
from posttrain.schema.settings import Mark, Settings

from .endpoint import Endpoint, Remote, Reply
from .load import load_format, load_policy
from .policy import Policy
from .sampler import Sampling, TransformersSampler

CHAT = PromptProgram(layout="chat")
"""How a model is asked that is to read nothing but the question: in its chat format, without its own prompt program."""


class OneModel(Settings):
    """One model, loaded here or behind an address; `who` says in messages what it is."""

    who: ClassVar[str] = "model"

    model: Annotated[str | None, Mark("model")] = None
    """The model that is asked: `lab`, a folder, or the name of a stage."""
    endpoint: Endpoint | None = None
    """A model behind an OpenAI-compatible address instead, as `{url: http://localhost:8000/v1, model: NAME}`."""

    @model_validator(mode="after")
    def _is_one(self) -> Self:
        if (self.model is None) == (self.endpoint is None):
            raise ValueError(
                f"one {self.who} is needed: give either `model: NAME` or `endpoint: {{url: …, model: NAME}}`"
            )
        return self


class Speaker(Protocol):
    """Anything that answers conversations."""

    def replies(self, conversations: Sequence[Messages], numbers: Sequence[int]) -> list[Reply]:
        """What is said next in each of them."""


@dataclass
class Local:
    """A model that is loaded here. A conversation that leaves no room for an answer gets none; one that ends with the
    assistant's words is gone on with behind them, and they are part of what is said."""

    policy: Policy
    form: ChatFormat
    sampling: Sampling = field(default_factory=Sampling)
    seed: int = 0
    watch: Callable[[int], None] = field(default=lambda done: None)

    def replies(self, conversations: Sequence[Messages], numbers: Sequence[int]) -> list[Reply]:
        begun = [self._begun(messages) for messages in conversations]
        asked = [
            self.form.ask(Prompt(messages[:-1] if ids else messages)) + ids
            for messages, ids in zip(conversations, begun, strict=True)
        ]
        fits = [i for i, ids in enumerate(asked) if self.policy.room(len(ids)) > 0]
        sampler = TransformersSampler(self.policy, self.form.stop_ids, watch=self.watch)
        drawn = sampler.sample([asked[i] for i in fits], self.sampling, self.seed, numbers=[numbers[i] for i in fits])
        said = [Reply(None, "too long")] * len(asked)
        for i, ids in zip(fits, drawn, strict=True):
            text = self.form.read_answer([*begun[i], *ids])
            said[i] = Reply(text, "", len(ids), ids[-1] in self.form.stop_ids)
        return said

    def _begun(self, messages: Messages) -> list[int]:
        """The tokens of an answer that is put into the model's mouth, where one is."""
        if messages[-1].role != "assistant":
            return []
        if self.policy.encodes:
            raise UsageError("An encoder-decoder's answer cannot be begun for it. Leave out the attack `prefill`.")
        return encode(self.form.tokenizer, hidden(self.form.tokenizer, messages[-1].content))


def load_local(model: Model, sampling: Sampling, seed: int = 0, program: PromptProgram | None = None) -> Local:
    """A model that is asked by its own prompt program, or by another. Raises ModelError."""
    policy = load_policy(model)
    return Local(policy, load_format(model, policy.tokenizer, program), sampling, seed)


def load_speaker(
    settings: OneModel, model: Model | None, sampling: Sampling, seed: int = 0, program: PromptProgram | None = None
) -> Speaker:
    """Whoever settings name; `model` is the artifact where they name one. Raises ModelError, and UsageError where the key of
    an endpoint is not set."""
    if settings.endpoint is not None:
        return Remote(settings.endpoint, sampling, settings.who)
    assert model is not None
    return load_local(model, sampling, seed, program)
