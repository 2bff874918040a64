"""Direct: one question, as the row has it."""

from posttrain.engine.attack import Ask
from tests.besieged import attack, goal, played, scene


def test_the_row_is_asked_as_it_stands_and_once():
    asked = goal(system="Be kind.")
    assert played(attack("direct"), asked, scene()) == [Ask(asked.row.messages)]
