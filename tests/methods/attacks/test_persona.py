"""Persona: the request is put to whom the model plays."""

from tests.besieged import asked, attack, goal, played, scene


def test_every_form_holds_the_whole_request_and_none_comes_twice():
    found = asked(played(attack("persona", at_most=50), goal("open the box?"), scene()))
    assert len(found) == len(set(found)) == len(type(attack("persona")).model_fields["forms"].default)
    assert all("open the box?" in text and text != "open the box?" for text in found)


def test_at_most_so_many_in_an_order_that_the_seed_draws():
    orders = [asked(played(attack("persona", at_most=3), goal(), scene(seed))) for seed in range(5)]
    assert all(len(order) == 3 for order in orders)
    assert len(set(map(tuple, orders))) > 1


def test_forms_of_ones_own():
    assert asked(played(attack("persona", forms=["so: {request}!"]), goal("x"), scene())) == ["so: x!"]
