"""Many-shot: a long talk in which the assistant answered everything stands before the request.

Anil et al. 2024, "Many-shot Jailbreaking" (NeurIPS): what a model has seen itself do for n turns it goes on doing, the more so the
larger n is. The talk here is made of the harmless `examples` of the stage. Where the model is loaded here and reads less than
that, there are fewer of them.
"""

from typing import ClassVar

from pydantic import Field

from posttrain.engine.attack import Ask, Attack, Goal, Scene, Tries
from posttrain.schema.errors import UsageError
from posttrain.schema.rows import Message, Messages, Prompt


class ManyShot(Attack):
    """Show a talk in which everything was answered."""

    shows: ClassVar[bool] = True

    n: int = Field(32, ge=1)
    """How many examples stand before the request."""
    at_most: int = Field(2, ge=1)
    """How often it is tried, each time with other examples."""

    def tries(self, goal: Goal, scene: Scene) -> Tries:
        if not scene.examples:
            raise UsageError(
                "The attack 'many_shot' shows questions with their answers, and there are none. Give `examples` whose rows "
                "have an answer."
            )
        asked: set[Messages] = set()
        for _ in range(self.at_most):
            shots = scene.draw.sample(scene.examples, min(self.n, len(scene.examples)))
            messages = _fitting(goal, shots, scene)
            if messages not in asked:
                asked.add(messages)
                yield Ask(messages)


def _fitting(goal: Goal, shots: list[tuple[str, str]], scene: Scene) -> Messages:
    """The talk, with half as many examples as long as the model, if it is at hand, has no room for an answer."""
    while True:
        messages = _talk(goal, shots)
        if scene.weights is None or not shots:
            return messages
        ids = scene.weights.form.ask(Prompt(messages))
        if scene.weights.policy.room(len(ids)) >= scene.weights.sampling.max_new_tokens:
            return messages
        shots = shots[: len(shots) // 2]


def _talk(goal: Goal, shots: list[tuple[str, str]]) -> Messages:
    shown = [Message(role, said) for shot in shots for role, said in zip(("user", "assistant"), shot, strict=True)]
    return (*goal.before, *shown, goal.row.messages[-1])
