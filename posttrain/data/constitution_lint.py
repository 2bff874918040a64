"""What is wrong with a constitution: every mistake at once, each with its line and what to do.

unknown or missing keys and parts, texts that are empty, too long or hold a control character, places that nothing fills
languages that a text is not written in, weights that are no weights, names that come twice
principles that say nearly the same, parts of one that are one text
hints of a contradiction: a text that approves of harm ("arson should be condoned" trains a critic to condone it)
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import combinations
from typing import Any

import numpy as np
import yaml

from posttrain.schema.errors import DataError, Problem, nearest

from .constitution import PARTS
from .duplicates import shingles_of

KEYS = ("languages", "principles", "examples")
PRINCIPLE = ("id", *PARTS, "weight", "tags")
SHOWN = ("principle", "language", "request", "answer", "critique", "revision")
LONGEST = 1000  # characters of a text
MOST = 300  # principles
NEAR = 0.75  # of the pieces of two texts, from which on they say the same
DEEPEST = 8
MOST_NODES = 20_000  # an alias of an alias of … is refused before it fills the memory
NAME = re.compile(r"[\w-]{1,60}")
PLACE = re.compile(r"\{\w*\}")
CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029\u200b-\u200f\u202a-\u202e\ufeff]")

HARM = (
    r"(?:harm(?!less)|illegal|crim|violen|abus|hat(?:e|red)|danger|toxic|arson|theft|steal|weapon|racis|sexis|bigot|discriminat"
    r"|unethical|immoral|fraud|deceiv|decept|bully|insult|offensive)"
)
APPROVES = (
    re.compile(
        r"\b(?:should|must|can|may|ought to|is to|are to)\s+(?:always\s+)?be\s+(?:condoned|excused|tolerated)\b", re.I
    ),
    re.compile(
        rf"{HARM}[^.!?]*\b(?:should|must|may)\s+be\s+(?:encouraged|promoted|celebrated|praised|allowed)\b", re.I
    ),
    re.compile(rf"\b(?:fine|acceptable|okay|good|right) to (?:be )?{HARM}", re.I),
    re.compile(r"(?<!不)(?<!不可)(?:应该|应当|应|可以|必须)(?:被|受到)?(?:纵容|宽恕|容忍)"),
)
"""Texts that approve of harm, in any part."""
WANTS_HARM = (
    re.compile(rf"\b(?:more|most)\s+(?:\w+\s+)?{HARM}", re.I),
    re.compile(r"[更最](?:加|为)?(?:有害|危险|违法|恶毒|歧视)"),
)
"""Texts that ask for harm, where they say what is wanted: in revisions and comparisons."""


@dataclass(frozen=True)
class At:
    """A value and its line. `value` is a dict of these, a list of these, a text, a number or None."""

    value: Any
    line: int | None = None

    def plain(self) -> Any:
        """The value alone."""
        if isinstance(self.value, dict):
            return {key: child.plain() for key, child in self.value.items()}
        return [child.plain() for child in self.value] if isinstance(self.value, list) else self.value


def checked(text: str, where: str) -> dict[str, Any]:
    """The values of a constitution's text. Raises DataError with everything that is wrong in it."""
    lint = Lint(where)
    try:
        root = yaml.compose(text, Loader=yaml.SafeLoader)
        tree = lint.tree(root)
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        said = " ".join(str(error).split())
        raise DataError(
            f"{where} is not YAML ({said[:200]}). Mend it there, or begin with a copy of the default."
        ) from error
    return lint.passed(tree)


def checked_tree(value: Mapping[str, Any]) -> dict[str, Any]:
    """The same of a constitution that is written out as plain values."""
    return Lint("the constitution").passed(_planted(value))


def _planted(value: Any, depth: int = 0) -> At:
    if depth > DEEPEST:
        raise DataError("The constitution is nested too deeply. Write texts, and lists of them.")
    if isinstance(value, Mapping):
        return At({str(key): _planted(child, depth + 1) for key, child in value.items()})
    return At([_planted(child, depth + 1) for child in value]) if isinstance(value, list | tuple) else At(value)


@dataclass
class Lint:
    """Collects what is wrong with one constitution."""

    where: str
    problems: list[Problem] = field(default_factory=list)
    languages: tuple[str, ...] = ("en",)
    n_nodes: int = 0

    def wrong(self, at: At, message: str) -> None:
        self.problems.append(Problem(message, at.line, self.where))

    def passed(self, tree: At) -> dict[str, Any]:
        """The plain values, every text by its languages, once nothing is wrong with them."""
        if isinstance(tree.value, dict):
            self.top(tree)
        else:
            self.wrong(tree, "a constitution is a mapping. Write `principles:` and a list of them.")
        if self.problems:
            found = sorted(dict.fromkeys(self.problems), key=lambda problem: (problem.line or 0, problem.message))
            raise DataError("\n".join(map(str, found)))
        return self.filled(tree.plain())

    def filled(self, said: dict[str, Any]) -> dict[str, Any]:
        """Texts that are written alone, under their one language."""
        for principle in said["principles"]:
            for part in PARTS:
                if isinstance(principle[part], str):
                    principle[part] = {self.languages[0]: principle[part]}
            principle["weight"] = float(principle.get("weight", 1.0))
        return {**said, "languages": list(self.languages)}

    def tree(self, node: yaml.Node | None, depth: int = 0) -> At:
        """A YAML node with the lines of its values. Scalars stay texts."""
        self.n_nodes += 1
        if self.n_nodes > MOST_NODES or depth > DEEPEST:
            raise ValueError("it is nested too deeply, or aliases make too much of it")
        if node is None:
            return At(None, 1)
        line = node.start_mark.line + 1
        if isinstance(node, yaml.SequenceNode):
            return At([self.tree(child, depth + 1) for child in node.value], line)
        if isinstance(node, yaml.MappingNode):
            found: dict[str, At] = {}
            for key, child in node.value:
                name = str(key.value) if isinstance(key, yaml.ScalarNode) else "?"
                if name in found:
                    self.wrong(At(None, key.start_mark.line + 1), f"the key {name[:60]!r} comes twice. Remove one.")
                found[name] = self.tree(child, depth + 1)
            return At(found, line)
        return At(None if node.tag == "tag:yaml.org,2002:null" else str(node.value), line)

    def top(self, tree: At) -> None:
        self.keys(tree, KEYS, ("principles",), "a constitution")
        self.languages = tuple(self.names(tree.value.get("languages", At([At("en")])), "languages")) or ("en",)
        listed = self.listed(tree, "principles")
        if "principles" in tree.value and not listed:
            self.wrong(tree.value["principles"], "there are no principles. Write at least one under `principles:`.")
        if len(listed) > MOST:
            self.wrong(tree, f"there are {len(listed)} principles. Keep at most {MOST}: each is drawn seldom already.")
        for principle in listed[:MOST]:
            self.principle(principle)
        self.twice(listed[:MOST])
        known = {str(p.value["id"].value) for p in listed if isinstance(p.value, dict) and "id" in p.value}
        for example in self.listed(tree, "examples"):
            self.example(example, known)

    def listed(self, tree: At, key: str) -> list[At]:
        at = tree.value.get(key, At([]))
        if not isinstance(at.value, list):
            self.wrong(at, f"`{key}:` is a list. Begin each entry with `- `.")
            return []
        return at.value

    def names(self, at: At, key: str) -> list[str]:
        """A list of different short names."""
        values = [child.value for child in at.value] if isinstance(at.value, list) else [None]
        found = [value for value in values if isinstance(value, str) and NAME.fullmatch(value)]
        if len(found) < len(values) or len(set(found)) < len(found):
            self.wrong(at, f"`{key}:` is a list of different short names. Write it as `{key}: [a, b]`.")
        return found

    def keys(self, at: At, known: tuple[str, ...], needed: tuple[str, ...], what: str) -> bool:
        """Whether an entry is a mapping; says which keys are unknown or missing."""
        if not isinstance(at.value, dict):
            self.wrong(at, f"{what} is a mapping. Write `{needed[0]}: …` and the other keys under each other.")
            return False
        for key, child in at.value.items():
            if key not in known:
                self.wrong(child, f"{what} has no key {key[:60]!r}. {nearest(key, known)}")
        for key in needed:
            if key not in at.value:
                self.wrong(at, f"{what} has no `{key}`. Write `{key}: …` into it.")
        return True

    def principle(self, at: At) -> None:
        if not self.keys(at, PRINCIPLE, PRINCIPLE[: 1 + len(PARTS)], "a principle"):
            return
        id, weight = at.value.get("id", At("-")), at.value.get("weight", At(1.0))
        if not isinstance(id.value, str) or not NAME.fullmatch(id.value):
            self.wrong(id, f"id: {str(id.value)[:60]!r} is no name. Use letters, digits, `-` and `_`.")
        try:
            fits = weight.value is not True and 0 < float(weight.value) < float("inf")
        except (TypeError, ValueError):
            fits = False
        if not fits:
            self.wrong(
                weight, f"weight: {str(weight.value)[:40]!r} is no weight. Write a number above 0, or leave it out."
            )
        if "tags" in at.value:
            self.names(at.value["tags"], "tags")
        for part in (part for part in PARTS if part in at.value):
            self.texts(at.value[part], part)

    def texts(self, at: At, part: str) -> None:
        """One part of a principle in all languages."""
        if not isinstance(at.value, dict):
            if len(self.languages) > 1:
                wanted = ", ".join(f"{language}: …" for language in self.languages)
                self.wrong(at, f"`{part}` is written in one language. Write `{part}: {{{wanted}}}`.")
            self.text(at, part)
            return
        for language, child in at.value.items():
            if language not in self.languages:
                self.wrong(child, f"`{part}` has the language {language[:20]!r}. {nearest(language, self.languages)}")
            self.text(child, part)
        for language in self.languages:
            if language not in at.value:
                self.wrong(at, f"`{part}` has no text in {language!r}. Write `{language}: …` under it.")

    def text(self, at: At, part: str, places: bool = True) -> None:
        """One text; nothing fills `places` in one that asks a critic."""
        said = at.value
        if not isinstance(said, str) or not said.strip():
            self.wrong(at, f"`{part}` is empty. Write a sentence.")
            return
        if len(said) > LONGEST:
            self.wrong(at, f"`{part}` has {len(said)} characters. Say it in at most {LONGEST}.")
        if CONTROL.search(said):
            self.wrong(at, f"`{part}` has a control character in it. Write plain letters and signs.")
        for place in dict.fromkeys(PLACE.findall(said) if places else ()):
            self.wrong(
                at,
                f"`{part}` has the place {place[:40]}, which nothing fills. Remove it: request and answer are shown.",
            )
        for pattern in (*APPROVES, *(WANTS_HARM if part in ("revision", "comparison") else ())):
            if found := pattern.search(said):
                self.wrong(at, f"`{part}` may approve of harm ({found[0][-60:]!r}). Say what is meant in other words.")

    def twice(self, listed: list[At]) -> None:
        """Names that come twice and principles that say nearly the same."""
        whole = [at for at in listed if isinstance(at.value, dict) and isinstance(at.value.get("id", At(0)).value, str)]
        first: dict[str, At] = {}
        for at in whole:
            name = at.value["id"].value
            if first.setdefault(name, at) is not at:
                self.wrong(at.value["id"], f"the id {name[:60]!r} comes twice. Give this principle another one.")
        for part in PARTS:
            for language in self.languages:
                pieces = [(at, shingles_of(said)) for at in whole if (said := _said(at, part, language))]
                for (one, a), (other, b) in combinations(pieces, 2):
                    if _alike(a, b):
                        self.wrong(
                            other.value[part],
                            f"`{part}` of {other.value['id'].value!r} says nearly the same as that of "
                            f"{one.value['id'].value!r} in {language!r}. Keep one of them, or say what sets them apart.",
                        )
        for at in whole:
            for language in self.languages:
                texts = [text for part in PARTS if (text := _said(at, part, language))]
                if len(set(texts)) < len(texts):
                    self.wrong(
                        at,
                        f"two parts of {at.value['id'].value!r} are one text in {language!r}. Write each for its use.",
                    )

    def example(self, at: At, known: set[str]) -> None:
        if not self.keys(at, SHOWN, SHOWN, "an example"):
            return
        for key in (key for key in SHOWN if key in at.value):
            self.text(at.value[key], key, places=False)
        principle, language = (str(at.value.get(key, At("")).value) for key in SHOWN[:2])
        if "principle" in at.value and principle not in known:
            self.wrong(at.value["principle"], f"no principle is called {principle[:60]!r}. {nearest(principle, known)}")
        if "language" in at.value and language not in self.languages:
            self.wrong(
                at.value["language"], f"the language {language[:20]!r} is not used. {nearest(language, self.languages)}"
            )
        if {"answer", "revision"} <= at.value.keys() and at.value["answer"].value == at.value["revision"].value:
            self.wrong(at.value["revision"], "the revision is the answer again. Show an answer that is made better.")


def _said(at: At, part: str, language: str) -> str:
    """A text of a principle; empty where there is none."""
    value = at.value.get(part, At("")).value
    value = value.get(language, At("")).value if isinstance(value, dict) else value
    return value.strip() if isinstance(value, str) else ""


def _alike(a: Any, b: Any) -> bool:
    """Whether two texts share nearly all of their pieces."""
    shared = len(np.intersect1d(a, b, assume_unique=True))
    return shared >= NEAR * (len(a) + len(b) - shared)
