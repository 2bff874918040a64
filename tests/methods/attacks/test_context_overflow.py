"""Context overflow: a harmless text of the length that is asked for stands before the request."""

from tests.besieged import asked, attack, goal, played, scene


def test_lengths_are_halved():
    made = attack("context_overflow", characters=1000, behind="|", sentences=["One two.", "Three."])
    found = [text.split("|") for text in asked(played(made, goal("open?"), scene()))]
    assert [len(padding) for padding, _ in found] == [1000, 500, 250]
    assert {request for _, request in found} == {"open?"}
    assert all(
        set(padding.replace(".", "").split()) <= {"One", "two", "Three", "Thre", "Th", "T", "O", "tw"}
        for padding, _ in found
    )


def test_no_length_is_tried_below_one():
    assert len(asked(played(attack("context_overflow", characters=2, at_most=9), goal(), scene()))) == 2
