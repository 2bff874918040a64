"""Plain text as documents, read twice: once to see where documents end, once to give them out one after another.

Documents end at an end-of-text mark where there is one; otherwise a file with blank lines inside is one document, and a
file without has one in each line.
"""

import io
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from posttrain.schema.errors import DataError

from .record import Record

DOCUMENT_END = "<|endoftext|>"


def documents(path: Path, data: io.BufferedReader, rewound: Callable[[], io.BufferedReader]) -> Iterator[Record]:
    """The documents of a text; `rewound` gives its bytes from the start again."""
    marked, blank = _looked_through(path, rewound())
    lines = (line.decode("utf-8") for line in rewound())
    found = _marked(lines) if marked else iter(["".join(lines)]) if blank else lines
    whole = (stripped for document in found if (stripped := document.strip()))
    return (Record(f"{path}, document {n}", {"text": document}) for n, document in enumerate(whole, start=1))


def _looked_through(path: Path, data: Iterable[bytes]) -> tuple[bool, bool]:
    """(Whether the text has end marks, whether it has blank lines inside.) Raises DataError for bytes of another
    encoding."""
    marked, begun, gap, blank = False, False, False, False
    for n, line in enumerate(data, start=1):
        try:
            text = line.decode("utf-8")
        except UnicodeDecodeError as error:
            raise DataError(f"{path}:{n}: a byte is not UTF-8. Save the file as UTF-8.") from error
        marked = marked or DOCUMENT_END in text
        filled = bool(text.strip())
        blank = blank or (gap and filled)
        gap = begun and not filled
        begun = begun or filled
    return marked, blank


def _marked(lines: Iterable[str]) -> Iterator[str]:
    """The text between end marks."""
    begun: list[str] = []
    for line in lines:
        first, *others = line.split(DOCUMENT_END)
        begun.append(first)
        for part in others:
            yield "".join(begun)
            begun = [part]
    yield "".join(begun)
