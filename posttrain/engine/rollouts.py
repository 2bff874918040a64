"""Rollouts: the policy answers prompts, the answers are scored, and the batch of a step is made of them.

A step's prompts, draws and batch depend on the step, the seed and the weights alone, so a killed run draws the same
answers again. An answer that gets no verdict is counted and left out: nothing is learnt from it.

Columns of the batch, (B,) each: `reward`; `finished`, 1 where the answer ended by itself, and `penalty`, its price where
it did not; `group`, the number of its prompt; `longest`, the most tokens it could have; `kl_coefficient`, what a nat away from the reference costs at this step.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from posttrain.data.batch import Batch
from posttrain.data.chat import ChatFormat
from posttrain.functional.layout import Branch, Tree, answer_order
from posttrain.functional.policy_gradient import adapted
from posttrain.functional.seeds import seed_of
from posttrain.models.policy import Models
from posttrain.models.sampler import Sampler, Sampling
from posttrain.schema.errors import DataError
from posttrain.schema.rows import Prompt

from .diagnosis import Diagnosis
from .job import Job
from .rewarding import Rewarding, Scores
from .source import Source, order_of

MOST_UNJUDGED = 0.5  # share of answers without a verdict above which a training makes no sense


@dataclass(frozen=True)
class Asked:
    """A prompt and its tokens."""

    row: Prompt
    ids: tuple[int, ...]


@dataclass(frozen=True)
class Answer:
    """What the policy wrote, as tokens and as text, and whether it ended by itself; where no token ends an answer, every
    answer is as long as it may be, and ended."""

    asked: Asked
    group: int
    tokens: tuple[int, ...]
    text: str
    finished: bool


@dataclass(frozen=True)
class KLRule:
    """What a nat away from the reference costs, and how that adapts to a `target` in nats an answer, over `horizon`
    answers."""

    coefficient: float
    target: float | None = None
    horizon: int = 10_000


@dataclass
class FromRollouts(Source):
    """Batches of `n_prompts` prompts with `n_answers` answers each, of at most `tree_tokens` tokens in one tree."""

    asked: Sequence[Asked]
    sampler: Sampler
    form: ChatFormat
    rewarding: Rewarding
    sampling: Sampling
    kl: KLRule
    n_prompts: int
    n_answers: int
    seed: int
    tree_tokens: int
    missing_end: float = 0.0
    coefficient: float = field(init=False)
    diagnosis: Diagnosis = field(init=False)
    _told: dict[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.coefficient, self.diagnosis = self.kl.coefficient, Diagnosis(self.kl.target)

    @property
    def steps_per_epoch(self) -> int:
        return -(-len(self.asked) // self.n_prompts)

    def draw(self, step: int, models: Models) -> Batch:
        epoch, place = divmod(step, self.steps_per_epoch)
        order = order_of(len(self.asked), self.seed, epoch)
        chosen = [self.asked[row] for row in order[place * self.n_prompts : (place + 1) * self.n_prompts].tolist()]
        answers = self._answers(chosen, seed_of(self.seed, step))
        batch, answers = _planted(answers, self.tree_tokens)
        scores = self.rewarding.scores([a.asked.row for a in answers], [a.text for a in answers], batch)
        rewards = self.rewarding.total(scores)
        self._told = _told(answers, rewards, scores)
        _refuse_unjudged(scores, rewards)
        return self._judged(batch, answers, rewards)

    def _answers(self, chosen: Sequence[Asked], seed: int) -> list[Answer]:
        drawn = self.sampler.sample([each.ids for each in chosen], self.sampling, seed, n=self.n_answers)
        return [
            Answer(
                chosen[i // self.n_answers],
                i // self.n_answers,
                tuple(ids),
                self.form.read_answer(ids),
                not self.form.stop_ids or (bool(ids) and ids[-1] in self.form.stop_ids),
            )
            for i, ids in enumerate(drawn)
        ]

    def _judged(self, batch: Batch, answers: Sequence[Answer], rewards: Sequence[float | None]) -> Batch:
        """The batch without answers that have no verdict, with what is known of the others."""
        kept = [place for place, reward in enumerate(rewards) if reward is not None]
        known = {id(answers[place]): rewards[place] for place in kept}
        if len(kept) < len(answers):
            together = sorted((answers[place] for place in kept), key=lambda answer: answer.group)
            batch, answers = _planted(together, self.tree_tokens)
        finished = torch.tensor([float(answer.finished) for answer in answers])
        return batch.having(
            reward=torch.tensor([known[id(answer)] for answer in answers]),
            finished=finished,
            penalty=self.missing_end * (1 - finished),
            group=torch.tensor([answer.group for answer in answers]),
            longest=torch.full((len(answers),), self.sampling.max_new_tokens),
            kl_coefficient=torch.full((len(answers),), self.coefficient),
        )

    def told(self) -> Mapping[str, float]:
        return {**self._told, "kl_coefficient": self.coefficient}

    def heard(self, step: int, sums: Mapping[str, float], job: Job) -> None:
        """Lets the price of KL follow its target, and says what looks wrong."""
        if self.kl.target is not None and "kl" in sums:
            n = self.n_prompts * self.n_answers
            self.coefficient = adapted(self.coefficient, sums["kl"], self.kl.target, n, self.kl.horizon)
        for title, cure in self.diagnosis.of(step, sums):
            job.emit("alert", level="warning", title=f"step {step}: {title}", cure=cure)

    def state_dict(self) -> dict[str, Any]:
        return {"coefficient": self.coefficient, "diagnosis": self.diagnosis.state}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.coefficient = state["coefficient"]
        self.diagnosis.state = state["diagnosis"]


def _planted(answers: Sequence[Answer], tree_tokens: int) -> tuple[Batch, list[Answer]]:
    """Answers as trees, those to one prompt together as far as they fit, and the answers in the order of the batch."""
    trees: list[list[Answer]] = []
    for answer in answers:
        room = tree_tokens - len(answer.asked.ids) - sum(len(a.tokens) for a in trees[-1]) if trees else 0
        if not trees or trees[-1][0].group != answer.group or room < len(answer.tokens):
            trees.append([])
        trees[-1].append(answer)
    grown = tuple(
        Tree(tree[0].asked.ids, tuple(Branch(a.tokens, (True,) * len(a.tokens)) for a in tree)) for tree in trees
    )
    return Batch(grown), [trees[tree][branch] for _, tree, branch in answer_order(grown)]


def _refuse_unjudged(scores: Scores, rewards: Sequence[float | None]) -> None:
    """Raises DataError where so many answers have no verdict that the others say little."""
    n_judged = sum(reward is not None for reward in rewards)
    if n_judged and n_judged >= (1 - MOST_UNJUDGED) * len(rewards):
        return
    missing = {name: sum(score is None for score in each) for name, each in scores.items()}
    told = ", ".join(f"{n} from {name}" for name, n in missing.items() if n)
    raise DataError(
        f"Of {len(rewards)} answers, so many got no verdict (None or NaN: {told}) that there is too little to learn from. "
        "Correct what scores them, or leave it out of `reward`."
    )


def _told(answers: Sequence[Answer], rewards: Sequence[float | None], scores: Scores) -> dict[str, float]:
    judged = [reward for reward in rewards if reward is not None]
    told = {
        "reward": sum(judged) / max(len(judged), 1),
        "answer_tokens": sum(len(answer.tokens) for answer in answers) / len(answers),
        "finished": sum(answer.finished for answer in answers) / len(answers),
    }
    if len(judged) < len(rewards):
        told["unjudged"] = float(len(rewards) - len(judged))
    if len(scores) > 1:
        for name, each in scores.items():
            known = [score for score in each if score is not None]
            told[f"reward_{name}"] = sum(known) / max(len(known), 1)
    return told


def without_prompts_too_long(asked: Sequence[Asked], longest: int) -> tuple[list[Asked], int]:
    """Prompts that leave room for an answer, and how many do not. Raises DataError when none is left."""
    fitting = [each for each in asked if len(each.ids) < longest]
    if not fitting:
        raise DataError(
            f"None of the {len(asked)} prompts leaves room for an answer within {longest} tokens. Raise `max_length`, or "
            "shorten the prompts."
        )
    return fitting, len(asked) - len(fitting)
