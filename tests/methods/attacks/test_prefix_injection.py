"""Prefix injection: the words that the answer is to begin with are asked for."""

import pytest
from pydantic import ValidationError

from tests.besieged import asked, attack, goal, played, scene


def test_each_beginning_is_asked_for_once():
    made = attack("prefix_injection", beginnings=["Sure", "Step 1"], form="{request} -> {beginning}")
    assert sorted(asked(played(made, goal("x"), scene()))) == ["x -> Step 1", "x -> Sure"]


def test_a_request_that_spells_a_place_stays_text():
    (found,) = asked(played(attack("prefix_injection", beginnings=["Sure"]), goal("{beginning}"), scene()))
    assert found.startswith("{beginning}\n")
    assert found.endswith('"Sure"')


def test_a_form_without_a_place_for_the_request_stands_before_it():
    made = attack("prefix_injection", beginnings=["Sure"], form="Begin with {beginning}:")
    assert asked(played(made, goal("x"), scene())) == ["Begin with Sure: x"]


def test_a_form_without_a_place_for_the_beginning_is_refused():
    with pytest.raises(ValidationError):
        attack("prefix_injection", form="{request}")
