"""What goes wrong in reinforcement learning, told while it runs: each sign once, with its likely cause and a cure.

negative KL         log pi - log ref is below 0 on answers drawn from pi only by chance, or where they are not drawn from
                    it: a mean over several steps that stays below says the latter, or that too few are drawn
exploding KL        the policy leaves the reference faster than its price holds it
clip share          updates go further than the answers that they are made from can tell
entropy             the policy says one thing only, so nothing new is tried
length drift        answers grow or shrink: what the reward likes by the way
critic              worse than knowing the mean alone: advantages are noise. It says nothing once all returns are alike,
                    as those of a policy that has learnt its task
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

WINDOW = 8  # steps that are looked at together
NEGATIVE_KL = -0.2  # nats an answer
FAR_KL = 20.0  # nats an answer, where no target is given
MUCH_CLIPPED = 0.4
LITTLE_ENTROPY = 0.1  # of what it was at the start
LONGER, SHORTER = 2.0, 0.5  # times the length at the start
ALIKE = 0.5  # of the spread of returns at the start, below which there is little for a critic to explain
UNFINISHED = 0.5


@dataclass
class Diagnosis:
    """Looks at the metrics of each step. `state` are the means of the first steps, the last few steps, and what was said."""

    kl_target: float | None = None
    state: dict[str, Any] = field(default_factory=lambda: {"first": {}, "last": [], "said": []})

    def of(self, step: int, sums: Mapping[str, float]) -> Iterator[tuple[str, str]]:
        """(what is seen, what to do) for each sign that was not told before."""
        state = self.state
        state["last"] = [*state["last"], {name: sums[name] for name in WATCHED if name in sums}][-WINDOW:]
        if len(state["last"]) < WINDOW:
            return
        mean = {name: sum(each[name] for each in state["last"]) / WINDOW for name in state["last"][-1]}
        state["first"] = state["first"] or mean
        for name, (title, cure) in self._signs(mean).items():
            if name not in state["said"]:
                state["said"] = [*state["said"], name]
                yield title, cure

    def _signs(self, mean: Mapping[str, float]) -> dict[str, tuple[str, str]]:
        first, found = self.state["first"], {}
        kl, far = mean.get("kl", 0.0), 2 * self.kl_target if self.kl_target else FAR_KL
        if kl < NEGATIVE_KL:
            found["negative KL"] = (
                f"KL to the reference is {kl:.2f} nats an answer, below 0: these are too few answers to tell, or they are "
                "not drawn from the policy that learns",
                "Draw more answers a step (`batch_size`, `answers`); if it stays, look at what changes the sampling.",
            )
        if kl > far:
            found["exploding KL"] = (
                f"KL to the reference is {kl:.1f} nats an answer, the policy runs away from it",
                "Raise `kl`, give a `kl_target`, or lower `learning_rate`.",
            )
        if mean.get("clipped", 0.0) > MUCH_CLIPPED:
            found["clipped"] = (
                f"{mean['clipped']:.0%} of the tokens are held back by the clip: updates go too far from their answers",
                "Lower `learning_rate`, `passes` or `minibatches`.",
            )
        if "entropy" in mean and mean["entropy"] < LITTLE_ENTROPY * first["entropy"]:
            found["entropy"] = (
                f"entropy fell from {first['entropy']:.2f} to {mean['entropy']:.2f} nats a token: the policy hardly tries "
                "anything new",
                "Raise `kl` or `temperature`, or stop earlier.",
            )
        found |= _of_lengths(first, mean)
        spread = mean.get("returns_spread", 0.0)
        if mean.get("explained_variance", 0.0) < 0 and first is not mean and spread > ALIKE * first["returns_spread"]:
            found["critic"] = (
                f"the critic explains {mean['explained_variance']:.0%} of the returns' variance, less than their mean would",
                "Raise `critic_rate`, begin with a reward model, or draw more answers a step.",
            )
        return found


def _of_lengths(first: Mapping[str, float], mean: Mapping[str, float]) -> dict[str, tuple[str, str]]:
    found = {}
    if not SHORTER < mean["answer_tokens"] / max(first["answer_tokens"], 1e-9) < LONGER:
        found["length"] = (
            f"answers went from {first['answer_tokens']:.0f} to {mean['answer_tokens']:.0f} tokens: the reward may pay for "
            "length and not for what is said",
            "Look at the report's samples, and at the reward's length correlation (`reward_quality`).",
        )
    if mean["finished"] < UNFINISHED:
        found["unfinished"] = (
            f"only {mean['finished']:.0%} of the answers end by themselves",
            "Raise `max_new_tokens`, or `missing_end`, the price of an answer that does not end.",
        )
    return found


WATCHED = ("kl", "clipped", "entropy", "explained_variance", "returns_spread", "answer_tokens", "finished", "reward")
