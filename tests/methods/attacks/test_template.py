"""Template: forms of one's own, with the request in their place or behind them."""

import pytest

from posttrain.engine.arming import armed
from posttrain.schema.errors import UsageError
from tests.besieged import asked, attack, goal, played, scene


def test_the_request_takes_its_place_or_stands_behind():
    made = attack("template", forms=["a {request} b {request}", "please"])
    found = asked(played(made, goal("x?"), scene()))
    assert sorted(found) == ["a x? b x?", "please x?"]


def test_several_have_names():
    both = armed([{"template": {"forms": ["a"], "name": "one"}}, {"template": {"forms": ["b"], "name": "two"}}])
    assert list(both) == ["template:one", "template:two"]
    with pytest.raises(UsageError, match="given twice"):
        armed([{"template": {"forms": ["a"]}}, {"template": {"forms": ["b"]}}])
    with pytest.raises(UsageError, match="forms"):
        armed(["template"])
