"""Where tokens and their predictors go, by hand and for drawn trees."""

from hypothesis import given
from hypothesis import strategies as st

from posttrain.functional.layout import Branch, Segment, Tree, packed, padded, split_by_tokens


def branch(*tokens: int, trained: str | None = None) -> Branch:
    return Branch(tokens, tuple(c == "x" for c in trained or "x" * len(tokens)))


PAIRS = [
    Tree((1, 2), (branch(10, 11), branch(20))),
    Tree((3,), (branch(12), branch(21, 22))),
]


def test_packed_pairs_by_hand():
    layout = packed(PAIRS)
    #                     prompt | chosen | rejected | prompt | chosen | rejected
    assert layout.rows == [[1, 2, 10, 11, 20, 3, 12, 21, 22]]
    assert layout.positions == [[0, 1, 2, 3, 2, 0, 1, 1, 2]]
    assert layout.segments == [
        Segment(0, 2),
        Segment(2, 4, 0, 2),
        Segment(4, 5, 0, 2),
        Segment(5, 6),
        Segment(6, 7, 5, 6),
        Segment(7, 9, 5, 6),
    ]
    # answers: both chosen ones, then both rejected ones
    assert layout.targets == [10, 11, 12, 20, 21, 22]
    assert layout.answers == [0, 0, 1, 2, 3, 3]
    assert layout.predict_at == [1, 2, 5, 1, 5, 7]


def test_padded_pairs_by_hand():
    layout = padded(PAIRS, pad=0)
    assert layout.rows == [[1, 2, 10, 11], [3, 12, 0, 0], [1, 2, 20, 0], [3, 21, 22, 0]]
    assert layout.lengths == [4, 2, 3, 3]
    assert layout.targets == [10, 11, 12, 20, 21, 22]
    assert layout.predict_at == [1, 2, 4, 9, 12, 13]


def test_a_single_branch_is_one_segment_and_masked_tokens_are_context():
    layout = packed([Tree((1, 2), (branch(3, 4, 5, trained="x.x"),))])
    assert layout.segments == [Segment(0, 5)]
    assert (layout.targets, layout.predict_at) == ([3, 5], [1, 3])


def test_a_path_that_is_too_long_ends_one_token_earlier_and_no_other_does():
    """The last token of an answer is predicted, and nothing from it. Each answer ends with a token of its own."""
    row, rows = packed(PAIRS, longest=3), padded(PAIRS, pad=0, longest=3)
    assert row.rows == [[1, 2, 10, 20, 3, 12, 21, 22]]
    assert row.ends == [2, 5, 3, 7]
    assert row.predict_at == [1, 2, 4, 1, 4, 6]
    assert rows.rows == [[1, 2, 10], [3, 12, 0], [1, 2, 20], [3, 21, 22]]
    assert rows.ends == [2, 4, 8, 11]
    assert rows.predict_at == [1, 2, 3, 7, 9, 10]


@st.composite
def forests(draw):
    n_branches = draw(st.integers(1, 3))
    tokens = st.lists(st.integers(0, 99), min_size=1, max_size=6)

    def a_branch():
        ids = draw(tokens)
        return Branch(tuple(ids), tuple(draw(st.booleans()) for _ in ids))

    return [
        Tree(tuple(draw(tokens)), tuple(a_branch() for _ in range(n_branches))) for _ in range(draw(st.integers(1, 5)))
    ]


@given(forests())
def test_both_layouts_ask_for_the_same_tokens_in_the_same_order(trees):
    a, b = packed(trees), padded(trees, pad=0)
    assert (a.targets, a.answers) == (b.targets, b.answers)
    flat_a, flat_b = a.rows[0], [token for row in b.rows for token in row]
    assert [flat_a[i] for i in a.predict_at] == [flat_b[i] for i in b.predict_at]
    assert len(flat_a) == sum(tree.n_tokens() for tree in trees)


@given(forests(), st.integers(1, 40))
def test_micro_batches_hold_every_tree_once_and_keep_the_budget(trees, budget):
    parts = split_by_tokens(trees, budget)
    assert [row for part in parts for row in part] == list(range(len(trees)))
    for part in parts:
        assert len(part) == 1 or sum(trees[row].n_tokens() for row in part) <= budget
