"""A model that gives feedback: what it says in a conversation, and how likely it says one of two letters.

    p(A) = exp(l_A) / (exp(l_A) + exp(l_B))        l: log-probability of the letter as the answer, in nats

One that is loaded here is asked for the log-probabilities themselves. One behind an OpenAI-compatible address tells those
of the likeliest tokens (`top_logprobs`): the first token that is a letter counts, in whatever spelling, and a letter that is
not among the likeliest counts as likely as the least of them.
"""

import json
import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Protocol

from pydantic import model_validator

from posttrain.data.batch import Batch
from posttrain.data.chat import ChatFormat
from posttrain.data.program import PromptProgram
from posttrain.functional.comparing import ENDS
from posttrain.functional.layout import Branch, Tree
from posttrain.schema.artifacts import Model
from posttrain.schema.errors import UsageError
from posttrain.schema.rows import Message, Messages, Prompt
from posttrain.schema.settings import Mark, Settings

from .endpoint import Calling, Endpoint, Reply
from .load import load_format, load_policy
from .policy import Policy
from .sampler import Sampling, TransformersSampler

TOP = 10  # likeliest tokens that an address is asked to tell
LEAST = -1e4  # nats; what is less likely is as good as never said
AT_ONCE = 64  # conversations between two looks at the clock
AROUND = " \t\n()[]\"'*_`.:：（）【】▁Ġ"  # what may stand around a letter in a token
Watch = Callable[[int], None]


class FeedbackModel(Settings):
    """Who gives feedback."""

    model: Annotated[str | None, Mark("model")] = None
    """The model that gives it: `lab`, a folder, or the name of a stage."""
    endpoint: Endpoint | None = None
    """A model behind an OpenAI-compatible address instead, as `{url: http://localhost:8000/v1, model: NAME}`."""

    @model_validator(mode="after")
    def _one(self) -> "FeedbackModel":
        if (self.model is None) == (self.endpoint is None):
            raise ValueError("one model gives feedback: write either `model: NAME` or `endpoint: {url: …, model: …}`")
        return self


@dataclass(frozen=True)
class Spoken:
    """What was said, and whether it came to an end; None where there is nothing, and `why`."""

    text: str | None
    finished: bool = False
    why: str = ""


class Feedback(Protocol):
    """Whatever gives feedback. `numbers` name the draws of each conversation, so that they do not hang on its place."""

    def say(
        self, talks: Sequence[Messages], sampling: Sampling, seed: int, numbers: Sequence[int], watch: Watch
    ) -> list[Spoken]:
        """What comes next in each conversation, in order."""

    def first_letter(self, talks: Sequence[Messages], watch: Watch) -> list[float | None]:
        """The probability of A against B as what comes next; None where it cannot be told."""


@dataclass
class Loaded:
    """A model that is loaded here."""

    policy: Policy
    form: ChatFormat

    @classmethod
    def of(cls, model: Model, policy: Policy) -> "Loaded":
        """The model of an artifact that is in memory already, in its chat format and without its prompt program."""
        return cls(policy, load_format(model, policy.tokenizer, PromptProgram(layout="chat")))

    def say(
        self, talks: Sequence[Messages], sampling: Sampling, seed: int, numbers: Sequence[int], watch: Watch
    ) -> list[Spoken]:
        """A conversation that leaves no room for more gets nothing."""
        asked = [self.form.ask(Prompt(talk)) for talk in talks]
        fits = [n for n, ids in enumerate(asked) if self.policy.room(len(ids)) > 0]
        sampler = TransformersSampler(self.policy, self.form.stop_ids, watch=watch)
        drawn = sampler.sample([asked[n] for n in fits], sampling, seed, numbers=[numbers[n] for n in fits])
        found = [Spoken(None, why="too long")] * len(talks)
        for n, ids in zip(fits, drawn, strict=True):
            found[n] = Spoken(self.form.read_answer(ids), bool(ids) and ids[-1] in self.form.stop_ids)
        return found

    def first_letter(self, talks: Sequence[Messages], watch: Watch) -> list[float | None]:
        """By the letters alone: the token that ends the answer is not asked for."""
        found: list[float | None] = []
        for start in range(0, len(talks), AT_ONCE):
            trees = [self._letters(talk) for talk in talks[start : start + AT_ONCE]]
            fitting = [tree for tree in trees if tree.longest_path() <= self.policy.context]
            a, b = self.policy.score(Batch(tuple(fitting))).chunk(2) if fitting else ((), ())
            told = iter((a - b).sigmoid().tolist() if fitting else ())  # type: ignore[operator]
            found += [next(told) if tree.longest_path() <= self.policy.context else None for tree in trees]
            watch(len(found))
        return found

    def _letters(self, talk: Messages) -> Tree:
        said = [self.form.answer(talk, (Message("assistant", letter),)) for letter in ENDS]
        branches = (Branch(tuple(ids), tuple(id not in self.form.stop_ids for id in ids)) for _, ids in said)
        return Tree(tuple(said[0][0]), tuple(branches))


@dataclass
class Remote:
    """A model behind an address."""

    endpoint: Endpoint
    sleep: Callable[[float], None] = time.sleep

    def say(
        self, talks: Sequence[Messages], sampling: Sampling, seed: int, numbers: Sequence[int], watch: Watch
    ) -> list[Spoken]:
        """The server draws as it likes: it is told the temperature, and a seed that not every server heeds."""
        more = {"top_p": sampling.top_p, "seed": seed % 2**31}
        call = self._calling(sampling.max_new_tokens, sampling.temperature, more)
        return [_spoken(reply) for reply in _replies(call, talks, watch)]

    def first_letter(self, talks: Sequence[Messages], watch: Watch) -> list[float | None]:
        """Raises UsageError where the server tells no log-probabilities."""
        call = self._calling(4, 0.0, {"logprobs": True, "top_logprobs": TOP})
        return [self._letter(reply) for reply in _replies(call, talks, watch)]

    def _letter(self, reply: Reply) -> float | None:
        choice = _choice(reply)
        if choice is None:
            return None
        told = choice.get("logprobs")
        tokens = told.get("content") if isinstance(told, dict) else None
        if not isinstance(tokens, list):
            raise UsageError(
                f"The model at {self.endpoint.url} tells no log-probabilities (`top_logprobs`), of which soft labels are "
                "made. Ask a server that tells them, or a model that is loaded here: `feedback: {model: NAME}`."
            )
        return letter_in(tokens)

    def _calling(self, max_new_tokens: int, temperature: float, more: dict[str, Any]) -> Calling:
        call = Calling(self.endpoint, max_new_tokens, temperature=temperature, who="feedback model", more=more)
        call.read = lambda body: Reply(body.decode(errors="replace"))
        call.sleep = self.sleep
        return call


def _replies(call: Calling, talks: Sequence[Messages], watch: Watch) -> Iterator[Reply]:
    for start in range(0, len(talks), AT_ONCE):
        yield from call(talks[start : start + AT_ONCE])
        watch(min(start + AT_ONCE, len(talks)))


def _choice(reply: Reply) -> dict[str, Any] | None:
    """The first choice of a completion; None where a reply is none."""
    try:
        found: Any = json.loads(reply.text or "")["choices"][0]
    except (ValueError, LookupError, TypeError, RecursionError):
        return None
    return found if isinstance(found, dict) else None


def _spoken(reply: Reply) -> Spoken:
    message = (_choice(reply) or {}).get("message")
    text = message.get("content") if isinstance(message, dict) else None
    if not isinstance(text, str):
        return Spoken(None, why=reply.why or "unreadable")
    whole = text.encode("utf-8", "replace").decode(
        "utf-8"
    )  # halves of characters are taken by no file and no tokenizer
    return Spoken(whole.strip(), (_choice(reply) or {}).get("finish_reason") != "length")


def letter_in(tokens: Sequence[Any]) -> float | None:
    """The probability of A against B where the first of them stands among the tokens of a reply; None where neither does,
    or what is told of them cannot be read."""
    for token in tokens:
        if not isinstance(token, dict) or str(token.get("token", "")).strip(AROUND) not in ENDS:
            continue
        top = token.get("top_logprobs")
        told = [each for each in (top if isinstance(top, list) else ()) if isinstance(each, dict)] or [token]
        logps = [(str(each.get("token", "")).strip(AROUND), each.get("logprob")) for each in told]
        known = [(said, min(max(lp, LEAST), 0.0)) for said, lp in logps if isinstance(lp, int | float) and lp < 1]
        if not known:
            return None
        least = math.exp(min(lp for _, lp in known))
        a, b = (sum(math.exp(lp) for said, lp in known if said == letter) or least for letter in ENDS)
        return a / (a + b) if a + b > 0 else None
    return None


def load_feedback(settings: FeedbackModel, model: Model | None) -> Feedback:
    """Who gives feedback as settings say; `model` is the artifact where they name one. Raises ModelError, and UsageError
    where the key of an endpoint is not set."""
    if settings.endpoint is not None:
        Calling(settings.endpoint, 1, who="feedback model")  # a missing key is told before anything is drawn
        return Remote(settings.endpoint)
    assert model is not None
    return Loaded.of(model, load_policy(model))
