"""Watching while training: held-out rows are looked at every few steps, and the training backs off or stops by rule.

budget      forget at most so much: the perplexity of general text may rise by a share of what it was at the start.
            When it rises further the weights go back to the last good ones, and the rate is halved, or it ends there.
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
from posttrain.models.policy import Models, Policy

from .job import Job
from .method import Objective

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

    def facts(self) -> dict[str, Any]:
        """What the artifact records of it."""


class Budget:
    """A forgetting budget: perplexity on `trees` rises by at most the share `at_most`."""

    def __init__(self, trees: Sequence[Tree], at_most: float, every: int, then: Literal["back_off", "stop"]) -> None:
        self.batch, self.at_most, self.every, self.then = Batch(tuple(trees)), at_most, every, then
        self.state: dict[str, Any] = {"before": 0.0, "value": 0.0, "kept": 0.0, "crossed": []}

    def look(self, models: Models) -> float:
        """Nats per token."""
        return -float(models.policy.score(self.batch).sum()) / self.batch.counts().tokens

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
        does = "training stops there" if self.then == "stop" else "half the learning rate from here"
        return (
            f"step {step}: perplexity of general text {before:.2f} -> {now:.2f}, more than {self.at_most:.0%} above; back "
            f"to the last good weights, {does}"
        )

    def facts(self) -> dict[str, Any]:
        """Perplexity before and of the weights that were kept, and the steps at which the budget was crossed."""
        before, after = (math.exp(min(self.state[name], 700)) for name in ("before", "kept"))
        return {"perplexity_before": before, "perplexity_after": after, "crossed_at": list(self.state["crossed"])}


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

    def facts(self) -> dict[str, Any]:
        """The step whose weights were kept, and their held-out loss."""
        return {"best_step": self.state["best_at"], "held_out_loss": self.state["best"]}


@dataclass
class Kept:
    """Weights, and the optimizer's state with them, as they were at a look."""

    weights: list[Tensor]
    optimizer: dict[str, Any]


@dataclass
class Watch:
    """The rules of one training. `times` is what is left of the learning rate; `ended` says that a rule stopped it."""

    rules: Sequence[Rule] = ()
    times: float = 1.0
    ended: bool = False
    kept: dict[int, Kept] = field(default_factory=dict)

    def begin(self, models: Models, optimizer: torch.optim.Optimizer) -> None:
        """The first look, before the first step."""
        for n, rule in enumerate(self.rules):
            rule.judge(rule.look(models), 0)
            self.kept[n] = _keep(models.policy, optimizer)

    def after(self, step: int, of: int, models: Models, optimizer: torch.optim.Optimizer, job: Job) -> None:
        """Looks where a look is due: at every n-th step, and at the last."""
        due = [(n, rule) for n, rule in enumerate(self.rules) if step % rule.every == 0 or step == of]
        for n, rule in due:
            if self.ended:
                return
            verdict = rule.judge(rule.look(models), step)
            if text := rule.told(step):
                job.emit("alert", level="warning", title=text, cure="")
            if verdict == "good":
                self.kept[n] = _keep(models.policy, optimizer)
            elif verdict != "bad" or step == of:
                _put_back(models.policy, optimizer, self.kept[n])
                self.times *= SLOWER if verdict == "back off" else 1.0
                self.ended = verdict == "stop"

    def state_dict(self) -> dict[str, Any]:
        """All of it, for the checkpoint."""
        kept = {n: {"weights": k.weights, "optimizer": k.optimizer} for n, k in self.kept.items()}
        return {"times": self.times, "ended": self.ended, "rules": [rule.state for rule in self.rules], "kept": kept}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Puts back what a checkpoint holds."""
        self.times, self.ended = state["times"], state["ended"]
        for rule, known in zip(self.rules, state["rules"], strict=True):
            rule.state.update(known)
        self.kept = {n: Kept(**kept) for n, kept in state["kept"].items()}


def _keep(policy: Policy, optimizer: torch.optim.Optimizer) -> Kept:
    return Kept([p.detach().clone() for p in policy.trainable()], _copied(optimizer.state_dict()))


def _copied(value: Any) -> Any:
    if isinstance(value, Tensor):
        return value.clone()
    if isinstance(value, dict):
        return {name: _copied(each) for name, each in value.items()}
    return [_copied(each) for each in value] if isinstance(value, list) else value


@torch.no_grad()
def _put_back(policy: Policy, optimizer: torch.optim.Optimizer, kept: Kept) -> None:
    for weight, value in zip(policy.trainable(), kept.weights, strict=True):
        weight.copy_(value)
    optimizer.load_state_dict(_copied(kept.optimizer))
