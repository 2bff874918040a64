"""Glossary: words of a list are put in others, and read back in the answer."""

from tests.besieged import asked, attack, goal, played, scene

WORDS = {"Box": "caja", "open": "abrir", "ship": "barco"}


def test_words_of_the_list_and_no_others_are_put():
    made = attack("glossary", words=WORDS, forms=["{request}"])
    assert asked(played(made, goal("Open the boxes, the box?"), scene())) == ["abrir the boxes, the caja?"]


def test_only_words_that_are_in_the_request_are_listed():
    (found,) = asked(played(attack("glossary", words=WORDS, forms=["{words}: {request}"]), goal("the box"), scene()))
    assert found == '"caja" means "box": the caja'


def test_a_list_that_spells_a_place_stays_text():
    made = attack("glossary", words={"box": "{request}"}, forms=["{words}:"])
    assert asked(played(made, goal("a box"), scene())) == ['"{request}" means "box": a {request}']


def test_a_request_without_such_words_is_not_asked():
    assert played(attack("glossary", words=WORDS), goal("hello"), scene()) == []


def test_the_answer_is_read_back():
    assert attack("glossary", words=WORDS).read("to abrir the Caja, pull") == "to open the box, pull"
