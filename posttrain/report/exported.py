"""The README.md of an exported model: its card where a run made it, how it is started, what was compared, what it lost."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from posttrain.schema.record import RunRecord

from .card import card
from .text import code, fence, one_line


def readme(
    title: str,
    target: str,
    commands: Sequence[str],
    verified: Mapping[str, Any],
    lost: Sequence[str],
    shown: str = "",
    record: RunRecord | None = None,
) -> str:
    """The page in Markdown. `shown` is what has to stand before every question, where the program does not know it;
    `record` is the run that made the model called `title`."""
    top = card(record, title, use=False).rstrip() if record else f"# {code(title)}"
    return "\n\n".join([top, *_parts(target, commands, verified, lost, shown)]) + "\n"


def _parts(
    target: str, commands: Sequence[str], verified: Mapping[str, Any], lost: Sequence[str], shown: str
) -> Iterator[str]:
    yield f"## For {target}"
    yield "`FOLDER` is the place of these files."
    yield fence("\n".join(commands), language="python" if target == "transformers" else "bash")
    yield f"Verified by {verified['verified']}: {told(verified)}."
    if lost:
        yield f"{target} does not know of this model:"
        yield "\n".join(f"- {one_line(sentence)}" for sentence in lost)
    if shown:
        yield "Put this before every question, as it was measured with it:"
        yield fence(shown)


def told(verified: Mapping[str, Any]) -> str:
    """What was compared, in words."""
    words = {"texts": "texts read alike", "chats": "chats written alike", "examples": "examples before each question"}
    words |= {"written": "tokens written alike"}
    said = [f"{verified[name]} {what}" for name, what in words.items() if verified.get(name)]
    if "kl" in verified:
        said.append(f"logits {verified['kl']:.1e} nats apart, {verified['logits_largest']:.1e} at most")
    if "rounding" in verified:
        said.append(f"rounding moved it by {verified['rounding']:.1e} nats")
    return ", ".join(said)
