"""Which column plays which role: found by the names that data sets use, or said by the user."""

from collections.abc import Iterable, Mapping

from posttrain.schema.errors import DataError, nearest

ALIASES: dict[str, tuple[str, ...]] = {
    "messages": ("messages", "conversations", "conversation"),
    "chosen": ("chosen", "chosen_messages"),
    "rejected": ("rejected", "rejected_messages"),
    "prompt": ("prompt", "instruction", "question", "query", "problem", "input", "问"),
    "context": ("input", "context"),
    "system": ("system", "system_prompt"),
    "history": ("history",),
    "completion": ("completion", "response", "output", "target", "solution", "答"),
    "answer": ("answer", "ground_truth"),
    "label": ("label", "kto_tag"),
    "text": ("text", "document", "article"),
    "plain": ("plain",),
    "task": ("task",),
}
"""Role -> the names its column goes by, the most telling first. The order of roles is the order they are looked for."""

Roles = Mapping[str, str]
"""Role -> column."""

N_NAMED = 20
"""How many columns an error names."""


def find_roles(columns: Iterable[str]) -> dict[str, str]:
    """The roles that columns play by their names; no column plays two."""
    by_name = {name.strip().casefold(): name for name in reversed(list(columns))}
    roles: dict[str, str] = {}
    for role, aliases in ALIASES.items():
        if alias := next((alias for alias in aliases if alias in by_name), None):
            roles[role] = by_name.pop(alias)
    if roles.get("context", "").casefold() == "input" and roles.get("prompt", "").casefold() != "instruction":
        del roles["context"]  # beside a `prompt`, the `input` is usually in it already
    return roles


def given_roles(said: Mapping[str, str], columns: Iterable[str], place: str) -> dict[str, str]:
    """The user's map `role: column`, with the roles under our names. Raises DataError for an unknown role or column."""
    columns = list(columns)
    ours = {alias: role for role, aliases in ALIASES.items() for alias in aliases} | {role: role for role in ALIASES}
    for role, column in said.items():
        if role not in ours:
            raise DataError(f"`columns` names the unknown role {role!r}. {nearest(role, ALIASES)}")
        if column not in columns:
            raise DataError(
                f"{place} has no column {column!r}. {nearest(column, map(plainly, columns))} Mend `columns: {{{role}: …}}`."
            )
    return {ours[role]: column for role, column in said.items()}


def plainly(name: str) -> str:
    """A column's name as it is shown: short, and inert in a terminal."""
    return repr(name if len(name) <= 40 else name[:40] + "…")[1:-1]


def named(columns: Iterable[str]) -> str:
    """Columns as messages list them: not too many."""
    names = list(map(plainly, columns))
    more = f" and {len(names) - N_NAMED} more" if len(names) > N_NAMED else ""
    return (", ".join(names[:N_NAMED]) or "none") + more
