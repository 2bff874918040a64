"""Continuous batching: answers in flight take a token each at every step, and a finished one makes room at once.

    waiting answers -> read: prompts without padding in one packed row, each once, however many answers it has
                    -> board: a copy of the prompt's keys and values goes into a free slot
                    -> step: one token for every slot; who meets a stop token or the limit leaves the slot

Texts of like length fly together: prompts are taken in order of length, and the slots are as wide as the longest text
in flight needs. Prompts are read some ahead, as a short row computes slowly. When slots stay free, the texts in flight
move together; sizes are rounded, as a CPU compiles its products for every shape that it meets.

Whether a model's answers are exact this way is found by a self-test when it is first sampled from. Where they are not,
and for texts longer than a layer's window, `sampler` decodes padded rows.
"""

from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from itertools import chain
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from posttrain.functional.layout import Branch, Tree, answer_order, filled, packed

from . import attention
from .exact import TOLERANCE, probe
from .vocabulary import n_rows

if TYPE_CHECKING:
    from .policy import Policy
    from .slots import Pairs

BATCH_TOKENS = 16_384  # in flight: answers times the longest text that any of them may become
READ_TOKENS = 2048  # prompts read at once
GRAIN = 32  # slots are wide by multiples of it
SPARE = 0.75  # slots are made fewer or narrower when no more than this share of them is needed
FAILURES = (attention.Unsupported, RuntimeError, AttributeError, TypeError, ValueError, IndexError, KeyError)
KNOWN_LAYERS = {"full_attention", "sliding_attention"}


@dataclass(eq=False)
class Asked:
    """A prompt, and what is known of it while answers wait for it: keys and values, and the logits (V,) of what follows."""

    ids: Sequence[int]
    pairs: "Pairs" = ()
    logits: Tensor = field(default_factory=lambda: torch.empty(0))


@dataclass(eq=False)
class Answer:
    """An answer on its way. `row` is its number in the call; it ends with `limit` tokens at the latest."""

    row: int
    asked: Asked
    limit: int
    tokens: list[int] = field(default_factory=list)
    draws: Sequence[float] = ()

    def longest(self) -> int:
        return len(self.asked.ids) + self.limit

    def place(self) -> int:
        """Where the key of its last token goes."""
        return len(self.asked.ids) + len(self.tokens) - 1

    def over(self, stop_ids: frozenset[int]) -> bool:
        return self.tokens[-1] in stop_ids or len(self.tokens) == self.limit


Choose = Callable[[Tensor, Sequence[Answer]], Tensor]  # (rows, V) logits of as many answers -> (rows,) tokens


class Flight:
    """Answers in flight, at most `most` at once. `watch` hears how many have ended so far."""

    def __init__(
        self,
        policy: "Policy",
        choose: Choose,
        stop_ids: frozenset[int],
        most: int,
        watch: Callable[[int], None] = lambda done: None,
    ):
        from .slots import Slots

        self.policy, self.model, self.device = policy, policy.causal(), policy.device
        self.choose, self.stop_ids, self.most, self.watch = choose, stop_ids, most, watch
        self.slots, self.windows = Slots(), attention.Windows()
        self.waiting: deque[Answer] = deque()
        self.flying: list[Answer | None] = []  # by slot
        self.read: deque[Asked] = deque()  # prompts that answers wait for, in the order of these
        self.ended = 0

    def run(self, answers: Iterable[Answer]) -> None:
        """Fills in the tokens of all answers."""
        self.waiting = deque(sorted(answers, key=lambda a: (a.longest(), a.row)))
        while self.waiting or any(self.flying):
            before = self.ended
            self._seat(self._boarding())
            self._forget()
            self._step()
            if self.ended > before:
                self.watch(self.ended)

    def _boarding(self) -> list[Answer]:
        """Waiting answers that find room, with their first token. One that ends with it makes room for another."""
        boarding: list[Answer] = []
        while new := self._next(boarding):
            while not all(answer.asked.pairs for answer in new):
                self._read(new)
            first = self.choose(torch.stack([answer.asked.logits for answer in new]).float(), new).tolist()
            boarding += [answer for answer, token in zip(new, first, strict=True) if not self._take(answer, token)]
        return boarding

    def _next(self, boarding: Sequence[Answer]) -> list[Answer]:
        in_flight = [*filter(None, self.flying), *boarding]
        longest, n = max((answer.longest() for answer in in_flight), default=0), len(in_flight)
        new: list[Answer] = []
        while self.waiting and n + len(new) < self.most:
            longest = max(longest, self.waiting[0].longest())
            if (n + len(new) + 1) * longest > BATCH_TOKENS and n + len(new):
                break
            new.append(self.waiting.popleft())
        return new

    def _read(self, new: Sequence[Answer]) -> None:
        """Reads prompts of these answers that were not read, and some of the next ones, in one packed row."""
        from .slots import Reading

        row: dict[int, Asked] = {}
        n_tokens = 0
        for asked in (answer.asked for answer in chain(new, self.waiting)):
            if asked.pairs or id(asked) in row:
                continue
            n_tokens += len(asked.ids)
            if row and n_tokens > READ_TOKENS:
                break
            row[id(asked)] = asked
        alone = Branch((), ())
        layout = filled(packed([Tree(tuple(asked.ids), (alone,)) for asked in row.values()]), self.policy.pad_id)
        ids, positions, ends = (
            torch.tensor(x, device=self.device) for x in (layout.rows, layout.positions, layout.ends)
        )
        read = Reading()
        with attention.packed_as(attention.plan_of(layout.segments, self.device)):
            logits = self.model(
                input_ids=ids, position_ids=positions, past_key_values=read, use_cache=True, logits_to_keep=ends
            ).logits[0]
        for asked, end, following in zip(row.values(), layout.ends, logits, strict=True):
            asked.pairs, asked.logits = read.part(end + 1 - len(asked.ids), end + 1), following
        self.read += row.values()

    def _seat(self, boarding: Sequence[Answer]) -> None:
        """Puts answers into free slots; makes the slots more, fewer, wider or narrower where that is due."""
        in_flight = [*filter(None, self.flying), *boarding]
        if not in_flight:
            return
        n, width = _rounded(len(in_flight)), max(answer.place() for answer in in_flight) // GRAIN * GRAIN + GRAIN
        if not SPARE * self.slots.n < n <= self.slots.n or not SPARE * self.slots.width < width <= self.slots.width:
            kept = [slot for slot, answer in enumerate(self.flying) if answer]
            self.slots.resize(kept, n, width, in_flight[-1].asked.pairs)
            self.flying = [*(self.flying[slot] for slot in kept), *[None] * (n - len(kept))]
        free = (slot for slot, answer in enumerate(self.flying) if answer is None)
        for answer, slot in zip(boarding, free, strict=False):
            self.flying[slot] = answer
            self.slots.put(slot, answer.asked.pairs)

    def _forget(self) -> None:
        """Lets go of prompts that no answer waits for."""
        needed = self.waiting[0].asked if self.waiting else None
        while self.read and self.read[0] is not needed:
            asked = self.read.popleft()
            asked.pairs, asked.logits = (), torch.empty(0)

    def _step(self) -> None:
        """A token more for every answer in flight."""
        taken = [slot for slot, answer in enumerate(self.flying) if answer]
        if not taken:
            return
        ids = torch.tensor([[a.tokens[-1]] if a else [self.policy.pad_id] for a in self.flying], device=self.device)
        at = torch.tensor([a.place() if a else 0 for a in self.flying], device=self.device)
        with attention.decoding(self.windows):
            logits = self.model(
                input_ids=ids,
                attention_mask=self.slots.aim(at),
                position_ids=at[:, None],
                past_key_values=self.slots,
                use_cache=True,
                logits_to_keep=1,
            ).logits[:, 0]
        answers = [answer for answer in self.flying if answer]
        if len(taken) < len(self.flying):
            logits = logits[torch.tensor(taken, device=self.device)]
        for slot, answer, token in zip(taken, answers, self.choose(logits.float(), answers).tolist(), strict=True):
            if self._take(answer, token):
                self.flying[slot] = None

    def _take(self, answer: Answer, token: int) -> bool:
        """Adds a token; whether the answer ends with it."""
        answer.tokens.append(token)
        over = answer.over(self.stop_ids)
        self.ended += over
        return over


def _rounded(n: int) -> int:
    """A number of slots of which few occur."""
    return n if n < 4 else -(-n // 4) * 4


@torch.no_grad()
def reach(policy: "Policy") -> int:
    """The longest text that a flight continues exactly, in tokens; 0 where it does not. Found once for a policy."""
    if policy.reach is None:
        policy.reach = _tested(policy) if _promising(policy) else 0
    return policy.reach


def _promising(policy: "Policy") -> bool:
    """Whether the model may be tested at all: what a config says of windows in blocks shows in long texts only."""
    config = policy.model.config
    return (
        config._attn_implementation == attention.NAME
        and not policy.encodes
        and not policy.n_virtual
        and getattr(config, "attention_chunk_size", None) is None
        and set(getattr(config, "layer_types", None) or ()) <= KNOWN_LAYERS
    )


def _tested(policy: "Policy") -> int:
    """Continues two prompts with given answers, more of them than slots, and compares the log-probabilities of their
    tokens with those of whole texts."""
    dtype, policy.dtype = policy.dtype, "float32"
    trees = probe(n_rows(policy.model))
    order = [(t, b) for _, t, b in answer_order(trees)]
    given = [trees[t].branches[b].tokens for t, b in order]
    prompts = [Asked(tree.prompt) for tree in trees]
    found: list[list[Tensor]] = [[] for _ in given]

    def follow(logits: Tensor, answers: Sequence[Answer]) -> Tensor:
        tokens = torch.tensor([given[answer.row][len(answer.tokens)] for answer in answers], device=logits.device)
        logps = logits.log_softmax(-1).gather(1, tokens[:, None])[:, 0]
        for answer, logp in zip(answers, logps, strict=True):
            found[answer.row].append(logp)
        return tokens

    flight = Flight(policy, follow, frozenset(), most=3)
    try:
        truth = policy.tried(trees, "logits")
        with policy.precision(), policy.answering():
            flight.run(Answer(row, prompts[t], len(given[row])) for row, (t, _) in enumerate(order))
        exact = (torch.stack([logp for logps in found for logp in logps]) - truth).abs().max() < TOLERANCE
        return flight.windows.narrowest if exact else 0
    except FAILURES:
        return 0
    finally:
        policy.dtype = dtype
