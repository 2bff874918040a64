"""Rows of ranked answers with probes beside them: what the best answer can be turned into without becoming better.

A row becomes one tree, whose branches are its answers and, behind them, what the probes made of the best one, so that all
are scored at once and share their prompt.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from statistics import fmean

from posttrain.functional.layout import Branch, Tree
from posttrain.functional.probes import variant
from posttrain.schema.errors import DataError
from posttrain.schema.rows import Ranked

from .chat import ChatFormat
from .trees import grow, shorten


@dataclass(frozen=True)
class Judged:
    """A row as a tree whose branches are its answers, the best first, and behind them what probes `made` of the best one,
    by name; `found` are the branches' scores."""

    row: Ranked
    tree: Tree
    made: Mapping[str, str]
    found: Sequence[float] = ()

    @property
    def scores(self) -> Sequence[float]:
        """Of the answers."""
        return self.found[: len(self.row.answers)]

    @property
    def lengths(self) -> list[float]:
        """Tokens of the answers."""
        return [float(len(branch.tokens)) for branch in self.tree.branches[: len(self.row.answers)]]

    @property
    def gains(self) -> dict[str, float]:
        """By how much each probe scores higher than the answer that it was made of."""
        scores = self.found[len(self.row.answers) :]
        return {name: score - self.found[0] for name, score in zip(self.made, scores, strict=True)}

    @property
    def margins(self) -> list[float]:
        """By how much the better of two answers scores higher, for all pairs of which one is better."""
        graded = zip(self.scores, self.row.grades, strict=True)
        return [a - b for (a, high), (b, low) in combinations(graded, 2) if high > low]

    @property
    def share(self) -> float:
        """Of its pairs that are right."""
        return fmean(margin > 0 for margin in self.margins)

    def text(self, place: int) -> str:
        return self.row.answers[place][-1].content


def probed(
    rows: Sequence[Ranked], n: int, probes: Mapping[str, str | None], form: ChatFormat, longest: int
) -> Judged | None:
    """Row `n` with the probes that fit and that the chat template can write; None where no answer fits. Raises DataError
    where the row itself cannot be written."""
    row, made = rows[n], _variants(rows, n, probes)
    (whole,) = grow(row, form, longest, f"Row {n + 1}")
    tree = shorten(whole, longest, form.apart)
    if tree is None:
        return None
    said = {name: _said(row, text, form, tree.prompt) for name, text in made.items()}
    fitting = {name: tokens for name, tokens in said.items() if 0 < len(tokens) <= longest - len(tree.prompt)}
    branches = (Branch(tokens, (True,) * len(tokens)) for tokens in fitting.values())
    return Judged(row, Tree(tree.prompt, (*tree.branches, *branches)), {name: made[name] for name in fitting})


def _variants(rows: Sequence[Ranked], n: int, probes: Mapping[str, str | None]) -> dict[str, str]:
    """What the probes make of the best answer of a row; nothing where it only calls tools."""
    best = rows[n].answers[0][-1].content
    others = (rows[(n + k) % len(rows)].answers[0][-1].content for k in range(1, len(rows)))
    other = next((text for text in others if text and text != best), None)
    made = {name: variant(probe, best, other) for name, probe in probes.items() if probe is not None}
    return {name: text for name, text in made.items() if best and text is not None}


def _said(row: Ranked, text: str, form: ChatFormat, prompt: tuple[int, ...]) -> tuple[int, ...]:
    """The tokens of another text in place of the best answer's; none where the chat template cannot write it."""
    try:
        asked, said = form.answer(row.prompt, (replace(row.answers[0][-1], content=text),), row.tools)
    except DataError:
        return ()
    return tuple(said) if tuple(asked) == prompt else ()
