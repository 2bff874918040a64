"""Many-shot: n answered questions stand before the request, other ones each time, and as many as there is room for."""

import pytest

from posttrain.schema.errors import UsageError
from posttrain.schema.rows import Prompt
from tests.besieged import EXAMPLES, attack, goal, local, played, scene


def test_n_answered_questions_stand_before_the_request():
    asked = goal("open the box?", system="Be kind.")
    one, other = played(attack("many_shot", n=5), asked, scene())
    for move in (one, other):
        system, *shown, last = move.messages
        assert (system, last) == (asked.row.messages[0], asked.row.messages[1])
        pairs = [(q.content, a.content) for q, a in zip(shown[::2], shown[1::2], strict=True)]
        assert len(set(pairs)) == 5
        assert set(pairs) <= set(EXAMPLES)
    assert one != other


def test_few_examples_are_all_shown():
    (move, *_) = played(attack("many_shot", n=500), goal(), scene())
    assert len(move.messages) == 2 * len(EXAMPLES) + 1


def test_where_the_model_reads_less_there_are_fewer():
    weights = local()
    moves = played(attack("many_shot", n=40), goal(), scene(weights=weights))
    for move in moves:
        assert 1 < len(move.messages) < 81
        assert weights.policy.room(len(weights.form.ask(Prompt(move.messages)))) >= weights.sampling.max_new_tokens


def test_no_examples_are_an_error_with_its_cure():
    nothing = scene()
    nothing.examples = ()
    with pytest.raises(UsageError, match="Give `examples`"):
        played(attack("many_shot"), goal(), nothing)
