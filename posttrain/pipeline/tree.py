"""YAML text as a tree in which every value knows where it was written.

Read with the rules of YAML 1.2: `6e-4` is a number, `yes` and `no` are words. A key that appears twice, a tag and an
alias of itself are mistakes; every mistake is a Problem with its line.
"""

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

import yaml

from posttrain.schema.errors import Problem, RecipeError

MOST_NODES = 20_000  # an alias of an alias of … is refused before it fills the memory
TAG = "tag:yaml.org,2002:"
SCALARS = {  # tag -> (the text it is written as, the characters that may start it)
    "null": (r"~|null|Null|NULL|", ["~", "n", "N", ""]),
    "bool": (r"true|True|TRUE|false|False|FALSE", list("tTfF")),
    "int": (r"[-+]?[0-9]{1,300}|0x[0-9a-fA-F]{1,200}", list("-+0123456789")),
    "float": (
        r"[-+]?(\.[0-9]+|[0-9]+\.[0-9]*|[0-9]+(?=[eE]))([eE][-+]?[0-9]+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)",
        list("-+.0123456789"),
    ),
}


CONVERT: dict[str, Callable[[str], Any]] = {
    "null": lambda text: None,
    "bool": lambda text: text.lower() == "true",
    "int": lambda text: int(text, 16 if text.startswith("0x") else 10),
    "float": lambda text: float(re.sub(r"\.(?=inf|nan)", "", text.lower())),
    "str": str,
}


class _Loader(yaml.SafeLoader):
    """Only used to compose nodes; values are made here."""

    yaml_implicit_resolvers: ClassVar[dict[str, Any]] = {}


class _Dumper(yaml.SafeDumper):
    """Quotes every word that YAML 1.1 or 1.2 would take for something else."""


def _quoted(dumper: yaml.SafeDumper, text: str) -> yaml.Node:
    """A string; with escapes where it holds one of YAML's rarer line breaks, which other quotes would turn to spaces."""
    return dumper.represent_scalar(TAG + "str", text, style='"' if set(text) & set("\x85\u2028\u2029\r") else None)


_Dumper.add_representer(str, _quoted)
for _tag, (_written, _first) in SCALARS.items():
    for _class in (_Loader, _Dumper):
        _class.add_implicit_resolver(TAG + _tag, re.compile(f"^(?:{_written})$"), _first)


@dataclass(frozen=True)
class Node:
    """A value and its place. `value` is a dict of Nodes, a list of Nodes, or a plain scalar. What was given by an
    override has no line, and says so in `where`."""

    value: Any = None
    line: int | None = None
    where: str = ""

    def problem(self, message: str) -> Problem:
        return Problem(message, self.line, self.where)

    def plain(self) -> Any:
        """The value as JSON would hold it."""
        if isinstance(self.value, dict):
            return {key: child.plain() for key, child in self.value.items()}
        return [child.plain() for child in self.value] if isinstance(self.value, list) else self.value

    def nearest(self, path: str) -> "Node":
        """The Node that a dotted path leads to, or the last one on the way that exists."""
        node = self
        for key in path.split("."):
            child = child_of(node, key)
            if child is None:
                break
            node = child
        return node


def child_of(node: Node, key: str) -> Node | None:
    """The Node under a key of a mapping or an index of a list; None where there is none."""
    if isinstance(node.value, dict):
        return node.value.get(key)
    if isinstance(node.value, list) and key.isdecimal() and int(key) < len(node.value):
        return node.value[int(key)]
    return None


def plant(value: Any, where: str) -> Node:
    """A plain value as a tree, all of it from one place."""
    if isinstance(value, Mapping):
        return Node({str(key): plant(child, where) for key, child in value.items()}, None, where)
    if isinstance(value, list | tuple):
        return Node([plant(child, where) for child in value], None, where)
    return Node(value, None, where)


def written(value: Any, *, flow: bool = False) -> str:
    """A plain value as YAML that `read` gives back unchanged; `flow` puts it on one line."""
    text = yaml.dump(value, Dumper=_Dumper, sort_keys=False, allow_unicode=True, default_flow_style=flow, width=10**6)
    return text.removesuffix("\n").removesuffix("\n...") if flow else text


def read(text: str, where: str) -> tuple[Node, list[Problem]]:
    """The tree of a text and what is wrong in it. Raises RecipeError when the text is not YAML at all."""
    try:
        root = yaml.compose(text, Loader=_Loader)
        growing = _Growing(where)
        tree = growing.node(root) if root is not None else Node(None, 1, where)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        said = error.problem or error.context or "it cannot be read"
        raise _no_yaml(said, mark.line + 1 if mark else None, where) from error
    except RecursionError:
        raise _no_yaml("it is nested too deeply", None, where) from None
    except (yaml.YAMLError, ValueError, OverflowError) as error:
        raise _no_yaml(str(error).partition("\n")[0], None, where) from error
    return tree, growing.problems


def _no_yaml(said: str, line: int | None, where: str) -> RecipeError:
    return RecipeError(
        [Problem(f"this is not YAML: {said}. Mend the line, or compare with a shipped recipe.", line, where)]
    )


@dataclass
class _Growing:
    """Makes Nodes of what PyYAML composed, and collects what is wrong."""

    where: str
    problems: list[Problem] = field(default_factory=list)
    open: set[int] = field(default_factory=set)
    n_nodes: int = 0

    def node(self, composed: yaml.Node) -> Node:
        line = composed.start_mark.line + 1
        self.n_nodes += 1
        if self.n_nodes > MOST_NODES:
            raise _no_yaml(f"it holds more than {MOST_NODES} values", line, self.where)
        if isinstance(composed, yaml.ScalarNode):
            return Node(self.scalar(composed, line), line, self.where)
        if id(composed) in self.open:
            return self.wrong("an alias stands inside what it names. Write the values out.", line)
        self.open.add(id(composed))
        value = (
            dict(self.pairs(composed))
            if isinstance(composed, yaml.MappingNode)
            else [self.node(c) for c in composed.value]
        )
        self.open.discard(id(composed))
        return Node(value, line, self.where)

    def pairs(self, composed: yaml.MappingNode) -> Iterator[tuple[str, Node]]:
        """Keys with their Nodes; a Node under a key stands on the line of its key."""
        lines: dict[str, int] = {}
        for key, value in composed.value:
            line = key.start_mark.line + 1
            if not isinstance(key, yaml.ScalarNode):
                self.wrong("a key must be one word. Put quotes around it if it is one.", line)
            elif key.value in lines:
                self.wrong(f"the key {key.value!r} appears twice, first on line {lines[key.value]}. Remove one.", line)
            else:
                lines[key.value] = line
                yield str(key.value), replace(self.node(value), line=line)

    def scalar(self, composed: yaml.ScalarNode, line: int) -> Any:
        text, tag = composed.value, composed.tag.removeprefix(TAG)
        if tag not in (*SCALARS, "str") or (tag != "str" and not re.fullmatch(SCALARS[tag][0], text)):
            return self.wrong(f"the tag {composed.tag!r} has no place here. Write the plain value.", line).value
        if "\0" in text or any("\ud800" <= letter <= "\udfff" for letter in text):
            return self.wrong(f"{text!r} holds a character that no text holds. Remove it.", line).value
        return CONVERT[tag](text)

    def wrong(self, message: str, line: int) -> Node:
        self.problems.append(Problem(message, line, self.where))
        return Node(None, line, self.where)
