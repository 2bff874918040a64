"""A suffix behind a request, as the tokens that a local model reads, and how near it brings an answer.

    before | suffix (n,) | after | target          loss = mean over target tokens of -log p(token | all before it)

Tokens are searched, yet a model is asked in text: a suffix counts only where its text is tokenised to the same tokens again, within
the request, the template and the prompt program of the model.
"""

import itertools
from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from posttrain.data.batch import Batch
from posttrain.data.inert import encode, hidden, specials
from posttrain.functional.layout import Branch, Tree
from posttrain.schema.errors import ModelError, UsageError
from posttrain.schema.rows import Messages, Prompt

from .speaker import Local
from .vocabulary import n_rows

Put = Callable[[str], Messages]
"""The messages that ask for a request that is put so."""
FIRST, OTHER = "!", "?"


class Suffix:
    """Tokens behind a request: `start` are the first ones, `n` signs. Raises UsageError for a model that has no embeddings
    of one text alone, ModelError for a tokenizer whose text cannot be read back."""

    def __init__(self, weights: Local, put: Put, request: str, target: str, n: int):
        if weights.policy.encodes:
            raise UsageError("Gradients through a suffix need a decoder alone. Leave out the attack `gcg`.")
        self.policy, self.form, self.put, self.request = weights.policy, weights.form, put, request
        first, other = (self._ids(f"{request} {' '.join([sign] * n)}") for sign in (FIRST, OTHER))
        n_before, n_after = _alike(first, other), _alike(first[::-1], other[::-1])
        self.before, self.start = first[:n_before], first[n_before : len(first) - n_after]
        self.after = first[len(first) - n_after :]
        self.target = self._target(target)
        self.joint = next((joint for joint in (" ", "") if self._is_read_back(self.start, joint)), None)
        if self.joint is None or not self.target:
            raise ModelError(
                "The tokenizer of this model does not give the same tokens for its own text, so no suffix can be searched. "
                "Leave out the attack `gcg`."
            )

    @property
    def fits(self) -> bool:
        """Whether the model has room for the request, the suffix and the target."""
        return self.policy.room(len(self._whole(self.start))) >= len(self.target)

    def text(self, suffix: Sequence[int], joint: str | None = None) -> str:
        """The request with the suffix behind it."""
        joint = self.joint if joint is None else joint
        return f"{self.request}{joint}{self.form.tokenizer.decode(list(suffix), clean_up_tokenization_spaces=False)}"

    def is_read_back(self, suffix: Sequence[int]) -> bool:
        """Whether the model reads these very tokens when it is asked in text."""
        return self._is_read_back(suffix, self.joint or "")

    def allowed(self, ascii_only: bool) -> Tensor:
        """(V,): which tokens a suffix may be made of: no special ones, and none that is not printed."""
        tokenizer, n = self.form.tokenizer, n_rows(self.policy.model)
        known = min(n, len(tokenizer))
        texts = tokenizer.batch_decode([[id] for id in range(known)], clean_up_tokenization_spaces=False)
        special = specials(tokenizer).ids
        fine = [
            bool(text.strip()) and text.isprintable() and id not in special and (text.isascii() or not ascii_only)
            for id, text in enumerate(texts)
        ]
        return torch.tensor([*fine, *itertools.repeat(False, n - known)])

    @torch.no_grad()
    def losses(self, suffixes: Sequence[Sequence[int]]) -> Tensor:
        """(B,): the loss of the target behind each suffix. What stands before is computed once for many of them."""
        n_behind = len(self.after) + len(self.target)
        at_once = max(1, self.policy.micro_tokens // (max(map(len, suffixes)) + n_behind))
        trees = [
            Tree(tuple(self.before), tuple(map(self._branch, suffixes[i : i + at_once])))
            for i in range(0, len(suffixes), at_once)
        ]
        return -torch.cat([self.policy.score(Batch((tree,))) for tree in trees]) / len(self.target)

    def _branch(self, suffix: Sequence[int]) -> Branch:
        n_given = len(suffix) + len(self.after)
        trained = (False,) * n_given + (True,) * len(self.target)
        return Branch((*suffix, *self.after, *self.target), trained)

    def slope(self, suffix: Sequence[int]) -> Tensor:
        """(n, V): the derivative of the loss with respect to the one-hot vectors of the suffix's tokens."""
        policy, n, n_target = self.policy, len(suffix), len(self.target)
        table = policy.model.get_input_embeddings()
        ids = torch.tensor([[*self._whole(suffix), *self.target]], device=policy.device)
        with torch.enable_grad(), policy.precision(), policy.answering():
            vectors = table(ids).detach().requires_grad_()
            made = policy.model(inputs_embeds=vectors, attention_mask=torch.ones_like(ids), use_cache=False)
            logits = made.logits[0, -n_target - 1 : -1].float()
            loss = F.cross_entropy(logits, ids[0, -n_target:])
            (found,) = torch.autograd.grad(loss, vectors)
        at = found[0, len(self.before) : len(self.before) + n]
        every = table(torch.arange(n_rows(policy.model), device=policy.device))
        return (at.float() @ every.detach().float().T).cpu()

    def _ids(self, request: str) -> list[int]:
        return self.form.ask(Prompt(self.put(request)))

    def _whole(self, suffix: Sequence[int]) -> list[int]:
        return [*self.before, *suffix, *self.after]

    def _is_read_back(self, suffix: Sequence[int], joint: str) -> bool:
        return self._ids(self.text(suffix, joint)) == self._whole(suffix)

    def _target(self, text: str) -> list[int]:
        """The tokens of the target as an answer begins: behind a space where a prompt is plain text."""
        led = f" {text}" if self.form.program.layout == "plain" else text
        return encode(self.form.tokenizer, hidden(self.form.tokenizer, led))


def _alike(one: Sequence[int], other: Sequence[int]) -> int:
    """How many tokens two texts have in common from their beginning, where they are not the same."""
    return sum(1 for _ in itertools.takewhile(lambda pair: pair[0] == pair[1], zip(one, other, strict=False)))
