"""Two tokenizers, one text: where the tokens of one end at the same letter as those of the other.

    ours       H | ello | , |  wor | ld | <|end|>          end behind letter   1 5 6 10 12 13
    theirs     Hel | lo | , |  world | </s>                                    3 5 6 12 13
    groups     Hello    , |  world   | the end

A group is what lies between two such places: the fewest tokens of both that say the same. A special token counts as one
letter whatever its name, so that the ends of two answers meet. Blanks before an answer are its template's, and may differ;
behind the first letter that does, nothing is aligned.
"""

from collections.abc import Iterator, Sequence
from itertools import groupby, pairwise
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from posttrain.functional.layout import Tree

from .inert import specials

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

SPECIAL = "\0"  # the letter that stands for a special token
HALF = "\ufffd"  # what a tokenizer decodes bytes to that are no character yet
WINDOW = 48  # tokens decoded at once


def spelt_out(tokenizer: "PreTrainedTokenizerBase", ids: Sequence[int]) -> tuple[str, list[int]]:
    """The text of some tokens, and behind which of its letters each of them ends: behind the one before, where it ends
    within a letter."""
    special = specials(tokenizer).ids
    text, ends = "", []
    for is_special, tokens in groupby(ids, key=special.__contains__):
        for piece in _pieces(tokenizer, list(tokens)) if not is_special else (SPECIAL for _ in tokens):
            text += piece
            ends.append(len(text))
    return text, ends


def _pieces(tokenizer: "PreTrainedTokenizerBase", ids: list[int]) -> Iterator[str]:
    """The letters that every token adds. A tokenizer may leave out a blank at the beginning of what it decodes, so each is
    what the text with it has more than the text without, from a few tokens before."""
    known, is_whole = "", True  # the text of the window as far as it was given, and whether it ends with a letter
    start = 0
    for n in range(1, len(ids) + 1):
        if n - start > WINDOW and is_whole:
            start = n - 2
            known = _decoded(tokenizer, ids[start : n - 1])
        text = _decoded(tokenizer, ids[start:n])
        whole = text.rstrip(HALF) if n < len(ids) else text
        is_whole = text == whole
        yield whole[len(known) :]
        known = max(known, whole, key=len)


def _decoded(tokenizer: "PreTrainedTokenizerBase", ids: list[int]) -> str:
    return str(tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False))


def groups(ours: tuple[str, list[int]], theirs: tuple[str, list[int]]) -> list[tuple[int, int, int, int]]:
    """(first, last, first, last): the tokens of each group, ours and then theirs, counted from 0."""
    (a, ends_a), (b, ends_b) = ours, theirs
    lead_a, lead_b = (len(text) - len(text.lstrip()) for text in (a, b))
    alike = next(
        (n for n, (x, y) in enumerate(zip(a[lead_a:], b[lead_b:], strict=False)) if x != y),
        min(len(a) - lead_a, len(b) - lead_b),
    )
    places_a, places_b = (_places(ends, lead) for ends, lead in ((ends_a, lead_a), (ends_b, lead_b)))
    shared = sorted(place for place in places_a.keys() & places_b.keys() if 0 < place <= alike)
    both = [(-1, -1), *((places_a[place], places_b[place]) for place in shared)]
    return [(i + 1, k, j + 1, m) for (i, j), (k, m) in pairwise(both)]


def _places(ends: Sequence[int], lead: int) -> dict[int, int]:
    """The first token that ends behind each letter, counted from the first that is no blank before the answer."""
    found: dict[int, int] = {}
    for token, end in enumerate(ends):
        found.setdefault(end - lead, token)
    return found


def aligned(
    ours: Tree, theirs: Tree, tokenizer: "PreTrainedTokenizerBase", other: "PreTrainedTokenizerBase"
) -> NDArray[np.int32]:
    """(G, 4): the groups of all answers of a conversation that two tokenizers write, in the places of their learnt tokens;
    none where the two do not learn as many answers."""
    runs, others = _answers(ours), _answers(theirs)
    found: list[tuple[int, ...]] = []
    before, before_theirs = 0, 0
    if len(runs) == len(others):
        for said, said_theirs in zip(runs, others, strict=True):
            of_run = groups(spelt_out(tokenizer, said), spelt_out(other, said_theirs))
            moved = (before, before, before_theirs, before_theirs)
            found += [tuple(np.add(group, moved).tolist()) for group in of_run]
            before, before_theirs = before + len(said), before_theirs + len(said_theirs)
    return np.array(found, np.int32).reshape(-1, 4)


def _answers(tree: Tree) -> list[list[int]]:
    """The runs of learnt tokens of a row."""
    (branch,) = tree.branches
    runs = groupby(zip(branch.trained, branch.tokens, strict=True), key=lambda pair: pair[0])
    return [[token for _, token in run] for trained, run in runs if trained]
