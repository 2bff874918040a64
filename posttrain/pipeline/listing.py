"""A plan as `posttrain plan` shows it: one line a stage, or JSON."""

from collections.abc import Iterator, Mapping
from typing import Any

from .plan import Plan
from .recipe import BASE
from .step import Step


def as_json(plan: Plan, states: Mapping[str, str] | None = None) -> dict[str, Any]:
    """The plan as plain values. `states` says of every step and measurement (`sft`, `chat of sft`) whether it is kept
    or will be made; without it nothing is said."""
    states = states or {}
    return {
        "name": plan.recipe.name,
        "recipe": plan.recipe.digest,
        "model": plan.recipe.model,
        "seed": plan.recipe.seed,
        "changes": list(plan.recipe.changes),
        "measures": [_measure(measure) for measure in plan.measures],
        "suite": {model: list(names) for model, names in plan.suite.items()},
        "steps": [{**_step(step), **_state(step.name, states)} for step in plan.steps],
        "notes": list(plan.notes),
    }


def _measure(step: Step) -> dict[str, Any]:
    waits = {"waits_for": list(step.waits_for)} if step.waits_for else {}
    return {"name": step.name, "method": step.method, "settings": _settings(step), **waits}


def _step(step: Step) -> dict[str, Any]:
    return {
        "name": step.name,
        "method": step.method,
        "kind": step.stage.kind,
        "source": step.source,
        "inputs": {option: [source.name for source in sources] for option, sources in step.inputs.items()},
        "form": step.form if step.makes_model else None,
        "makes_model": step.makes_model,
        "settings": _settings(step),
        "gates": [str(gate) for gate in step.gates],
    }


def _settings(step: Step) -> dict[str, Any]:
    """Every option with its value, those that the recipe gives as they are written there."""
    given = step.node.plain() or {}
    return {name: given.get(name, value) for name, value in step.stage.model_dump(mode="json").items()}


def _state(name: str, states: Mapping[str, str]) -> dict[str, str]:
    return {"state": states[name]} if name in states else {}


def as_text(plan: Plan, states: Mapping[str, str] | None = None) -> str:
    """One aligned line for the base model and for every stage, then what else there is to know."""
    states = states or {}
    rows = [[BASE, plan.recipe.model, "", "", "", _measured(plan, BASE, states)]]
    rows += [_line(plan, step, states) for step in plan.steps]
    shown = [column for column in range(len(rows[0])) if any(row[column] for row in rows)]
    widths = {column: max(len(row[column]) for row in rows) for column in shown}
    lines = ["  ".join(row[column].ljust(widths[column]) for column in shown).rstrip() for row in rows]
    return "\n".join([*lines, *_remarks(plan)])


def _line(plan: Plan, step: Step, states: Mapping[str, str]) -> list[str]:
    read = [
        f"{option} {' + '.join(s.name for s in sources)}"
        for option, sources in step.inputs.items()
        if option != "model"
    ]
    makes = (step.form or "") if step.makes_model else "data"
    return [
        step.name,
        step.method,
        f"from {step.source}",
        "  ".join(read),
        f"{f'-> {makes}':<11}{states.get(step.name, '')}".rstrip(),
        _measured(plan, step.name, states),
    ]


def _measured(plan: Plan, model: str, states: Mapping[str, str]) -> str:
    names = plan.suite.get(model, ())
    kept = sum(states.get(f"{measure} of {model}") == "kept" for measure in names)
    told = f" ({kept} of {len(names)} kept)" if states and names else ""
    return f"measured: {', '.join(names)}{told}" if names else ""


def _remarks(plan: Plan) -> Iterator[str]:
    for step in plan.steps:
        yield from (f"gate after {step.name}: {gate}" for gate in step.gates)
    for measure in plan.measures:
        if measure.waits_for:
            yield f"{measure.name}: taken of every model once there is {' and '.join(measure.waits_for)}"
    yield from (f"note: {note}" for note in plan.notes)
    yield from (f"override: {change}" for change in plan.recipe.changes)
