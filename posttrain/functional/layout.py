"""How answers are laid out for a forward pass: packed trees, or padded rows.

An answer is a prompt and one completion. Answers that share a prompt form a tree: the prompt is written once and each
branch sees it and itself, with positions counted along its own path.

    packed      one row, no padding       prompt A | A.0 | A.1 | prompt B | B.0 | B.1
    padded      a row an answer           prompt A A.0 . .
                                          prompt A A.1 . .

Both say where each trained token is predicted from, in the same order: answers branch by branch (all first branches,
then all second ones), tokens along the answer. Objectives see that order and nothing else.
"""

import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace


@dataclass(frozen=True, slots=True)
class Branch:
    """One completion. `trained` says which of its tokens are learnt; `grade` is what its row says that it is worth, where
    a row does: 1 or 0 for a thumb, a place or a score among ranked answers. `chance` is how likely it is
    the better one of a pair, where that is not sure."""

    tokens: tuple[int, ...]
    trained: tuple[bool, ...]
    grade: float | None = None
    chance: float | None = None

    def n_trained(self) -> int:
        return sum(self.trained)

    def n_shown(self, room: int) -> int:
        """How many of its tokens a model is shown: all where there is room for them, else those that something is
        predicted from, which are the ones before the last that is trained."""
        if len(self.tokens) <= room:
            return len(self.tokens)
        return max((place for place, trained in enumerate(self.trained) if trained), default=0)


@dataclass(frozen=True, slots=True)
class Tree:
    """A prompt and the completions that share it."""

    prompt: tuple[int, ...]
    branches: tuple[Branch, ...]

    def n_tokens(self) -> int:
        return len(self.prompt) + sum(len(branch.tokens) for branch in self.branches)

    def longest_path(self) -> int:
        return len(self.prompt) + max(len(branch.tokens) for branch in self.branches)


@dataclass(frozen=True, slots=True)
class Segment:
    """Queries `start..end` see the keys `prompt_start..prompt_end` fully and themselves causally."""

    start: int
    end: int
    prompt_start: int = 0
    prompt_end: int = 0


@dataclass(frozen=True, slots=True)
class Layout:
    """Rows of token ids and, for each trained token, the flat place of the hidden state that predicts it, the token,
    and its answer; for each answer the place of its last token. `segments` is empty for padded rows; `lengths` are the
    true lengths of the rows."""

    rows: list[list[int]]
    positions: list[list[int]]
    lengths: list[int]
    segments: list[Segment]
    predict_at: list[int]
    targets: list[int]
    answers: list[int]
    ends: list[int]


def answer_order(trees: Sequence[Tree]) -> Iterator[tuple[int, int, int]]:
    """(answer, tree, branch) in the order in which every per-answer value is kept; trees may have unlike numbers of
    branches."""
    answer = 0
    for branch in range(max((len(tree.branches) for tree in trees), default=0)):
        for t, tree in enumerate(trees):
            if branch < len(tree.branches):
                yield answer, t, branch
                answer += 1


def packed(trees: Sequence[Tree], longest: int = sys.maxsize) -> Layout:
    """All trees in one row without padding. Of a path that is longer than `longest`, what nothing is predicted from is
    left out at its end, and its answer's end is the last token that is there."""
    ids: list[int] = []
    positions: list[int] = []
    segments: list[Segment] = []
    places: dict[tuple[int, int], tuple[int, int, int]] = {}  # (tree, branch) -> first token, its predictor, tokens
    for t, tree in enumerate(trees):
        root, n = len(ids), len(tree.prompt)
        ids += tree.prompt
        positions += range(n)
        if len(tree.branches) > 1 and n:
            segments.append(Segment(root, root + n))
        for b, branch in enumerate(tree.branches):
            start, m = len(ids), branch.n_shown(longest - n)
            ids += branch.tokens[:m]
            positions += range(n, n + m)
            alone = len(tree.branches) == 1
            segments.append(Segment(root, len(ids)) if alone else Segment(start, len(ids), root, root + n))
            places[t, b] = (start, root + n - 1, m)
    layout = Layout([ids], [positions], [len(ids)], segments, [], [], [], [])
    for answer, t, b in answer_order(trees):
        _collect(layout, answer, trees[t].branches[b], *places[t, b])
    return layout


def rounded(n: int) -> int:
    """A number of tokens rounded up by at most a thirty-second (or to a multiple of 16), so that few numbers occur:
    a CPU compiles its products for every shape that it meets.

    >>> [rounded(n) for n in (1, 560, 2100)]
    [16, 560, 2112]
    """
    grain = max(16, 1 << n.bit_length() >> 6)
    return -(-n // grain) * grain


def filled(layout: Layout, pad: int) -> Layout:
    """A packed row with `pad` behind it up to a rounded length; what is added sees itself and is asked for nothing."""
    ((row,), (positions,)) = layout.rows, layout.positions
    more = rounded(len(row)) - len(row)
    if not more:
        return layout
    segments = [*layout.segments, Segment(len(row), len(row) + more)]
    return replace(layout, rows=[[*row, *[pad] * more]], positions=[[*positions, *range(more)]], segments=segments)


def padded(trees: Sequence[Tree], pad: int, longest: int = sys.maxsize) -> Layout:
    """A row for each answer, filled up with `pad` on the right; `longest` as in `packed`."""
    order = list(answer_order(trees))
    paths = []
    for _, t, b in order:
        branch, prompt = trees[t].branches[b], trees[t].prompt
        paths.append(prompt + branch.tokens[: branch.n_shown(longest - len(prompt))])
    width = max(map(len, paths), default=0)
    layout = Layout([], [], [], [], [], [], [], [])
    for (answer, t, b), path in zip(order, paths, strict=True):
        layout.rows.append([*path, *[pad] * (width - len(path))])
        layout.positions.append(list(range(width)))
        layout.lengths.append(len(path))
        n = len(trees[t].prompt)
        start = answer * width + n
        _collect(layout, answer, trees[t].branches[b], start, start - 1, len(path) - n)
    return layout


def _collect(layout: Layout, answer: int, branch: Branch, start: int, before: int, n: int) -> None:
    """Adds the trained tokens of a branch that starts at flat place `start`, whose first token is predicted from
    `before`, and of which `n` tokens are laid out."""
    for i, (token, trained) in enumerate(zip(branch.tokens, branch.trained, strict=True)):
        if trained:
            layout.predict_at.append(start + i - 1 if i else before)
            layout.targets.append(token)
            layout.answers.append(answer)
    layout.ends.append(start + n - 1 if n else before)


def split_by_tokens(trees: Sequence[Tree], budget: int) -> list[list[int]]:
    """Indices of trees in micro-batches of at most `budget` tokens each (a longer tree goes alone), in order."""
    parts: list[list[int]] = []
    used = budget + 1
    for index, tree in enumerate(trees):
        size = tree.n_tokens()
        if used + size > budget:
            parts.append([])
            used = 0
        parts[-1].append(index)
        used += size
    return parts
