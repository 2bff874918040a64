"""Settings and facts as flat rows of text."""

from collections.abc import Mapping
from typing import Any


def flat(values: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Names and values as a recipe writes them, nested ones by their dotted path.

    >>> flat({"lora": {"rank": 8}, "betas": (0.9, 0.95), "take": None})
    [('lora.rank', '8'), ('betas', '0.9, 0.95'), ('take', 'none')]
    """
    rows: list[tuple[str, str]] = []
    for name, value in values.items():
        if isinstance(value, Mapping) and value:
            rows += [(f"{name}.{inner}", shown) for inner, shown in flat(value)]
        elif isinstance(value, list | tuple):
            rows.append((str(name), ", ".join(map(_shown, value)) or "none"))
        else:
            rows.append((str(name), _shown(value)))
    return rows


def _shown(value: Any) -> str:
    if isinstance(value, Mapping):
        return " ".join(f"{name}={shown}" for name, shown in flat(value))
    if isinstance(value, bool) or value is None:
        return {True: "yes", False: "no", None: "none"}[value]
    return str(value)
