"""A constitution: the principles that answers are criticised, revised and compared by (Bai et al. 2022, arXiv 2212.08073).

    languages: [en, zh]
    principles:
      - id: privacy
        tags: [privacy]
        weight: 1
        critique: {en: Say where the answer tells something private …, zh: …}
        revision: {en: Write the answer anew without …, zh: …}
        comparison: {en: Which answer respects privacy more?, zh: …}
    examples:
      - {principle: privacy, language: en, request: …, answer: …, critique: …, revision: …}

A text is written for each language, or alone where there is one language. `constitution_lint` says what is wrong with a
file, all of it at once. A recipe names a file, a constitution that ships (`default`, `lab`), or writes one out; what is
used becomes part of the artifact's key by its text, not by the name of its file.
"""

import random
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Annotated, Any

from pydantic import BeforeValidator, Field

from posttrain.schema.errors import DataError, UsageError, nearest
from posttrain.schema.settings import Settings

SHIPPED = {
    "default": Path(__file__).parent / "constitutions" / "default.yaml",
    "lab": Path(__file__).parent.parent / "lab" / "constitution.yaml",
}
"""The constitutions that come with the package, by name."""
PARTS = ("critique", "revision", "comparison")
MOST_BYTES = 1 << 20

Texts = dict[str, str]
"""Language -> text."""


class Principle(Settings):
    """One thing that answers are held to."""

    id: str
    """Its name, by which rows and reports call it."""
    critique: Texts
    """What asks for a critique of an answer, by language."""
    revision: Texts
    """What asks for a better answer after the critique, by language."""
    comparison: Texts
    """What asks which of two answers is better, by language."""
    weight: float = Field(1.0, gt=0)
    """How often it is drawn, in proportion to the weights of the others."""
    tags: tuple[str, ...] = ()
    """What it is about, so that some principles can be chosen."""


class Shown(Settings):
    """A critique with its revision that is shown to a critic before it writes its own."""

    principle: str
    """The principle that it goes by."""
    language: str
    """The language that it is in."""
    request: str
    """What was asked."""
    answer: str
    """The answer that is criticised."""
    critique: str
    """The critique."""
    revision: str
    """The better answer."""


class Constitution(Settings):
    """Principles, and examples of critiques by them."""

    languages: tuple[str, ...] = ("en",)
    """The languages that every text is written in."""
    principles: tuple[Principle, ...]
    """What answers are held to."""
    examples: tuple[Shown, ...] = ()
    """Critiques and revisions that a critic may be shown."""

    def __str__(self) -> str:
        return f"{len(self.principles)} principles in {' and '.join(self.languages)}"

    def choose(self, language: str, tags: Sequence[str]) -> tuple[Principle, ...]:
        """The principles with one of the tags, all without any. Raises UsageError where there are none, and for a language
        that it is not written in."""
        if language not in self.languages:
            raise UsageError(f"The constitution is not written in {language!r}. {nearest(language, self.languages)}")
        known = sorted({tag for principle in self.principles for tag in principle.tags})
        if unknown := [tag for tag in tags if tag not in known]:
            raise UsageError(
                f"No principle of the constitution has the tag {unknown[0]!r}. {nearest(unknown[0], known)}"
            )
        return tuple(p for p in self.principles if not tags or set(tags) & set(p.tags))

    def shown(self, language: str, n: int) -> tuple[Shown, ...]:
        """The first `n` examples in a language. Raises UsageError where there are fewer."""
        found = tuple(example for example in self.examples if example.language == language)
        if len(found) < n:
            raise UsageError(
                f"examples={n} are to be shown, and the constitution has {len(found)} in {language!r}. Show fewer, or write "
                "more under its `examples:`."
            )
        return found[:n]

    def named(self, id: str) -> Principle:
        """The principle of that name."""
        return next(principle for principle in self.principles if principle.id == id)


def drawn(principles: Sequence[Principle], n: int, seed: int) -> tuple[Principle, ...]:
    """`n` principles by their weights, none of them twice (Efraimidis and Spirakis 2006: the largest u^(1/w)). Where there
    are fewer than `n`, all are drawn before one comes again."""
    rng = random.Random(seed)
    found: list[Principle] = []
    while len(found) < n:
        turns = sorted(principles, key=lambda principle: -(rng.random() ** (1 / principle.weight)))
        found += turns[: n - len(found)]
    return tuple(found)


@cache
def shipped(name: str) -> Constitution:
    """A constitution of the package."""
    return load(SHIPPED[name])


def load(path: Path) -> Constitution:
    """The constitution in a file. Raises DataError that lists everything the linter finds."""
    from .constitution_lint import checked

    try:
        if path.stat().st_size > MOST_BYTES:
            raise DataError(f"{path} has more than {MOST_BYTES} bytes. A constitution is a short text: name its file.")
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        known = ", ".join(SHIPPED)
        raise DataError(
            f"The constitution {str(path)!r} cannot be read ({error}). Name a YAML file, or: {known}."
        ) from error
    return Constitution.model_validate(checked(text, str(path)))


def written_out(value: Any) -> Any:
    """A setting that names a constitution, as the constitution's own text. One that is written out in a recipe is checked
    as a file is."""
    from .constitution_lint import checked_tree

    try:
        if isinstance(value, str):
            return shipped(value) if value in SHIPPED else load(Path(value).expanduser())
        return checked_tree(value) if isinstance(value, dict) else value
    except UsageError as error:
        raise ValueError(str(error)) from error


ConstitutionRef = Annotated[Constitution, BeforeValidator(written_out)]
"""A constitution by name, by file, or written out."""
