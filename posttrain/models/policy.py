"""A policy: any causal language model, asked for the log-probabilities of answer tokens.

Packed trees are the fast way; they are used where a self-test on the model at hand finds them exact, padded rows where
not, and whole logits where the head is more than a matrix. All three give the same numbers in the same order.
"""

import contextlib
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from posttrain.data.batch import Batch
from posttrain.functional.divergence import Head
from posttrain.functional.layout import (
    Layout,
    Tree,
    answer_order,
    filled,
    packed,
    padded,
    rounded,
    split_by_tokens,
)

from . import attention, seq2seq
from .activations import offloaded
from .adapters import answering, is_adapted, n_virtual
from .exact import exact_layout
from .expected import Aligned, Expected, Noted
from .precision import computes_in
from .vocabulary import n_rows

if TYPE_CHECKING:  # half a second each to import, which a run that keeps everything need not pay
    from peft import PeftModel
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from .adapters.root import Root
    from .bridge import Bridge
    from .scorer import Scorer

    Weights = PreTrainedModel | PeftModel


class Policy:
    """A model with its tokenizer. `layout` is how batches are computed: packed, padded or logits.

    `adapter` names the PEFT adapter that answers; None answers with the base weights alone. `offload` lets what a
    backward pass needs wait in the machine's memory. Dropout stays off: ratios of probabilities need the same network
    on both sides, and a resumed run the same numbers.
    """

    def __init__(
        self,
        model: "Weights",
        tokenizer: "PreTrainedTokenizerBase",
        *,
        dtype: str = "float32",
        adapter: str | None = None,
        layout: str | None = None,
        micro_tokens: int = 4096,
        offload: bool = False,
    ):
        self.model, self.tokenizer, self.adapter, self.offload = model.eval(), tokenizer, adapter, offload
        self._known: dict[tuple[int, bool], Expected] | None = None
        self.dtype = computes_in(dtype, self.device)
        self.pad_id, self.micro_tokens = _pad_id(tokenizer, n_rows(model)), micro_tokens
        self.n_virtual = n_virtual(model, adapter)
        self.reach: int | None = None  # how long a text `decoding` continues exactly; found when first sampled from
        self.layout, self.why = (layout, "as asked") if layout else exact_layout(self)

    @property
    def device(self) -> torch.device:
        return next(self.model.parameters()).device

    @property
    def context(self) -> int:
        """The longest text the model knows positions for, in tokens, beside the virtual ones; of an encoder-decoder the
        longest question, and the longest answer."""
        if self.encodes:
            return seq2seq.longest(self.model.config) - self.n_virtual
        positions = getattr(self.model.config, "max_position_embeddings", None) or sys.maxsize
        return int(positions) - self.n_virtual

    @property
    def encodes(self) -> bool:
        """Whether an encoder reads the question and a decoder writes the answer."""
        return bool(self.model.config.is_encoder_decoder)

    def room(self, n: int) -> int:
        """How long an answer to a question of `n` tokens can be."""
        if self.encodes:
            return self.context if n <= self.context else 0
        return max(self.context - n + 1, 0)  # nothing reads the last token

    def trainable(self) -> list[nn.Parameter]:
        """The weights that learn, without those of other adapters on the same base."""
        others = {name for name in getattr(self.model, "peft_config", {}) if name != self.adapter}
        named = self.model.named_parameters()
        return [p for name, p in named if p.requires_grad and others.isdisjoint(name.split("."))]

    def logps(self, batch: Batch, temperature: float = 1.0) -> Tensor:
        """(N,): the log-probability of every trained token, in nats, fp32; answers in order, tokens along each."""
        return self.in_pieces(batch, lambda trees: self._logps(trees, temperature=temperature), batch.n_trained)

    def answer_logps(self, batch: Batch, temperature: float = 1.0) -> Tensor:
        """(B,): the sum of an answer's token log-probabilities."""
        return batch.per_answer(self.logps(batch, temperature))

    @torch.no_grad()
    def score(self, batch: Batch) -> Tensor:
        """(B,): `answer_logps` without a gradient, on the CPU."""
        return self.answer_logps(batch).cpu()

    def in_pieces(self, batch: Batch, compute: Callable[[Sequence[Tree]], Tensor], sizes_B: Tensor) -> Tensor:
        """What `compute` gives for all trees, `sizes_B` values an answer; piece by piece where no gradient asks for all."""
        if torch.is_grad_enabled() or batch.n_tokens() <= self.micro_tokens:
            return compute(batch.trees)
        place = {(tree, branch): answer for answer, tree, branch in answer_order(batch.trees)}
        found, answers = [], []
        for rows in split_by_tokens(batch.trees, self.micro_tokens):
            some = [batch.trees[row] for row in rows]
            found.append(compute(some))
            answers += [place[rows[tree], branch] for _, tree, branch in answer_order(some)]
        of = torch.tensor(answers)
        order = of.repeat_interleave(sizes_B[of]).argsort(stable=True)
        return torch.cat(found)[order.to(found[0].device)]

    def tried(self, trees: Sequence[Tree], way: str) -> Tensor:
        """Numbers that a layout must get right: what the self-test of layouts compares."""
        return self._logps(trees, way)

    def _logps(self, trees: Sequence[Tree], way: str | None = None, temperature: float = 1.0) -> Tensor:
        with self._offloading(), self.precision():
            expected = self._expects(trees, way) if way else self.expects(trees)
            return expected.logps(temperature)

    @contextlib.contextmanager
    def once(self) -> Iterator[None]:
        """Within: the same trees are computed once, whatever is asked of them; the weights must stay as they are."""
        self._known = {}
        try:
            yield
        finally:
            self._known = None

    @contextlib.contextmanager
    def afresh(self) -> Iterator[None]:
        """Within: trees are computed anew, also within `once`, as something about the model is not as it was."""
        known, self._known = self._known, None
        yield
        self._known = known

    def expects(self, trees: Sequence[Tree], deep: bool = False) -> Expected:
        """What stands before every trained token; `deep` with what every layer makes there. In the policy's layout; in
        padded rows where these trees are longer than a window that packing cannot keep."""
        key = (id(trees), torch.is_grad_enabled())
        if self._known and key in self._known and bool(self._known[key].through) >= deep:
            return self._known[key]
        with self._offloading():
            try:
                found = self._expects(trees, self.layout, deep)
            except attention.Unsupported:
                found = self._expects(trees, "padded", deep)
        if self._known is not None:
            self._known[key] = found
        return found

    def _offloading(self) -> contextlib.AbstractContextManager[None]:
        return offloaded(self.model.parameters()) if self.offload else contextlib.nullcontext()

    def _expects(self, trees: Sequence[Tree], way: str, deep: bool = False) -> Expected:
        if self.encodes:
            return seq2seq.expects(self, trees, way)
        layout = self.laid_out(trees, way)
        at, targets, answers = (
            torch.tensor(x, dtype=torch.long, device=self.device)
            for x in (layout.predict_at, layout.targets, layout.answers)
        )
        if way == "logits":
            with self.precision(), self.answering():
                made = self.model(**self._inputs(layout), output_hidden_states=deep)
            found = (made.logits, *(made.hidden_states or ())[1:])
            logits, *within = (x[:, -len(layout.rows[0]) :].flatten(0, 1)[at] for x in found)
            return Expected(logits, targets, answers, tuple(within))
        states, head, n = self.states(layout, deep), self.model.get_output_embeddings(), len(at)
        at, targets = (F.pad(x, (0, rounded(n) - n)) for x in (at, targets))  # few shapes: see `layout.rounded`
        through = tuple(layer[at] for layer in states)
        last = Head(through[-1], head.weight, getattr(head, "bias", None))
        return Expected(last, targets, answers, through if deep else ())

    def laid_out(self, trees: Sequence[Tree], way: str) -> Layout:
        """Trees as rows of tokens. The last token of an answer needs no position where nothing is asked behind it."""
        longest = self.context
        return filled(packed(trees, longest), self.pad_id) if way == "packed" else padded(trees, self.pad_id, longest)

    def states(self, layout: Layout, deep: bool = False) -> list[Tensor]:
        """(T, D): the hidden state at every flat place of a layout, behind the last layer or, `deep`, behind each. Raises
        attention.Unsupported where packed rows cannot be computed."""
        with self.precision(), self.answering():
            root, is_packed = self.root(), bool(layout.segments)
            plan = attention.plan_of(layout.segments, self.device) if is_packed else None
            if plan and root:
                plan = attention.rooted(plan, self.n_virtual)
            backbone = getattr(self.causal(), str(self.causal().base_model_prefix))  # the model below the head
            with attention.packed_as(plan):
                made = backbone(**self._inputs(layout, not is_packed, root), output_hidden_states=deep)
        within = made.hidden_states[1:-1] if deep else ()
        return [layer.flatten(0, 1) for layer in (*within, made.last_hidden_state)]

    def causal(self) -> Any:
        """The model with its head, and without what puts virtual tokens before a text: `root` stands for them."""
        return self.model.get_base_model() if is_adapted(self.model) else self.model

    def root(self) -> "Root | None":
        """The keys and values of the adapter's virtual tokens, if it has any."""
        if not self.n_virtual:
            return None
        from .adapters.root import root_of

        return root_of(self.model)

    def _inputs(self, layout: Layout, mask: bool = True, root: "Root | None" = None) -> dict[str, Any]:
        ids = torch.tensor(layout.rows, device=self.device)
        inputs: dict[str, Any] = {"input_ids": ids, "use_cache": False}
        n_before = self.n_virtual if root else 0
        if root or not self.n_virtual:  # PEFT counts positions for virtual tokens itself
            inputs["position_ids"] = torch.tensor(layout.positions, device=self.device) + n_before
        if root:
            inputs["past_key_values"] = root
        if mask:
            lengths = torch.tensor(layout.lengths, device=self.device) + n_before
            inputs["attention_mask"] = (
                torch.arange(ids.shape[1] + n_before, device=self.device) < lengths[:, None]
            ).long()
        return inputs

    def precision(self) -> contextlib.AbstractContextManager[None]:
        narrow = self.dtype == "bfloat16"
        return torch.autocast(self.device.type, torch.bfloat16, enabled=narrow)

    def answering(self) -> contextlib.AbstractContextManager[None]:
        """Makes this policy's adapter the one that answers, and puts back the one before."""
        return answering(self.model, self.adapter)


class AnswerLogps(Protocol):
    """Whatever tells log-probabilities of answers: a policy, or what one said before."""

    def answer_logps(self, batch: Batch) -> Tensor:
        """(B,): the sum of an answer's token log-probabilities."""


class Teacher(Protocol):
    """Whoever tells what a teacher expects: a policy, or what one said before."""

    def expects(self, trees: Sequence[Tree], deep: bool = False) -> Expected | Noted | Aligned:
        """What stands before every trained token; `deep`, of one that is in memory, with the states of every layer."""


@dataclass
class Models:
    """The models that an objective may ask. Each is None unless the objective `needs` it."""

    policy: Policy
    reference: "AnswerLogps | None" = None
    critic: "Scorer | None" = None
    teacher: Teacher | None = None
    bridge: "Bridge | None" = None

    def trained(self) -> dict[str, nn.Parameter]:
        """Every weight that is trained, by a name that a checkpoint can hold; those that two models share once."""
        found = {name: p for name, p in self.policy.model.named_parameters() if p.requires_grad}
        known = set(map(id, found.values()))
        more = self.critic.named_parameters() if self.critic is not None else ()
        found |= {f"critic.{name}": p for name, p in more if p.requires_grad and id(p) not in known}
        beside = self.bridge.named_parameters() if self.bridge is not None else ()
        return found | {f"bridge.{name}": p for name, p in beside}


def _pad_id(tokenizer: "PreTrainedTokenizerBase", n_tokens: int) -> int:
    """Padded places are masked, so any id does; the tokenizer's own is the least surprising, where the model has it."""
    own = (tokenizer.pad_token_id, tokenizer.eos_token_id)
    return next((i for i in own if i is not None and i < n_tokens), 0)
