"""Watching while training: held-out rows are looked at every few steps, and the training backs off or stops by rule.

budget      forget at most so much: the perplexity of general text may rise by a share of what it was at the start.
            When it rises further the weights go back to the last good ones, and training goes on from there at half
            the rate and with more replayed rows, if there are any, or it ends.
patience    stop early: when the held-out loss of the objective itself has not fallen for `patience` looks, the training
            ends with the weights of its best look.

All that a rule knows is in the checkpoint, so a killed run decides as one that was never stopped.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

import torch
from torch import Tensor

from posttrain.data.batch import Batch
from posttrain.functional.layout import Tree
from posttrain.models.policy import Models

from .job import Job
from .method import Objective

SAMPLE = 64  # learnt rows that are looked at
Verdict = Literal["good", "bad", "back off", "stop"]
SLOWER = 0.5  # what a budget that was crossed leaves of the learning rate


class Rule(Protocol):
    """Looks at a held-out number and judges it. `state` is all that it remembers, plain numbers and lists."""

    every: int
    batch: Batch
    state: dict[str, Any]

    def look(self, models: Models) -> float:
        """The number that is judged."""

    def judge(self, value: float, step: int) -> Verdict:
        """`good`: keep these weights. `bad`: go on. `back off` and `stop`: go back to those that were kept last."""

    def told(self, step: int) -> str:
        """One line about the last judgement, where there is something to say."""

    def facts(self, models: Models) -> dict[str, Any]:
        """What the artifact records of it, once the training is over."""


class Budget:
    """A forgetting budget: perplexity on `trees` rises by at most the share `at_most`. What is paid for it is told with
    it: the perplexity of some of the rows that are `learnt`, where they are texts or answers and not pairs."""

    def __init__(
        self,
        trees: Sequence[Tree],
        at_most: float,
        every: int,
        then: Literal["back_off", "stop"],
        learnt: Sequence[Tree] = (),
    ) -> None:
        self.batch, self.at_most, self.every, self.then = Batch(tuple(trees)), at_most, every, then
        sample = learnt[:: -(-len(learnt) // SAMPLE) or 1]
        self.learnt = Batch(tuple(tree for tree in sample if _is_one_answer(tree)))
        self.state: dict[str, Any] = {"before": 0.0, "value": 0.0, "kept": 0.0, "crossed": [], "unlearnt": None}

    def look(self, models: Models) -> float:
        """Nats per token."""
        if self.state["unlearnt"] is None:
            self.state["unlearnt"] = _nats(models, self.learnt)
        return _nats(models, self.batch)

    def judge(self, value: float, step: int) -> Verdict:
        state = self.state
        state["value"] = value
        if step == 0:
            state["before"] = value
        if value - state["before"] <= math.log1p(self.at_most):
            state["kept"] = value
            return "good"
        state["crossed"].append(step)
        return "stop" if self.then == "stop" else "back off"

    def told(self, step: int) -> str:
        if self.state["crossed"][-1:] != [step]:
            return ""
        before, now = (math.exp(min(self.state[name], 700)) for name in ("before", "value"))
        does = "training stops there" if self.then == "stop" else "half the learning rate from here on"
        return (
            f"step {step}: perplexity of general text {before:.2f} -> {now:.2f}, more than {self.at_most:.0%} above; back "
            f"to the last good weights, {does}"
        )

    def facts(self, models: Models) -> dict[str, Any]:
        """Perplexity of general and of learnt rows before and after, and the steps at which the budget was crossed."""
        found: dict[str, Any] = {"general": _perplexities(self.state["before"], self.state["kept"])}
        if self.learnt.trees:
            found["learnt"] = _perplexities(self.state["unlearnt"], _nats(models, self.learnt))
        return {**found, "at_most": self.at_most, "crossed_at": list(self.state["crossed"])}


def _nats(models: Models, batch: Batch) -> float:
    """Nats per trained token; 0 where there is none."""
    return -float(models.policy.score(batch).sum()) / batch.counts().tokens if batch.trees else 0.0


def _perplexities(before: float, after: float) -> dict[str, float]:
    return {"before": math.exp(min(before, 700)), "after": math.exp(min(after, 700))}


class Patience:
    """Early stopping: the objective's held-out loss on `trees` must fall within `patience` looks."""

    def __init__(self, trees: Sequence[Tree], objective: Objective, every: int, patience: int) -> None:
        self.batch, self.objective = Batch(tuple(trees)), objective
        self.every, self.patience = every, patience
        self.state: dict[str, Any] = {"best": math.inf, "best_at": 0, "waited": 0}

    @torch.no_grad()
    def look(self, models: Models) -> float:
        """The loss over all rows."""
        batch, total = self.objective.prepare(self.batch, models), self.batch.counts()
        parts = batch.split(models.policy.micro_tokens)
        return sum(float(self.objective.loss(models, micro, total)[0]) for micro in parts)

    def judge(self, value: float, step: int) -> Verdict:
        state = self.state
        if value < state["best"]:
            state.update(best=value, best_at=step, waited=0)
            return "good"
        state["waited"] += 1
        return "stop" if state["waited"] >= self.patience else "bad"

    def told(self, step: int) -> str:
        if self.state["waited"] < self.patience:
            return ""
        return f"step {step}: no lower held-out loss for {self.patience} looks; back to step {self.state['best_at']}"

    def facts(self, models: Models) -> dict[str, Any]:
        """The step whose weights were kept, and their held-out loss."""
        return {"best_step": self.state["best_at"], "held_out_loss": self.state["best"]}


def _is_one_answer(tree: Tree) -> bool:
    """Whether a tree has one answer to learn: pairs have two, and what is asked alone has none yet."""
    return len(tree.branches) == 1 and tree.branches[0].n_trained() > 0


@dataclass
class Kept:
    """Weights, and the optimizer's state with them, as they were at a look."""

    weights: list[Tensor]
    optimizer: dict[str, Any]


@dataclass
class Watch:
    """The rules of one training, the one with the last word first. `backed_off` counts how often a rule made it go on
    more carefully; `ended` says that one stopped it."""

    rules: Sequence[Rule] = ()
    backed_off: int = 0
    ended: bool = False
    kept: dict[int, Kept] = field(default_factory=dict)

    @property
    def times(self) -> float:
        """What is left of the learning rate."""
        return SLOWER**self.backed_off

    def begin(self, models: Models, optimizer: torch.optim.Optimizer) -> None:
        """The first look, before the first step."""
        for n, rule in enumerate(self.rules):
            rule.judge(rule.look(models), 0)
            self.kept[n] = _keep(models, optimizer)

    def after(self, step: int, of: int, models: Models, optimizer: torch.optim.Optimizer, job: Job) -> None:
        """Looks where a look is due: at every n-th step, and at the last."""
        for n in [n for n, rule in enumerate(self.rules) if step % rule.every == 0 or step == of]:
            went_back = self._look(n, step, of, models, optimizer, job)
            if n > 0 and went_back:  # to weights that the first rule may not have seen
                self._look(0, step, of, models, optimizer, job)
            if self.ended:
                return

    def _look(self, n: int, step: int, of: int, models: Models, optimizer: torch.optim.Optimizer, job: Job) -> bool:
        """Whether the weights went back to earlier ones."""
        rule = self.rules[n]
        verdict = rule.judge(rule.look(models), step)
        if text := rule.told(step):
            job.emit("alert", level="warning", title=text, cure="")
        if verdict == "good":
            self.kept[n] = _keep(models, optimizer)
        elif verdict != "bad" or step == of:
            _put_back(models, optimizer, self.kept[n])
            self.backed_off += verdict == "back off"
            self.ended |= verdict == "stop"
            return True
        return False

    def state_dict(self) -> dict[str, Any]:
        """All of it, for the checkpoint."""
        kept = {n: {"weights": k.weights, "optimizer": k.optimizer} for n, k in self.kept.items()}
        rules = [rule.state for rule in self.rules]
        return {"backed_off": self.backed_off, "ended": self.ended, "rules": rules, "kept": kept}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Puts back what a checkpoint holds."""
        self.backed_off, self.ended = state["backed_off"], state["ended"]
        for rule, known in zip(self.rules, state["rules"], strict=True):
            rule.state.update(known)
        self.kept = {n: Kept(**kept) for n, kept in state["kept"].items()}


def _keep(models: Models, optimizer: torch.optim.Optimizer) -> Kept:
    return Kept([p.detach().clone() for p in models.trained().values()], _copied(optimizer.state_dict()))


def _copied(value: Any) -> Any:
    if isinstance(value, Tensor):
        return value.clone()
    if isinstance(value, dict):
        return {name: _copied(each) for name, each in value.items()}
    return [_copied(each) for each in value] if isinstance(value, list) else value


@torch.no_grad()
def _put_back(models: Models, optimizer: torch.optim.Optimizer, kept: Kept) -> None:
    for weight, value in zip(models.trained().values(), kept.weights, strict=True):
        weight.copy_(value)
    optimizer.load_state_dict(_copied(kept.optimizer))
