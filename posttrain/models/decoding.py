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

    def length(self) -> int:
        return len(self.asked.ids) + len(self.tokens)

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
        from .slots import InFlight

        self.policy, self.model, self.device = policy, policy.causal(), policy.device
        self.choose, self.stop_ids, self.most, self.watch = choose, stop_ids, most, watch
        self.cache: InFlight[Answer] = InFlight()
        self.slots = self.cache.answers
        self.shared = False  # whether prompts have slots of their own
        self.waiting: deque[Answer] = deque()
        self.read: deque[Asked] = deque()  # prompts that answers wait for, in the order of these
        self.ended = 0

    def run(self, answers: Iterable[Answer]) -> None:
        """Fills in the tokens of all answers."""
        self.waiting = deque(sorted(answers, key=lambda a: (a.longest(), a.row)))
        self.shared = len({id(answer.asked) for answer in self.waiting}) < len(self.waiting)
        while self.waiting or self.slots.taken():
            self._seat(self._boarding())
            self._forget()
            before = self.ended
            self._step()
            self._tell(before)

    def _tell(self, before: int) -> None:
        """Tells whoever watches when answers ended."""
        if self.ended > before:
            self.watch(self.ended)

    def _boarding(self) -> list[Answer]:
        """Waiting answers that find room, with their first token. One that ends with it makes room for another."""
        boarding: list[Answer] = []
        while new := self._next(boarding):
            while not all(answer.asked.pairs for answer in new):
                self._read(new)
            before, logits = self.ended, torch.stack([answer.asked.logits for answer in new])
            first = self.choose(logits.float(), new).tolist()
            boarding += [answer for answer, token in zip(new, first, strict=True) if not self._take(answer, token)]
            self._tell(before)
        return boarding

    def _next(self, boarding: Sequence[Answer]) -> list[Answer]:
        in_flight = [*self.slots.taken(), *boarding]
        new: list[Answer] = []
        while self.waiting and len(in_flight) < self.most:
            in_flight.append(self.waiting[0])
            if len(in_flight) > 1 and self._tokens(in_flight) > BATCH_TOKENS:
                break
            new.append(self.waiting.popleft())
        return new

    def _tokens(self, answers: Sequence[Answer]) -> int:
        """Places that the answers may come to need."""
        if not self.shared:
            return len(answers) * max(answer.longest() for answer in answers)
        prompts = {id(answer.asked): len(answer.asked.ids) for answer in answers}
        return len(prompts) * max(prompts.values()) + len(answers) * max(answer.limit for answer in answers)

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
        """Puts answers into free slots, and their prompts where these are shared."""
        in_flight = [*self.slots.taken(), *boarding]
        if not in_flight:
            return
        width = max(self._place(answer) for answer in in_flight) + 1
        if not self.shared:
            self.slots.seat([(answer, answer.asked.pairs) for answer in boarding], width)
            return
        moved = self.slots.seat([(a, [(k[:, :0], v[:, :0]) for k, v in a.asked.pairs]) for a in boarding], width)
        if boarding or moved:
            self._share(boarding, in_flight)

    def _share(self, boarding: Sequence[Answer], in_flight: Sequence[Answer]) -> None:
        from .slots import Sharing

        prompts, needed = self.cache.prompts, {id(answer.asked): answer.asked for answer in in_flight}
        prompts.owners = [asked if id(asked) in needed else None for asked in prompts.owners]
        there = {id(asked) for asked in prompts.taken()}
        new = [(asked, asked.pairs) for key, asked in needed.items() if key not in there]
        prompts.seat(new, max(len(asked.ids) for asked in needed.values()))
        slot_of = {id(asked): slot for slot, asked in enumerate(prompts.owners)}
        self.cache.sharing = Sharing(
            [slot_of[id(answer.asked)] if answer else None for answer in self.slots.owners],
            [len(asked.ids) if asked else 1 for asked in prompts.owners],
            prompts.width,
            self.device,
        )

    def _forget(self) -> None:
        """Lets go of prompts that no answer waits for."""
        needed = self.waiting[0].asked if self.waiting else None
        while self.read and self.read[0] is not needed:
            asked = self.read.popleft()
            asked.pairs, asked.logits = (), torch.empty(0)

    def _place(self, answer: Answer) -> int:
        """Where in its slot the key of an answer's last token goes."""
        return len(answer.tokens) - 1 + (0 if self.shared else len(answer.asked.ids))

    def _step(self) -> None:
        """A token more for every answer in flight."""
        owners, answers = self.slots.owners, self.slots.taken()
        if not answers:
            return
        ids, at, positions = torch.tensor(
            [(a.tokens[-1], self._place(a), a.length() - 1) if a else (self.policy.pad_id, 0, 0) for a in owners],
            device=self.device,
        ).T
        with attention.decoding(self.cache):
            logits = self.model(
                input_ids=ids[:, None],
                attention_mask=self.cache.aim(at),
                position_ids=positions[:, None],
                past_key_values=self.cache,
                use_cache=True,
                logits_to_keep=1,
            ).logits[:, 0]
        taken = [slot for slot, answer in enumerate(owners) if answer]
        if len(taken) < len(owners):
            logits = logits[torch.tensor(taken, device=self.device)]
        for slot, answer, token in zip(taken, answers, self.choose(logits.float(), answers).tolist(), strict=True):
            if self._take(answer, token):
                owners[slot] = None

    def _take(self, answer: Answer, token: int) -> bool:
        """Adds a token; whether the answer ends with it."""
        answer.tokens.append(token)
        over = answer.over(self.stop_ids)
        self.ended += over
        return over


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
    """How long a text the probe's answers may belong to; 0 where they are others than those of whole texts."""
    dtype, policy.dtype = policy.dtype, "float32"
    trees = probe(n_rows(policy.model), policy.context)
    try:
        truth = policy.tried(trees, "logits")
        return min(_continued(policy, trees, truth, shared) for shared in (True, False))
    except FAILURES:
        return 0
    finally:
        policy.dtype = dtype


def _continued(policy: "Policy", trees: Sequence[Tree], truth: Tensor, shared: bool) -> int:
    """Continues prompts with given answers, more of them than slots, each prompt read once or once an answer, and compares
    the log-probabilities of all tokens. Returns the narrowest window of a layer, 0 where they differ."""
    order = [(t, b) for _, t, b in answer_order(trees)]
    given = [trees[t].branches[b].tokens for t, b in order]
    prompts = [Asked(tree.prompt) for tree in trees]
    found: list[list[Tensor]] = [[] for _ in given]

    def follow(logits: Tensor, answers: Sequence[Answer]) -> Tensor:
        tokens = torch.tensor([given[answer.row][len(answer.tokens)] for answer in answers], device=logits.device)
        for answer, logp in zip(answers, logits.log_softmax(-1).gather(1, tokens[:, None])[:, 0], strict=True):
            found[answer.row].append(logp)
        return tokens

    flight = Flight(policy, follow, frozenset(), most=3)
    with policy.precision(), policy.answering():
        flight.run(
            Answer(row, prompts[t] if shared else Asked(trees[t].prompt), len(given[row]))
            for row, (t, _) in enumerate(order)
        )
    error = (torch.stack([logp for logps in found for logp in logps]) - truth).abs().max()
    return flight.cache.narrowest if error < TOLERANCE else 0
