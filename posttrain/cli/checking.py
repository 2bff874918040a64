"""`check`: what would be learnt from rows, shown token by token, and what is wrong with them."""

import json
import shlex
from argparse import ArgumentTypeError, Namespace
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from posttrain.schema.errors import UsageError

from .terminal import Paint, Part, Terminal
from .words import Words, split

if TYPE_CHECKING:
    from posttrain.pipeline.checking import Checked, Shown

LONGEST = 700  # characters of a piece that are shown; of a longer one, its beginning and its end
TRAINS = {"Pair": "dpo", "Conversation": "sft", "Tokenised": "sft", "TokenisedPair": "dpo", "Text": "cpt"}
BRACKETS = {False: ("⟦", "⟧"), True: ("[[", "]]")}


def check(words: list[str], terminal: Terminal) -> int:
    """`posttrain check DATA --model M [path=value …]`: 1 if anything found is an error."""
    asked = _words().read(words)
    names, settings = split(asked.words)
    if len(names) != 1:
        what = f"not {' and '.join(names)}" if names else "for instance `posttrain check rows.jsonl --model lab`"
        raise UsageError(
            f"Name one source of rows, {what}. A setting is written `path=value`: take=100, columns.prompt=q."
        )
    if asked.model is None:
        raise UsageError(f"Say whose tokens to look at: posttrain check {names[0]} --model lab.")
    if asked.png is not None and not asked.png.parent.is_dir():
        raise UsageError(f"There is no folder {asked.png.parent}. Make it first, or name another file.")
    terminal.draw("  loading …")
    found = _checked(names[0], settings, asked)
    if asked.png is not None:
        _draw(found, asked.png)
    if terminal.json:
        terminal.object({**found.as_dict(), "png": asked.png and str(asked.png)})
        return 0 if found.ok else 1
    terminal.clear()
    _show(found, terminal)
    if found.ok:
        method = asked.method or TRAINS[found.shape]
        terminal.next(shlex.join(["posttrain", method, f"model={asked.model}", f"data={_data(names[0], settings)}"]))
    else:
        terminal.next(shlex.join(["posttrain", "check", *words]))
    return 0 if found.ok else 1


def _words() -> Words:
    parser = Words(
        "check", "What a model would learn from rows, and what is wrong with them. Nothing is trained."
    ).with_out()
    parser.add_argument("words", nargs="*", metavar="DATA | path=value", help="rows, and how to read them: take=100")
    parser.add_argument("--model", metavar="M", help="a name, a folder, a digest or a Hub id")
    parser.add_argument(
        "--eval", action="append", default=[], metavar="DATA", help="rows to measure on, which must not be among these"
    )
    parser.add_argument("--for", dest="method", metavar="METHOD", help="read the rows as this method does, such as dpo")
    parser.add_argument("--template", metavar="NAME", help="a chat template to try: one that ships, or a Jinja file")
    parser.add_argument(
        "--max-length", type=_whole, default=1024, metavar="N", help="longest row in tokens (default: 1024)"
    )
    parser.add_argument(
        "--rows", type=_whole, default=5000, metavar="N", help="rows to look at (default: the first 5000)"
    )
    parser.add_argument("--samples", type=int, default=3, metavar="N", help="rows to show (default: 3)")
    parser.add_argument("--png", type=Path, metavar="FILE", help="draw the lengths into a picture")
    return parser


def _whole(text: str) -> int:
    if not text.isdecimal() or int(text) < 2:
        raise ArgumentTypeError(f"{text!r} is no number of at least 2")
    return int(text)


def _checked(data: str, settings: list[str], asked: Namespace) -> "Checked":
    from posttrain.pipeline.checking import check as checked
    from posttrain.pipeline.checking import rows_of

    return checked(
        rows_of(data, settings),
        asked.model,
        measured=[rows_of(path, ()) for path in asked.eval],
        method=asked.method,
        chat_template=asked.template,
        max_length=asked.max_length,
        rows=asked.rows,
        samples=asked.samples,
        out=asked.out,
    )


def _draw(found: "Checked", path: Path) -> None:
    from posttrain.engine.files import room_for
    from posttrain.report.histogram import png

    with room_for("the picture", path):
        path.write_bytes(png(found.audit.lengths, found.max_length))


def _show(found: "Checked", terminal: Terminal) -> None:
    from posttrain.report.histogram import bars

    audit = found.audit
    terminal.answer(found.decision)
    terminal.answer(found.template)
    counted = f"{_n(audit.rows, 'row')}, {_n(audit.texts, 'text')}"
    terminal.answer(f"{counted}, {_n(audit.trained_tokens, 'token')} learnt")
    learnt = Paint("green", "green") if terminal.colour_out else "in {} {}".format(*BRACKETS[terminal.ascii_out])
    for shown in found.shown:
        terminal.answer("")
        terminal.answer(Paint(f"{shown.place}, {shown.tokens} tokens", "bold"), "  what is learnt is ", learnt)
        terminal.answer(*_painted(shown, terminal))
    terminal.answer("")
    terminal.answer(Paint("tokens", "bold"), f"  in a row, max_length is {found.max_length}")
    for line in bars(audit.lengths):
        terminal.answer(f"  {line}")
    terminal.answer("")
    if not audit.findings:
        terminal.answer(Paint("nothing is wrong with these rows", "green"))
    for finding in audit.findings:
        style = "red" if finding.level == "error" else "yellow"
        terminal.answer(Paint(f"{finding.level:<7}", style), f"  {finding}")
        terminal.answer(f"         {finding.cure}")


def _painted(shown: "Shown", terminal: Terminal) -> Iterator[Part]:
    before, after = BRACKETS[terminal.ascii_out]
    for piece in shown.pieces:
        text = _clipped(piece.text)
        if not piece.trained:
            yield text
        else:
            yield Paint(text, "green") if terminal.colour_out else f"{before}{text}{after}"


def _n(count: int, what: str) -> str:
    return f"{count} {what}{'s' * (count != 1)}"


def _clipped(text: str) -> str:
    more, half = len(text) - LONGEST, LONGEST // 2
    return f"{text[:half]} … {more} more characters … {text[-half:]}" if more > 0 else text


def _data(path: str, settings: list[str]) -> str:
    """The rows as the command of a method takes them."""
    if not settings:
        return path
    from posttrain.pipeline.checking import rows_of

    return json.dumps({"path": path, **rows_of(path, settings).reading()}, ensure_ascii=False)
