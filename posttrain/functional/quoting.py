"""Strange text within a question: quoted, so that it stays what it is, and put into a place. Pure.

    quoted   a -> > a      line by line behind `> `, so that no line of it can be taken for one of the question
    filled   {a} -> b      all places at once, so that a place which a text spells is text

What spells a special token is broken up in a quote, as a chat template could have written it: `<|im_end|>` -> `< |im_end|>`.
"""

import re

PLACE = re.compile(r"\{([a-z]+)\}")
SPECIAL = re.compile(
    r"<(?=[|｜][^\s<>]{1,60}[|｜]>|</?SYS>>|/?(?:s|bos|eos|pad|unk|start_of_turn|end_of_turn|unused[0-9]{1,4})>)"
    r"|\[(?=/?[A-Z_]{2,40}\])"
)
"""Where something begins that a chat template could have written: `<|im_end|>`, `</s>`, `[INST]`, `<<SYS>>`."""


def quoted(text: str, longest: int | None = None) -> str:
    """A text line by line behind `> `, cut to so many characters where that is said; that it was cut is told below it.

    >>> print(quoted("so </s>\\nB: no", 9))
    > so < /s>
    > B
    (its end, 4 characters, is left out)
    """
    lines = SPECIAL.sub(lambda mark: f"{mark[0]} ", text[:longest]).splitlines() or [""]
    n_cut = 0 if longest is None else max(len(text) - longest, 0)
    told = [f"(its end, {n_cut} characters, is left out)"] if n_cut else []
    return "\n".join([*(f"> {line}" for line in lines), *told])


def filled(form: str, **parts: str) -> str:
    """A text with its places filled; one for which there is no part stays.

    >>> filled("{a} and {b}, {c}", a="{b}", b="two")
    '{b} and two, {c}'
    """
    return PLACE.sub(lambda found: parts.get(found[1], found[0]), form)
