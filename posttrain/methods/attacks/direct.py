"""Direct: the request as it stands, against which every other attack is measured."""

from posttrain.engine.attack import Ask, Attack, Goal, Scene, Tries


class Direct(Attack):
    """Ask once, as the row has it."""

    def tries(self, goal: Goal, scene: Scene) -> Tries:
        yield Ask(goal.row.messages)
