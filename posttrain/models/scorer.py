"""A scorer: a language model whose head gives one number instead of a word. As a reward model it says what an answer is
worth, as a critic what may still be expected at each of its tokens.

    reward_b = w . h(last token of answer b) - offset        value_n = w . h(what stands before token n)

Reward models: Ouyang et al. 2022, arXiv 2203.02155. An answer is read at its own last token, which the layout knows:
never by looking for a padding id. Shapes: B answers, N trained tokens, D width.
"""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from posttrain.data.batch import Batch
from posttrain.functional.layout import Tree
from posttrain.schema.errors import ModelError

from . import attention
from .policy import Policy

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from .policy import Weights


class Scorer(Policy):
    """A model with a head of one number. `head` (D -> 1) is the model's own `score` unless another is given, as for a
    critic that shares the weights of a policy. `offset` is what an average answer scored where the model was trained: it
    is taken off, so that such an answer is worth nothing."""

    def __init__(
        self,
        model: "Weights",
        tokenizer: "PreTrainedTokenizerBase",
        *,
        head: nn.Module | None = None,
        offset: float = 0.0,
        **options: Any,
    ) -> None:
        if model.config.is_encoder_decoder:
            raise ModelError(
                "A reward model or critic reads whole answers, which an encoder-decoder does not. Give a decoder."
            )
        self.own_head, self.offset = head, offset
        super().__init__(model, tokenizer, **options)

    @property
    def head(self) -> nn.Module:
        head: nn.Module = self.causal().score if self.own_head is None else self.own_head
        return head

    def named_parameters(self) -> Iterator[tuple[str, nn.Parameter]]:
        yield from self.model.named_parameters()
        if self.own_head is not None:
            yield from ((f"head.{name}", p) for name, p in self.own_head.named_parameters())

    def trainable(self) -> list[nn.Parameter]:
        own = () if self.own_head is None else self.own_head.parameters()
        return [*super().trainable(), *(p for p in own if p.requires_grad)]

    def rewards(self, batch: Batch) -> Tensor:
        """(B,): what each answer is worth, fp32."""
        ones = torch.ones(len(batch), dtype=torch.long)
        return self.in_pieces(batch, lambda trees: self._at(trees, "ends"), ones) - self.offset

    def values(self, batch: Batch) -> Tensor:
        """(N,): what may still be expected before each trained token, fp32."""
        return self.in_pieces(batch, lambda trees: self._at(trees, "predict_at"), batch.n_trained) - self.offset

    def tried(self, trees: Sequence[Tree], way: str) -> Tensor:
        if way != "logits":
            return torch.cat([self._at(trees, place, way) for place in ("ends", "predict_at")])
        alone = [
            Tree(tree.prompt, (branch,)) for n in range(2) for tree in trees for branch in tree.branches[n : n + 1]
        ]
        found = [self._at([each], place, "padded") for place in ("ends", "predict_at") for each in alone]
        return torch.cat(found)

    def _at(self, trees: Sequence[Tree], places: str, way: str | None = None) -> Tensor:
        """The head's number at some places of a layout: `ends` (B,) or `predict_at` (N,)."""
        with self._offloading():
            try:
                hidden, layout = self._computed(trees, way or self.layout)
            except attention.Unsupported:
                if way:
                    raise
                hidden, layout = self._computed(trees, "padded")
        at = torch.tensor(getattr(layout, places), dtype=torch.long, device=self.device)
        with torch.autocast(self.device.type, enabled=False), self.answering():
            scored: Tensor = self.head(hidden[at].float())[:, 0]
        return scored

    def _computed(self, trees: Sequence[Tree], way: str) -> tuple[Tensor, Any]:
        layout = self.laid_out(trees, way)
        return self.states(layout)[-1], layout
