"""Overrides: `sft.learning_rate=1e-4` on the command line changes the recipe's tree before it is checked.

A path starts at a key of the recipe (`model`, `stages.0`, `measure.chat`) or with the name of a stage or measure. The
value is YAML. What an option may be called is not known here: a new option is planted, and the check that follows
says what is wrong with it.
"""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from posttrain.schema.errors import Problem, RecipeError, nearest

from .tree import Node, child_of, plant, read, written

LISTS = ("stages", "measure")
PLAIN = ("name", "model", "seed")
Place = tuple[str, ...]


def from_keywords(values: dict[str, object]) -> list[str]:
    """Overrides for values given in Python, `learning_rate=1e-4` or `{"sft.learning_rate": 1e-4}`."""
    return [f"{path}={written(_spelt(value), flow=True)}" for path, value in values.items()]


def _spelt(value: object) -> object:
    return str(value) if isinstance(value, Path) else value


def apply(tree: Node, overrides: Sequence[str]) -> tuple[Node, list[str], list[Problem]]:
    """The changed tree, one line `path old -> new` for each override, and what is wrong with them."""
    changes: list[str] = []
    problems: list[Problem] = []
    for text in overrides:
        where = f"override {text}"
        try:
            path, new = _parse(text, where)
            place = _place(tree, path, where)
            tree, old = _put(tree, place, new), _at(tree, place)
        except RecipeError as error:
            problems += error.problems
            continue
        changes.append(f"{path} {_shown(old)} -> {_shown(new)}")
    return tree, changes, problems


def _shown(node: Node | None) -> str:
    return "default" if node is None else " ".join(written(node.plain(), flow=True).split())


def _parse(text: str, where: str) -> tuple[str, Node]:
    path, equals, value = text.partition("=")
    if not equals or not path.strip(". "):
        raise _wrong("an override is written `path=value`, such as sft.learning_rate=1e-4.", where)
    try:
        node, problems = read(value, where)
    except RecipeError as error:
        node, problems = Node(), list(error.problems)
    if problems:
        raise RecipeError(replace(problem, line=None) for problem in problems)
    return path.strip(), plant(node.plain(), where)


def _place(tree: Node, path: str, where: str) -> Place:
    """The keys that lead from the root to what the path names; the last ones may not exist yet."""
    head, *rest = path.split(".")
    if head in (*PLAIN, *LISTS) and not rest:
        return (head,)
    if head in LISTS and rest:
        entries = dict(named(tree, head))
        entries |= {place[1]: place for place in entries.values() if len(place) == 3}
        head, *rest = rest
    else:
        entries = {name: place for part in reversed(LISTS) for name, place in named(tree, part)}
    if head not in entries:
        hint = nearest(head, [str(name) for name in (*entries, *PLAIN)])
        raise _wrong(f"there is no stage, measure or key {head!r} in the recipe. {hint}", where)
    return _inside(tree, entries[head], path, rest, where)


def named(tree: Node, part: str, above: Place = ()) -> Iterator[tuple[str, Place]]:
    """(name, place of its options) of every stage or measure of the tree, those inside rounds too."""
    listed = child_of(tree, part)
    for index, entry in enumerate(listed.value if listed and isinstance(listed.value, list) else []):
        method, options = only(entry)
        if method is None:
            continue
        name = child_of(options, "name")
        place = (*above, part, str(index), method)
        yield (str(name.value) if name else short(method)), place
        if method == "repeat":
            yield from named(options, part, place)


def only(entry: Node) -> tuple[str | None, Node]:
    """The method of an entry and its options: `{sft: {…}}`, or just `size`. (None, entry) when it is neither."""
    if isinstance(entry.value, str):
        return entry.value, replace(entry, value=None)
    if isinstance(entry.value, dict) and len(entry.value) == 1:
        return next(iter(entry.value.items()))
    return None, entry


def short(method: str) -> str:
    """What a stage is called that was given no name: its method, or the class of `my_package.losses:Mine` as `mine`."""
    return method.rpartition(":")[2].lower() if ":" in method else method


def _inside(tree: Node, place: Place, path: str, rest: Sequence[str], where: str) -> Place:
    """`place` lengthened by the rest of `path`; a key may itself hold dots, as the metrics of gates do."""
    node = _at(tree, place) or Node()
    while rest:
        joined = [".".join(rest[:n]) for n in range(len(rest), 0, -1)]
        at = path.removesuffix(f".{joined[0]}")
        key = next((key for key in joined if child_of(node, key)), rest[0])
        if node.value is not None and not isinstance(node.value, dict | list):
            raise _wrong(f"{at} is {_shown(node)}, which has no {key!r} inside. Set it as a whole: {at}=…", where)
        if isinstance(node.value, list) and not child_of(node, key):
            raise _wrong(f"{at} is a list of {len(node.value)}. Count from 0.", where)
        place, node, rest = (*place, key), child_of(node, key) or Node(), rest[key.count(".") + 1 :]
    return place


def _at(tree: Node, place: Place) -> Node | None:
    node: Node | None = tree
    for key in place:
        node = only(node)[1] if node and node.value == key else node and child_of(node, key)
    return node


def _put(node: Node, place: Place, new: Node) -> Node:
    """The tree with `new` at a place; an entry that is only a method's name becomes a mapping."""
    if not place:
        return new
    key, rest = place[0], place[1:]
    if isinstance(node.value, list):
        changed = [_put(child, rest, new) if str(i) == key else child for i, child in enumerate(node.value)]
        return replace(node, value=changed)
    children = node.value if isinstance(node.value, dict) else {}
    return replace(node, value={**children, key: _put(children.get(key, replace(node, value=None)), rest, new)})


def _wrong(message: str, where: str) -> RecipeError:
    return RecipeError([Problem(message, where=where)])
