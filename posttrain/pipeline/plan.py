"""A recipe becomes a plan: rounds unrolled, inputs wired, forms checked. Pure: no disk, no weights.

A step takes its model from `from:`, or from the last stage that made one; a reward model judges and is taken by its name
alone. A `data:` that is the name of an earlier
generator takes what it made. The second round of `dpo` is called `dpo@2`; inside a round a name means this round's,
elsewhere the last round's. A measure may name any stage: it is taken of every model as soon as all that it names is made.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

from posttrain.engine.method import Measure, Stage
from posttrain.schema.errors import Problem, RecipeError, nearest
from posttrain.schema.rows import Row
from posttrain.schema.settings import Rows, forms_of, input_of, inputs

from .reading import NAME, draft
from .recipe import BASE, Entry, Gate, Recipe, Round, names_in, unrolled
from .step import Input, Step
from .tree import Node

MOST_STEPS = 1000
SCORES = "reward"  # the form of models that score answers and write none


@dataclass(frozen=True)
class Plan:
    """Steps in the order they are made. `suite` says, for every model, the names of the measures it gets."""

    recipe: Recipe
    steps: tuple[Step, ...]
    measures: tuple[Step, ...]
    suite: Mapping[str, tuple[str, ...]]
    notes: tuple[str, ...] = ()

    def due(self, at: str) -> Sequence[tuple[str, Step]]:
        """Every (model, measure) that can be measured as soon as the step `at` is made, and not before."""
        return self._due.get(at, ())

    @cached_property
    def _due(self) -> Mapping[str, Sequence[tuple[str, Step]]]:
        order = [BASE, *(step.name for step in self.steps)]
        place, found = {name: n for n, name in enumerate(order)}, {name: list[tuple[str, Step]]() for name in order}
        for model, names in self.suite.items():
            for measure in (measure for measure in self.measures if measure.name in names):
                last = max((model, *measure.waits_for), key=place.__getitem__)
                found[last].append((model, measure))
        return found

    def outside(self) -> Iterator[tuple[tuple[type[Row], ...], Input]]:
        """Everything that is read and that no step makes; rows with the shapes they may have, where these are known."""
        for step in (*self.measures, *self.steps):
            for option, source in ((option, source) for option, all in step.inputs.items() for source in all):
                if source.step is None:  # what a group of options reads may be of another shape
                    yield step.stage.shapes() if source.rows and "." not in option else (), source


def load(text: str, where: str = "recipe", overrides: Sequence[str] = ()) -> Plan:
    """The plan of a recipe's text. Raises RecipeError with every problem of the text and of the plan."""
    planned, problems = drafted(text, where, overrides)
    refuse(problems)
    return planned


def drafted(text: str, where: str, overrides: Sequence[str], base_form: str = "dense") -> tuple[Plan, list[Problem]]:
    """The plan of a recipe's text as far as it can be made, and what is wrong with either."""
    recipe, problems = draft(text, where, overrides)
    planned, more = check(recipe, base_form)
    return planned, [*problems, *more]


def refuse(problems: Iterable[Problem]) -> None:
    """Raises RecipeError with the problems in the order of their lines, if there are any."""
    found = sorted(set(problems), key=lambda problem: (problem.line or 0, problem.message))
    if found:
        raise RecipeError(found)


def plan(recipe: Recipe, base_form: str = "dense") -> Plan:
    """The plan for a base model of this form. Raises RecipeError with every problem."""
    planned, problems = check(recipe, base_form)
    if problems:
        raise RecipeError(problems)
    return planned


def check(recipe: Recipe, base_form: str = "dense") -> tuple[Plan, list[Problem]]:
    """The plan as far as it can be made, and what is wrong with it. Entries that are wrong in themselves are passed
    over silently: whoever read them has said so."""
    wiring = _Wiring(recipe, forms={BASE: base_form})
    for entry, rounds, within in unrolled(recipe.stages):
        if len(wiring.kinds) > MOST_STEPS:
            wiring.wrong(entry.node, f"the recipe has more than {MOST_STEPS} steps. Write a smaller `times:`.")
            break
        wiring.step(entry, rounds, within)
    wiring.judge()
    steps, measures = tuple(wiring.steps), tuple(wiring.measures)
    return Plan(recipe, steps, measures, wiring.suite, tuple(wiring.notes)), list(dict.fromkeys(wiring.problems))


@dataclass
class _Wiring:
    """What is known while the plan is made, step by step. A form or kind is None where it cannot be known."""

    recipe: Recipe
    forms: dict[str, str | None]
    kinds: dict[str, str | None] = field(default_factory=lambda: {BASE: "model"})
    steps: list[Step] = field(default_factory=list)
    measures: list[Step] = field(default_factory=list)
    suite: dict[str, tuple[str, ...]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)
    judged: dict[str, Entry | None] = field(default_factory=lambda: {BASE: None})
    current: str = BASE

    def wrong(self, node: Node, message: str) -> None:
        self.problems.append(node.problem(message))

    def judge(self) -> None:
        """Measures may read what stages make, so they are wired once all stages are; then suites and gates follow."""
        for entry in self.recipe.measure:
            if entry.stage is not None:
                self.measures.append(Step(entry.name, entry.method, entry.stage, self.inputs(entry, ""), entry.node))
        for model, made_by in self.judged.items():
            self.give_suite(model, self.forms[model], made_by is None or made_by.measured)
        places = {name: n for n, name in enumerate(self.kinds)}
        for step in self.steps:
            self.check_gates(step, places)
            self.warn_of_blind_gates(step)

    def step(self, entry: Entry, rounds: str, within: Round | None = None) -> None:
        name = entry.name + rounds
        source = self.source(entry, rounds)
        if entry.stage is None:
            self.kinds[name], self.forms[name], self.judged[name] = None, None, entry
            self.current = name
            return
        form = self.form(entry, entry.stage, source)
        wires = {"model": (Input(source, source, entry.node),), **self.inputs(entry, rounds)}
        gates = tuple(self.named(gate, rounds) for gate in entry.gates)
        step = Step(name, entry.method, entry.stage, wires, entry.node, form, gates, within)
        self.steps.append(step)
        self.kinds[name] = "model" if step.makes_model else "dataset"
        if step.makes_model:
            self.forms[name], self.judged[name] = form, entry
            self.current = self.current if form == SCORES else name

    def named(self, gate: Gate, rounds: str) -> Gate:
        """A gate with the full name of the model that it compares with."""
        found = self.resolve(gate.against, rounds) if gate.against else None
        return replace(gate, against=found) if found else gate

    def source(self, entry: Entry, rounds: str) -> str:
        """The model a stage begins with, by its full name."""
        if entry.source is None:
            return self.current
        node = entry.node.nearest("from")
        found = self.resolve(entry.source, rounds)
        if found is None:
            models = [name for name, kind in self.kinds.items() if kind != "dataset"]
            self.wrong(
                node, f"{entry.name}: no earlier stage is called {entry.source!r}. {nearest(entry.source, models)}"
            )
            return self.current
        if self.kinds[found] == "dataset":
            self.wrong(
                node,
                f"{entry.name}: {entry.source!r} makes data, and `from` wants a model. Write `data: {entry.source}`.",
            )
            return self.current
        return found

    def resolve(self, name: str, rounds: str) -> str | None:
        """The step that a name means here: this round's, an outer round's, or the last one so called."""
        turns = rounds.split("@")[1:]
        for depth in range(len(turns), -1, -1):
            full = "@".join([name, *turns[:depth]])
            if full in self.kinds:
                return full
        return next((full for full in reversed(self.kinds) if full.partition("@")[0] == name), None)

    def form(self, entry: Entry, stage: Stage, source: str) -> str | None:
        """The form of the model that a stage leaves; what it is given must be one that it accepts."""
        given = self.forms[source]
        if given is None:
            return None
        if stage.takes(given):
            return stage.makes_form(given)
        cure = self.cure(stage, given)
        self.wrong(
            entry.node,
            f"{entry.name!r} takes {' or '.join(sorted(stage.accepted()))} weights, and {source!r} holds {given} ones. {cure}",
        )
        return None

    def cure(self, stage: Stage, given: str) -> str:
        fitting = [name for name, form in self.forms.items() if form and stage.takes(form)]
        branch = f"write `from: {fitting[-1]}`" if fitting else ""
        merge = "insert `- merge` before it" if given == "adapter" and "dense" in stage.accepted() else ""
        other = f"give it other settings, with which it takes {given} ones" if given in stage.accepts else ""
        cure = ", or ".join(part for part in (merge, branch, other) if part) or "begin with a model of that form"
        return f"{cure[0].upper()}{cure[1:]}."

    def inputs(self, entry: Entry, rounds: str) -> dict[str, tuple[Input, ...]]:
        """One wire for every setting that names an input."""
        assert entry.stage is not None
        wires = {}
        for option, kind in inputs(type(entry.stage)).items():
            value, node = input_of(entry.stage, option), entry.node.nearest(option)
            names = [value] if isinstance(value, str | Rows) else list(value or ())
            forms = forms_of(type(entry.stage), option)
            wires[option] = tuple(self.wire(entry, kind, forms, name, node, rounds) for name in names)
        return {option: wire for option, wire in wires.items() if wire}

    def wire(
        self, entry: Entry, kind: str, forms: tuple[str, ...], named: str | Rows, node: Node, rounds: str
    ) -> Input:
        name, rows = (named.path, named) if isinstance(named, Rows) else (named, None)
        found = self.resolve(name, rounds) if NAME.fullmatch(name) else None
        if found is None and name in names_in(self.recipe.stages):
            self.wrong(node, f"{entry.name}: {name!r} is made later than it is read. Move it up.")
        if found is None:
            return Input(name, None, node, rows, forms)
        if self.kinds[found] not in (kind, None):
            makes, wants = self.kinds[found], "rows" if kind == "dataset" else "a model"
            self.wrong(
                node, f"{entry.name}: {name!r} makes a {makes}, and {wants} is wanted. For a folder write `./{name}`."
            )
        elif forms and self.forms.get(found) not in (*forms, None):
            fitting = [name for name, each in self.forms.items() if each in forms]
            cure = f"Write `{fitting[-1]}`." if fitting else f"Put a `{forms[0]}` stage before it."
            wanted = f"holds {self.forms[found]} weights, and {' or '.join(forms)} ones are wanted"
            self.wrong(node, f"{entry.name}: {name!r} {wanted}. {cure}")
        return Input(found, found, node, rows, forms)

    def give_suite(self, model: str, form: str | None, measured: bool) -> None:
        """Says what a model is measured with: all of the suite that can load it. That what scores is not measured as what
        writes, and the other way round, need not be said."""
        fitting = [m for m in self.measures if form is None or m.stage.takes(form)] if measured else []
        self.suite[model] = tuple(m.name for m in fitting)
        alike = (m for m in self.measures if (SCORES in m.stage.accepts) == (form == SCORES))
        left_out = [m.name for m in alike if m not in fitting]
        if measured and left_out:
            self.notes.append(f"{model} is not measured with {', '.join(left_out)}: no measure of {form} weights")

    def earlier(self, step: Step, places: Mapping[str, int]) -> list[str]:
        """The models that are made before a step."""
        return [name for name in self.suite if name == BASE or places.get(name, len(places)) < places[step.name]]

    def warn_of_blind_gates(self, step: Step) -> None:
        """A word of warning where all that a rewritten model is held to may hold while its answers change."""
        measures = {measure.name: measure.stage for measure in self.measures}
        held = [measures[gate.measure] for gate in step.gates if gate.measure in measures]
        if step.stage.kind != "transform" or not held or not all(isinstance(m, Measure) and m.blind for m in held):
            return
        named = " and ".join(dict.fromkeys(gate.measure for gate in step.gates))
        note = (
            f"{step.name.partition('@')[0]} is held to {named} alone, which may hold while answers change. Add a gate on "
            "`fidelity`, `flips` or a benchmark"
        )
        if note not in self.notes:
            self.notes.append(note)

    def check_gates(self, step: Step, places: Mapping[str, int]) -> None:
        """`places` says in which order steps are made."""
        measures, known = {m.name: m for m in self.measures}, [m.name for m in self.recipe.measure]
        for gate in step.gates:
            name, other = gate.measure, gate.against or step.source
            models = (step.name, *((other,) if gate.is_relative else ()))
            waits = measures[name].waits_for if name in measures else ()
            unmeasured = [m for m in models if name in measures and name not in self.suite.get(m, ())]
            late = [stage for stage in waits if places[stage] > places[step.name]]
            wrong = ""
            if not step.makes_model:
                wrong = "it makes data, which no measure judges. Move the gate to a later stage."
            elif other != BASE and places.get(other, len(places)) >= places[step.name]:
                wrong = f"no model {other!r} is made before it. {nearest(other, self.earlier(step, places))}"
            elif name not in known:
                wrong = f"the suite has no measure {name!r}. {nearest(name, known)}"
            elif unmeasured:
                wrong = f"{unmeasured[0]!r} is not measured with {name!r}. Remove the gate, or measure it."
            elif late:
                wrong = f"{name!r} reads {late[0]!r}, which is made later. Move {late[0]!r} up, or the gate down."
            if wrong:
                self.wrong(gate.node, f"{step.name.partition('@')[0]}: {wrong}")
