"""What is wrong with rows before they are trained on: rows and their trees in, findings out. Nothing is changed.

A rule looks at one row at a time; a finding says how many rows it holds for, of how many, and names the first. The length
of a row is that of its longest path, in tokens, before anything is cut.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from posttrain.schema.rows import Text

from .chat import ChatFormat
from .rules import RULES, Context, Level, Rendered, Rule, rendered
from .template import leading_ids

__all__ = ["Audit", "Finding", "audit", "rendered"]


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that is wrong: with `count` rows of `of`, `example` being the first of them, or with the model."""

    name: str
    level: Level
    title: str
    cure: str
    count: int = 0
    of: int = 0
    example: str = ""

    def __str__(self) -> str:
        return f"{self.title} (first: {self.example})" if self.example else self.title


@dataclass(frozen=True)
class Audit:
    """All findings, errors first, and the lengths of the rows that could be rendered."""

    findings: tuple[Finding, ...]
    lengths: tuple[int, ...]
    rows: int
    texts: int
    trained_tokens: int

    @property
    def errors(self) -> tuple[Finding, ...]:
        return tuple(finding for finding in self.findings if finding.level == "error")

    def as_dict(self) -> dict[str, Any]:
        """Everything, as plain JSON."""
        return asdict(self)


def audit(rows: Sequence[Rendered], form: ChatFormat, max_length: int, measured: frozenset[str] = frozenset()) -> Audit:
    """Everything that is wrong with rows, for a model that is talked to as `form` says. `measured` are fingerprints of
    the rows that the model will be measured on."""
    leading = () if form.apart else tuple(leading_ids(form.tokenizer))
    known = Context(form, max_length, leading, measured, Counter(repr(one.row) for one in rows))
    found = [finding for rule in RULES if (finding := _found(rule, rows, known))]
    found = [*_never(rows, found), *_of_the_model(rows, form), *found]
    found.sort(key=lambda finding: finding.level != "error")
    branches = [branch for one in rows for tree in one.trees for branch in tree.branches]
    return Audit(
        tuple(found),
        tuple(one.length for one in rows if not one.problem),
        len(rows),
        sum(len(one.trees) for one in rows),
        sum(branch.n_trained() for branch in branches),
    )


def _found(rule: Rule, rows: Sequence[Rendered], known: Context) -> Finding | None:
    hits = [(one, why) for one in rows if (why := rule.holds(one, known))]
    if not hits:
        return None
    first, why = hits[0]
    told = {"rows": f"{len(hits)} of {len(rows)} rows", "why": str(why)}
    return Finding(
        rule.name, rule.level, rule.title.format(**told), rule.cure.format(**told), len(hits), len(rows), first.place
    )


def _never(rows: Sequence[Rendered], found: Sequence[Finding]) -> Iterator[Finding]:
    """What makes a training meaningless: not one row has it."""
    counts = {finding.name: finding.count for finding in found}
    readable = sum(not one.problem for one in rows)
    if readable and counts.get("nothing_trained") == readable:
        yield Finding(
            "never_trained", "error", "nothing is learnt from any row", "Look at the masks of the rows.", readable
        )
    answers = [one for one in rows if any(True for _ in one.answers())]
    if answers and counts.get("stop_not_trained") == len(answers):
        yield Finding(
            "never_stops",
            "error",
            "no answer is learnt with the token that ends it, so the model would never stop",
            "Give the labels the end of the turn too, or give the rows as messages.",
            len(answers),
        )


def _of_the_model(rows: Sequence[Rendered], form: ChatFormat) -> Iterator[Finding]:
    tokenizer = form.tokenizer
    if tokenizer.pad_token_id is not None and tokenizer.pad_token_id == tokenizer.eos_token_id:
        yield Finding(
            "pad_is_eos",
            "warning",
            f"the token that pads is the one that ends ({tokenizer.eos_token!r})",
            "It is learnt here all the same; a program that masks padding by its number would leave the end out.",
        )
    if tokenizer.eos_token_id is None and any(isinstance(one.row, Text) for one in rows):
        yield Finding(
            "no_eos",
            "warning",
            "the tokenizer has no end of sequence: texts end without",
            "Set eos_token in its tokenizer_config.json.",
        )
