"""Regular expressions that cannot hang a run: texts are bounded in length, and matching in time.

A pattern such as `(a|aa)+$` takes longer than a life on sixty letters. Python's own `re` cannot be stopped; the package
`regex` reads the same patterns and can.
"""

from functools import lru_cache

import regex

from posttrain.schema.errors import UsageError

SECONDS = 0.5
"""How long one match may take, in seconds."""
LONGEST = 100_000
"""The longest text that is searched, in characters."""


@lru_cache(maxsize=256)
def compiled(pattern: str) -> "regex.Pattern[str]":
    """A pattern made ready. Raises UsageError for one that is none."""
    try:
        return regex.compile(pattern)
    except (regex.error, RecursionError, OverflowError) as error:
        raise UsageError(
            f"The pattern {pattern[:80]!r} is no regular expression: {error}. Correct it there; a sign that is meant as "
            "itself is written with a backslash, as `\\(`."
        ) from error


def holds(pattern: str, text: str, *, whole: bool = False) -> bool:
    """Whether a text has the pattern in it, or is it as a `whole`. Raises TimeoutError where that cannot be told in
    bounded time, and UsageError."""
    if len(text) > LONGEST:
        raise TimeoutError(f"a text of {len(text)} characters is too long to be searched")
    match = compiled(pattern).fullmatch if whole else compiled(pattern).search
    return match(text, timeout=SECONDS) is not None
