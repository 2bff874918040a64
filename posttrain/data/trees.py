"""Rows become trees of tokens: what is asked as the prompt, what is learnt as branches.

A row too long is cut from the right; one whose prompt leaves no room for an answer, or that has nothing to learn, is
dropped. Both are counted, never silent.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

from posttrain.functional.layout import Branch, Tree
from posttrain.schema.errors import DataError
from posttrain.schema.rows import (
    Conversation,
    Labelled,
    Messages,
    Pair,
    Ranked,
    Row,
    Text,
    Tokenised,
    TokenisedPair,
    Tools,
)

from .chat import ChatFormat, Tokens


@dataclass(frozen=True, slots=True)
class Grown:
    """What became of one row: its trees, whether some of them were `cut`, and whether one conversation was `split` into
    several, as its template writes earlier turns anew (or a model reads apart from writing). No tree: it was dropped."""

    trees: tuple[Tree, ...]
    cut: bool = False
    split: bool = False


def plant(rows: Sequence[Row], form: ChatFormat, max_length: int) -> tuple[Tree, ...]:
    """All rows as trees of at most `max_length` tokens a path, in memory: what a measure reads. Raises DataError when
    none is left."""
    each = (grown(row, form, max_length, f"Row {n}") for n, row in enumerate(rows, 1))
    trees = tuple(tree for one in each for tree in one.trees)
    if not trees:
        raise none_left(len(rows), max_length)
    return trees


def none_left(n_rows: int, max_length: int, place: object = "") -> DataError:
    """The error for rows of which not one can be learnt."""
    return DataError(
        f"None of the {n_rows} rows{f' of {place}' if place else ''} has an answer within max_length={max_length} tokens. "
        "Raise max_length, or check the data with `columns:`."
    )


def grown(row: Row, form: ChatFormat, max_length: int, place: str) -> Grown:
    """One row as trees of at most `max_length` tokens a path."""
    trees = grow(row, form, max_length, place)
    fitting = tuple(short for tree in trees if (short := shorten(tree, max_length, form.apart)))
    cut = bool(fitting) and any(length(tree, form.apart) > max_length for tree in trees)
    return Grown(fitting, cut, isinstance(row, Conversation) and len(trees) > 1)


def grow(row: Row, form: ChatFormat, max_length: int, place: str) -> list[Tree]:
    """The trees of one row, as long as they are. Raises DataError that names the row by its `place`."""
    try:
        return list(_grow(row, form, max_length))
    except DataError as error:
        raise DataError(f"{place}: {error}") from error


def _grow(row: Row, form: ChatFormat, max_length: int) -> Iterator[Tree]:
    match row:
        case Text():
            yield from _pieces(form.text(row), max_length)
        case Conversation():
            yield from map(_learn, form.conversations(row))
        case Pair(prompt=prompt, chosen=chosen, rejected=rejected, tools=tools, probability=probability):
            yield _doubted(_sharing(prompt, (chosen, rejected), (1.0, 0.0), tools, form), probability)
        case Ranked(prompt=prompt, answers=answers, grades=grades, tools=tools, probability=probability):
            yield _doubted(_sharing(prompt, answers, grades, tools, form), probability)
        case Labelled(prompt=prompt, completion=completion, good=good, tools=tools):
            yield _sharing(prompt, (completion,), (float(good),), tools, form)
        case Tokenised(ids=ids, trained=trained):
            if form.apart and all(trained[1:]):
                raise DataError(
                    "Token ids of which all are learnt are a text, and an encoder-decoder must be told where a question "
                    "ends. Give the rows `labels` that are -100 there."
                )
            tokens = Tokens(_known(ids, form), trained)
            yield from _pieces(tokens, max_length) if all(trained[1:]) else (_learn(tokens),)
        case TokenisedPair(prompt=ids, chosen=chosen, rejected=rejected):
            branches = (_all_trained(_known(chosen, form), 1.0), _all_trained(_known(rejected, form), 0.0))
            yield Tree(_known(ids, form), branches)
        case _:
            raise DataError(f"Rows of shape {type(row).__name__} hold no answer to learn.")


def _sharing(
    prompt: Messages, answers: Sequence[Messages], grades: Sequence[float | None], tools: Tools, form: ChatFormat
) -> Tree:
    """Answers as the branches of their one prompt, with what they are worth."""
    rendered = [form.answer(prompt, answer, tools) for answer in answers]
    asked = rendered[0][0]
    if any(again != asked for again, _ in rendered):
        raise DataError("The chat template renders one prompt in two ways, so its answers cannot share it.")
    branches = (_all_trained(said, grade) for (_, said), grade in zip(rendered, grades, strict=True))
    return Tree(tuple(asked), tuple(branches))


def _doubted(tree: Tree, probability: float | None) -> Tree:
    """A pair whose first answer is the better one with that probability; any tree as it is where there is no doubt."""
    if probability is None:
        return tree
    chances = zip(tree.branches, (probability, 1 - probability), strict=True)
    return replace(tree, branches=tuple(replace(branch, chance=chance) for branch, chance in chances))


def _known(ids: tuple[int, ...], form: ChatFormat) -> tuple[int, ...]:
    """Token ids that another program made. Raises DataError for one that the tokenizer does not have."""
    if max(ids) >= len(form.tokenizer):
        raise DataError(
            f"The rows hold the token {max(ids)}, but the tokenizer has {len(form.tokenizer)}. "
            "Make the rows again with the tokenizer of this model, or give them as text."
        )
    return ids


def _learn(tokens: Tokens) -> Tree:
    """Everything before the first learnt token is the prompt."""
    first = next((i for i, trained in enumerate(tokens.trained) if trained), len(tokens.ids))
    first = max(first, 1)
    return Tree(tuple(tokens.ids[:first]), (Branch(tuple(tokens.ids[first:]), tuple(tokens.trained[first:])),))


def _pieces(tokens: Tokens, max_length: int) -> Iterator[Tree]:
    """A long document in pieces; the last token of one begins the next, so that every token is predicted once."""
    step = max_length - 1
    for start in range(0, max(len(tokens.ids) - 1, 1), step):
        piece = slice(start, start + max_length)
        yield _learn(Tokens(tokens.ids[piece], (False, *tokens.trained[piece][1:])))


def _all_trained(ids: Iterable[int], grade: float | None = None) -> Branch:
    tokens = tuple(ids)
    return Branch(tokens, (True,) * len(tokens), grade)


def length(tree: Tree, apart: bool) -> int:
    """What must fit: a question with its longest answer, or the longer of both where they are `apart`."""
    n = len(tree.prompt)
    return max(n, tree.longest_path() - n) if apart else tree.longest_path()


def shorten(tree: Tree, max_length: int, apart: bool) -> Tree | None:
    """The tree within `max_length`, or None when one of its answers has nothing left to learn."""
    n = len(tree.prompt)
    room = max_length * (n <= max_length) if apart else max(max_length - n, 0)
    branches = tuple(
        replace(branch, tokens=branch.tokens[:room], trained=branch.trained[:room]) for branch in tree.branches
    )
    return Tree(tree.prompt, branches) if all(any(branch.trained) for branch in branches) else None
