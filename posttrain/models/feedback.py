"""A model that gives feedback: what it says in a conversation, and how likely it says one of two letters.

    p(A) = exp(l_A) / (exp(l_A) + exp(l_B))        l: log-probability of the letter as the answer, in nats

One that is loaded here is asked for the log-probabilities themselves. One behind an OpenAI-compatible address tells those
of the likeliest tokens (`top_logprobs`): the first token that is a letter counts, in whatever spelling, and a letter that is
not among the likeliest counts as likely as the least of them.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Protocol

from posttrain.data.batch import Batch
from posttrain.functional.comparing import ENDS
from posttrain.functional.layout import Branch, Tree
from posttrain.schema.artifacts import Model
from posttrain.schema.errors import UsageError
from posttrain.schema.rows import Message, Messages

from .endpoint import Remote, Reply
from .load import load_format, load_policy
from .policy import Policy
from .sampler import Sampling
from .speaker import CHAT, Local, OneModel

TOP = 10  # likeliest tokens that an address is asked to tell
LEAST = -1e4  # nats; what is less likely is as good as never said
AT_ONCE = 64  # conversations between two looks at the clock
AROUND = " \t\n()[]\"'*_`.:：（）【】▁Ġ"  # what may stand around a letter in a token
Watch = Callable[[int], None]


class FeedbackModel(OneModel):
    """Who gives feedback."""

    who: ClassVar[str] = "feedback model"


class Feedback(Protocol):
    """Whatever gives feedback. `numbers` name the draws of each conversation, so that they do not hang on its place."""

    def say(
        self, talks: Sequence[Messages], sampling: Sampling, seed: int, numbers: Sequence[int], watch: Watch
    ) -> list[Reply]:
        """What comes next in each conversation, in order."""

    def first_letter(self, talks: Sequence[Messages], watch: Watch) -> list[float | None]:
        """The probability of A against B as what comes next; None where it cannot be told."""


@dataclass
class Loaded(Local):
    """A model that is loaded here."""

    @classmethod
    def of(cls, model: Model, policy: Policy) -> "Loaded":
        """The model of an artifact that is in memory already, in its chat format and without its prompt program."""
        return cls(policy, load_format(model, policy.tokenizer, CHAT))

    def say(
        self, talks: Sequence[Messages], sampling: Sampling, seed: int, numbers: Sequence[int], watch: Watch
    ) -> list[Reply]:
        return replace(self, sampling=sampling, seed=seed, watch=watch).replies(talks, numbers)

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
class Telling(Remote):
    """A model behind an address, which tells how likely its tokens are."""

    def say(
        self, talks: Sequence[Messages], sampling: Sampling, seed: int, numbers: Sequence[int], watch: Watch
    ) -> list[Reply]:
        """The server draws as it likes: it is told the temperature, and a seed that not every server heeds."""
        more = {"top_p": sampling.top_p, "seed": seed % 2**31}
        said = replace(self, sampling=sampling, more=more, watch=watch).replies(talks)
        return [each._replace(text=each.text and each.text.strip()) for each in said]

    def first_letter(self, talks: Sequence[Messages], watch: Watch) -> list[float | None]:
        """Raises UsageError where the server tells no log-probabilities."""
        more = {"logprobs": True, "top_logprobs": TOP}
        asking = replace(self, sampling=Sampling(max_new_tokens=4), more=more)
        found: list[float | None] = []
        for start in range(0, len(talks), AT_ONCE):
            found += map(self._letter, asking.replies(talks[start : start + AT_ONCE]))
            watch(len(found))
        return found

    def _letter(self, reply: Reply) -> float | None:
        told = reply.logprobs
        if reply.text is None and told is None:
            return None
        tokens = told.get("content") if isinstance(told, dict) else None
        if not isinstance(tokens, list):
            raise UsageError(
                f"The model at {self.endpoint.url} tells no log-probabilities (`top_logprobs`), of which soft labels are "
                "made. Ask a server that tells them, or a model that is loaded here: `feedback: {model: NAME}`."
            )
        return letter_in(tokens)


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
        return Telling(settings.endpoint, who=settings.who)
    assert model is not None
    return Loaded.of(model, load_policy(model))
