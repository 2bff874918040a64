"""Budgets: by hand, and never worse than any other choice of the same loss."""

import itertools

from hypothesis import given
from hypothesis import strategies as st

from posttrain.functional.budget import Option, chosen, first_below, first_within, hull, steps

TWO = {
    "a": [Option(8, 80, 0.0), Option(4, 40, 1.0), Option(3, 30, 4.0)],
    "b": [Option(8, 80, 0.0), Option(4, 40, 0.1), Option(3, 30, 0.2)],
}


def test_the_cheapest_step_comes_first():
    found = steps(TWO)
    assert [(step.item, step.option) for step in found] == [("b", 4), ("b", 3), ("a", 4), ("a", 3)]
    assert [step.saved for step in found] == [40, 10, 40, 10]
    assert chosen(TWO, found[:2]) == {"a": 8, "b": 3}


def test_a_loss_allows_so_many_steps():
    found = steps(TWO)
    assert [first_within(found, limit, 0.0) for limit in (0.05, 0.1, 0.25, 1.3, 9)] == [0, 1, 2, 3, 4]


def test_a_size_takes_so_many_steps():
    found = steps(TWO)
    assert [first_below(found, limit, 160) for limit in (160, 150, 120, 110, 60, 59)] == [0, 1, 1, 2, 4, None]


def test_what_a_mixture_beats_is_left_out():
    assert hull([Option(8, 80, 0.0), Option(4, 40, 5.0), Option(3, 30, 5.1)]) == [
        Option(8, 80, 0.0),
        Option(3, 30, 5.1),
    ]


def test_what_is_smaller_and_no_worse_takes_the_place():
    assert hull([Option(8, 80, 0.5), Option(4, 40, 0.4), Option(3, 30, 0.6)]) == [
        Option(4, 40, 0.4),
        Option(3, 30, 0.6),
    ]


losses = st.lists(st.integers(0, 50), min_size=3, max_size=3)


@given(st.lists(losses, min_size=1, max_size=4))
def test_no_other_choice_is_smaller_at_the_same_loss(drawn: list[list[int]]):
    items = {
        str(n): [Option(bits, 10 * bits, loss) for bits, loss in zip((8, 4, 3), each, strict=True)]
        for n, each in enumerate(drawn)
    }
    of = {item: {option.name: option for option in options} for item, options in items.items()}
    found = steps(items)
    for n in range(len(found) + 1):
        ours = [of[item][name] for item, name in chosen(items, found[:n]).items()]
        size, loss = sum(each.bytes for each in ours), sum(each.loss for each in ours)
        for every in itertools.product(*items.values()):
            if sum(each.loss for each in every) <= loss:
                assert sum(each.bytes for each in every) >= size
