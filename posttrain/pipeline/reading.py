"""Reading a recipe strictly: every mistake at once, each with its line and the nearest word that would have been right."""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from posttrain.engine.method import Stage, stage_class
from posttrain.schema.errors import Problem, UsageError, nearest
from posttrain.schema.settings import problems as problems_of

from . import overrides as override
from .overrides import only, short
from .recipe import AGAINST, BASE, RULES, Entry, Gate, Recipe, Repeat
from .tree import Node, child_of, read, written

KEYS = ("name", "model", "seed", "measure", "stages")
RESERVED = {"stages": ("name", "from", "gate", "measure"), "measure": ("name",)}
MOST_SEED = 2**63 - 1
NAME = re.compile(r"\w[\w-]{0,59}")
RUN_NAME = re.compile(r"\w[\w.-]{0,79}")
DOTTED = re.compile(r"\w+(\.\w+)*:\w+")
EXAMPLES = {"stages": "sft: {data: lab:chat/train}", "measure": "benchmark: {data: lab:chat/test}"}
REPEATED = frozenset(("times", "stages", "until"))
GATE = "gate: {chat.exact_match: {drop_at_most: 0.05}}"


def draft(text: str, where: str = "recipe", overrides: Sequence[str] = ()) -> tuple[Recipe, list[Problem]]:
    """The recipe as far as it can be understood, and every problem found. Raises RecipeError when it is not YAML."""
    tree, problems = read(text, where)
    tree, changes, unplaced = override.apply(tree, overrides)
    reading = _Reading([*problems, *unplaced])
    fields = reading.fields(tree)
    remark = " ".join(f"# {where}, changed: {'; '.join(changes)}".split())
    kept = f"{remark}\n{written(tree.plain())}" if changes else text
    return Recipe(**fields, tree=tree, text=kept, changes=tuple(changes)), reading.problems


@dataclass
class _Reading:
    """Reads a tree and collects what is wrong in it."""

    problems: list[Problem] = field(default_factory=list)
    names: dict[str, Node] = field(default_factory=dict)

    def wrong(self, node: Node, message: str) -> None:
        self.problems.append(node.problem(message))

    def fields(self, tree: Node) -> dict[str, Any]:
        """The values of a Recipe's fields."""
        if not isinstance(tree.value, dict):
            self.wrong(tree, "a recipe is a mapping. Write at least `model:` and `stages:`.")
            tree = Node({"model": Node(BASE), "measure": Node([])}, tree.line, tree.where)
        for key in tree.value.keys() - set(KEYS):
            self.wrong(tree.value[key], f"there is no key {key!r} in a recipe. {nearest(key, KEYS)}")
        measure, stages = self.entries(tree, "measure"), self.entries(tree, "stages")
        if not {"measure", "stages"} & tree.value.keys():
            self.wrong(tree, "there is nothing to do. Write `stages:`, or `measure:`, or both.")
        return {
            "name": self.run_name(tree),
            "model": self.model(tree),
            "seed": self.seed(tree),
            "measure": tuple(entry for entry in measure if isinstance(entry, Entry)),
            "stages": tuple(stages),
        }

    def run_name(self, tree: Node) -> str:
        stem = re.sub(r"[^\w.-]+", "-", re.sub(r"^.*/|\.ya?ml$", "", tree.where)).strip(".-")[:80] or "recipe"
        node = child_of(tree, "name")
        if node is None:
            return stem
        if not isinstance(node.value, str) or not RUN_NAME.fullmatch(node.value):
            self.wrong(node, f"name: {node.plain()!r} cannot name a folder. Use letters, digits, `-`, `_` and `.`.")
            return stem
        return node.value

    def model(self, tree: Node) -> str:
        node = child_of(tree, "model")
        if node is None:
            self.wrong(tree, "the base model is missing. Write `model: lab`, or a folder, or a Hub id.")
        elif not isinstance(node.value, str) or not node.value:
            self.wrong(node, f"model: {node.plain()!r} names no model. Write `model: lab`, or a folder, or a Hub id.")
        else:
            return node.value
        return "lab"

    def seed(self, tree: Node) -> int:
        node = child_of(tree, "seed") or Node(0)
        if type(node.value) is not int or not 0 <= node.value <= MOST_SEED:
            self.wrong(node, f"seed: {node.plain()!r} is no seed. Write a whole number from 0, such as `seed: 0`.")
            return 0
        return node.value

    def entries(self, above: Node, part: str) -> list[Entry | Repeat]:
        """The stages or the measures listed under a key."""
        listed = child_of(above, part)
        if listed is None or listed.value is None:
            return []
        if not isinstance(listed.value, list):
            self.wrong(listed, f"`{part}:` is a list. Begin each entry with `- `, such as `- {EXAMPLES[part]}`.")
            return []
        found = [self.entry(node, part) for node in listed.value]
        return [entry for entry in found if entry is not None]

    def entry(self, node: Node, part: str) -> Entry | Repeat | None:
        method, options = only(node)
        if method is None:
            self.wrong(node, self.shape(node, part))
        elif not isinstance(options.value, dict | None):
            self.wrong(options, f"the options of {method!r} are a mapping. Write `- {method}: {{option: value}}`.")
        elif method == "repeat" and part == "stages":
            return self.repeat(options)
        else:
            return self.method_entry(method, options, part)
        return None

    def shape(self, node: Node, part: str) -> str:
        extra = [key for key in node.value if key in RESERVED[part]] if isinstance(node.value, dict) else []
        if extra:
            return (
                f"`{extra[0]}` stands beside the method. Indent it further, so that it is one of the method's options."
            )
        return f"an entry of `{part}:` is one method with its options. Write `- {EXAMPLES[part]}`."

    def repeat(self, node: Node) -> Repeat:
        children = node.value or {}
        times, stages = children.get("times", Node()), self.entries(node, "stages")
        for key in children.keys() - REPEATED:
            self.wrong(children[key], f"`repeat` has no {key!r}. {nearest(key, REPEATED)}")
        if wrong := _until(children["until"], stages) if "until" in children else "":
            self.wrong(children["until"], wrong)
        if type(times.value) is not int or times.value < 1:
            self.wrong(times if times.where else node, "`repeat` needs `times:`, a whole number from 1.")
        elif not stages and "stages" not in children:
            self.wrong(node, "`repeat` needs `stages:`, the list of stages to repeat.")
        else:
            return Repeat(times.value, tuple(stages), node, "until" in children)
        return Repeat(1, tuple(stages), node)

    def method_entry(self, method: str, node: Node, part: str) -> Entry:
        children: Mapping[str, Node] = node.value or {}
        name = self.entry_name(children.get("name"), method, node, part)
        reserved = {key: children[key] for key in RESERVED[part] if key in children}
        options = Node({key: child for key, child in children.items() if key not in reserved}, node.line, node.where)
        return Entry(
            name,
            method,
            node,
            stage=self.stage(method, options, part, name),
            source=self.source(reserved.get("from")),
            gates=tuple(self.gates(reserved.get("gate", Node()))),
            measured=self.measured(reserved.get("measure")) if part == "stages" else True,
        )

    def entry_name(self, given: Node | None, method: str, node: Node, part: str) -> str:
        name = given.value if given else short(method)
        if not isinstance(name, str) or not NAME.fullmatch(name):
            if given:
                self.wrong(given, f"name: {given.plain()!r} is no name. Use letters, digits, `-` and `_`.")
            name = short(method)
        first = self.names.setdefault(f"{part} {name}", node)
        if first is not node:
            place = f" on line {first.line}" if first.line else ""
            self.wrong(
                given or node,
                f"the name {name!r} is taken by the entry{place}. Give this one another: `name: {name}-2`.",
            )
        if part == "stages" and name == BASE:
            self.wrong(given or node, f"{BASE!r} is what the recipe's model is called. Give the stage another `name:`.")
        return name

    def stage(self, method: str, options: Node, part: str, name: str) -> Stage | None:
        """The settings of a method, checked; None after reporting why not."""
        try:
            found = _class(method)
        except UsageError as error:
            self.wrong(options, str(error))
            return None
        if (found.kind == "measure") != (part == "measure"):
            judges = found.kind == "measure"
            does, part = ("judges a model", "measure") if judges else (f"is a {found.kind}", "stages")
            self.wrong(options, f"{method!r} {does}. Put it under `{part}:`.")
            return None
        values = options.plain()
        mistakes = problems_of(found, values)
        for path, problem in mistakes:
            self.wrong(options.nearest(path), f"{name}: {problem.message}")
        return None if mistakes else found.model_validate(values)

    def source(self, node: Node | None) -> str | None:
        if node is None or node.value is None:
            return None
        if not isinstance(node.value, str):
            self.wrong(node, f"from: {node.plain()!r} names no stage. Write the name of one stage, or `{BASE}`.")
            return None
        return node.value

    def measured(self, node: Node | None) -> bool:
        if node is None or isinstance(node.value, bool):
            return node is None or bool(node.value)
        self.wrong(node, f"measure: {node.plain()!r} is neither true nor false. The suite itself stands at the top.")
        return True

    def gates(self, node: Node, metric: str = "") -> Iterator[Gate]:
        """The limits under `gate:`; a metric may be written with a dot or as two levels."""
        if not isinstance(node.value, dict | None):
            self.wrong(node, f"a gate is written `{GATE}`, not {node.plain()!r}.")
            return
        children = node.value or {}
        against = children.get(AGAINST, Node())
        if amiss := _amiss(children, metric):
            self.wrong(against if AGAINST in children else node, amiss)
            against = Node()
        for key, child in children.items():
            if key == AGAINST:
                continue
            if key not in RULES and isinstance(child.value, dict):
                yield from self.gates(child, f"{metric}.{key}".lstrip("."))
            elif key not in RULES:
                self.wrong(child, f"a gate has no rule {key!r}. {nearest(key, RULES)}")
            elif type(child.value) not in (int, float) or not abs(child.value) < float("inf"):
                self.wrong(child, f"{key}: {child.plain()!r} is no limit. Write a number, such as `{key}: 0.05`.")
            elif "." not in metric:
                self.wrong(child, f"a gate names a measure and its metric: `{GATE}`.")
            else:
                yield Gate(metric, key, float(child.value), child, against.value)


def _amiss(children: Mapping[str, Node], metric: str) -> str:
    """What is wrong with one level of a gate, beside its rules."""
    against = children.get(AGAINST)
    if against is not None and not isinstance(against.value, str):
        return f"{AGAINST}: {against.plain()!r} is no name. Write the name of a stage, or `base`."
    deeper = all(isinstance(child.value, dict) for key, child in children.items() if key != AGAINST)
    if deeper and (against or (metric and not children)):
        named = f"the gate on {metric!r}" if metric else "a gate"
        return f"{named} has no rule. Write `{GATE}`; `{AGAINST}: NAME` stands beside its rule."
    return ""


def _until(node: Node, stages: Sequence[Entry | Repeat]) -> str:
    """What is wrong with `until:`, of which there is one kind: rounds end once their gates hold. Empty if nothing is."""
    if any(entry.ends_early for entry in stages if isinstance(entry, Repeat)):
        return "`until: gates` stands within another one, whose rounds it would end. Leave out one of the two."
    if node.value != "gates":
        return f"until: {node.plain()!r} is nothing to wait for. Write `until: gates`, or leave it out."
    if not any(isinstance(entry, Entry) and entry.gates for entry in stages):
        return "`until: gates` needs a stage with a `gate:` among those that are repeated. Give one, or leave it out."
    return ""


def _class(method: str) -> type[Stage]:
    if ":" in method and not DOTTED.fullmatch(method):
        raise UsageError(f"{method!r} names no class. Write it as `package.module:Class`.")
    return stage_class(method)
