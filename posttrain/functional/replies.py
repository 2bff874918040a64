"""What a model that was asked to answer in a form has answered, whatever it did. Pure; nothing in a reply is run or trusted.

    field_in     the text under a name: in a JSON object, bare or with words around it, or between <name> and </name>
    rating_in    a whole number from 1 to 10: `[[7]]`, or the only one that is there
    yes_in       yes, no, or neither

A reply that is none of these gives None. Only its first LONGEST characters are looked at, and of its braces the first FEW, so
that no reply takes long.
"""

import json
import re

LONGEST = 50_000
FEW = 50
LOWEST, HIGHEST = 1, 10
RATED = re.compile(r"\[\[\s*([0-9]{1,3})\s*\]\]")
NUMBER = re.compile(r"(?<![0-9])(?<![0-9]\.)[0-9]{1,3}(?![0-9]|\.[0-9])")


def field_in(reply: str, name: str) -> str | None:
    """The text that a reply gives under a name, white space around it aside; None where there is none or it is empty."""
    reply = reply[:LONGEST]
    found = _in_json(reply, name) or _in_tags(reply, name)
    return found.strip() or None if found else None


def _in_json(reply: str, name: str) -> str | None:
    decoder = json.JSONDecoder(strict=False)
    for start in [found.start() for found in re.finditer(r"\{", reply)][:FEW]:
        try:
            value, _ = decoder.raw_decode(reply, start)
        except (ValueError, RecursionError):
            continue
        if isinstance(value, dict) and isinstance(value.get(name), str) and value[name].strip():
            return str(value[name])
    return None


def _in_tags(reply: str, name: str) -> str | None:
    _, opened, behind = reply.partition(f"<{name}>")
    said, closed, _ = behind.partition(f"</{name}>")
    return said if opened and closed else None


def rating_in(reply: str) -> int | None:
    """The rating of a reply; None where there is none on the scale, or several without brackets."""
    reply = reply[:LONGEST]
    found = RATED.findall(reply) or NUMBER.findall(reply)
    numbers = {int(text) for text in found}
    return next(iter(numbers)) if len(numbers) == 1 and LOWEST <= min(numbers) <= HIGHEST else None


def yes_in(reply: str) -> bool | None:
    """Whether a reply begins with yes or with no; None where it does neither."""
    first = re.match(r"\W*(yes|no)\b", reply[:LONGEST], re.IGNORECASE)
    return first[1].lower() == "yes" if first else None
