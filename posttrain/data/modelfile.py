"""A Modelfile: what Ollama makes a model of. Written, and read back as Ollama's parser reads it.

    FROM ./model-Q8_0.gguf
    TEMPLATE \"\"\"…\"\"\"
    PARAMETER stop \"\"\"<|im_end|>\"\"\"
    MESSAGE user \"\"\"red ->\"\"\"

The parser knows no escapes: a text in threefold quotes ends at the first line that ends with three, and characters that
cannot be printed, but for white space of ASCII, are dropped without a word. So what is written is read back and must be what was meant.
(https://docs.ollama.com/modelfile; `ParseFile` in Ollama's parser/parser.go)
"""

import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from posttrain.schema.errors import ModelError
from posttrain.schema.rows import Message

QUOTES = '"""'


@dataclass(frozen=True)
class Modelfile:
    """`source` is the file of weights beside it; `parameters` by name, several of one name in a tuple; `messages` stand
    before every conversation."""

    source: str
    template: str
    parameters: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    messages: tuple[Message, ...] = ()

    def text(self) -> str:
        """The file. Raises ModelError for words that Ollama would read otherwise."""
        lines = [f"FROM ./{self.source}", f"TEMPLATE {_quoted(self.template)}"]
        lines += [f"PARAMETER {name} {_quoted(value)}" for name, values in self.parameters.items() for value in values]
        lines += [f"MESSAGE {message.role} {_quoted(message.content)}" for message in self.messages]
        text = "\n".join(lines) + "\n"
        read = read_modelfile(text)
        for place, wanted, found in self._compared(read):
            if wanted != found:
                raise ModelError(
                    f"Ollama would not read {place} as it is: {wanted[:60]!r} would become {found[:60]!r}. A Modelfile holds no "
                    "line that ends with three quotes and no characters that cannot be seen: take them out."
                )
        return text

    def _compared(self, read: "Modelfile") -> Iterator[tuple[str, str, str]]:
        yield "the name of the file", f"./{self.source}", read.source
        yield "the chat template", self.template, read.template
        for name, values in self.parameters.items():
            found = read.parameters.get(name, ())
            yield from ((f"the parameter {name}", wanted, each) for wanted, each in _paired(values, found))
        ours, theirs = ([message.content for message in each] for each in (self.messages, read.messages))
        yield from (("an example", wanted, each) for wanted, each in _paired(ours, theirs))


def _paired(wanted: Sequence[str], found: Sequence[str]) -> Iterator[tuple[str, str]]:
    yield from zip(wanted, [*found, *[""] * (len(wanted) - len(found))], strict=False)


def _quoted(text: str) -> str:
    return f"{QUOTES}{text}{QUOTES}"


def read_modelfile(text: str) -> Modelfile:
    """What Ollama's parser finds in a text."""
    source = template = ""
    parameters: dict[str, tuple[str, ...]] = {}
    messages: list[Message] = []
    for words, value in _commands(text):
        command, name = words[0].lower(), words[-1]
        if command == "from":
            source = value
        elif command == "template":
            template = value
        elif command == "parameter":
            parameters[name] = (*parameters.get(name, ()), value)
        elif command == "message":
            messages.append(Message(name, value))
    return Modelfile(source, template, parameters, tuple(messages))


def _commands(text: str) -> Iterator[tuple[list[str], str]]:
    """Each command's words, of which PARAMETER and MESSAGE have two, and its value."""
    words: list[str] = []
    word = value = ""
    for letter in f"{text}\n":
        n_words = 2 if words and words[0].lower() in ("parameter", "message") else 1
        if len(words) < n_words:
            if letter in " \t" and word:
                words, word = [*words, word], ""
            elif letter not in " \t\r\n":
                word += letter
        elif letter in " \t" or (letter in "\r\n" and _unquoted(value) is None):
            value += letter
        elif letter in "\r\n":
            yield words, _unquoted(value) or ""
            words, value = [], ""
        elif _is_printed(letter):
            value += letter


def _unquoted(value: str) -> str | None:
    """What stands between quotes; None where they are still open."""
    value = value.strip()
    for quotes in (QUOTES, '"'):
        if value.startswith(quotes):
            closed = len(value) >= 2 * len(quotes) and value.endswith(quotes)
            return value[len(quotes) : -len(quotes)] if closed else None
    return value


def _is_printed(letter: str) -> bool:
    """Go's `strconv.IsPrint`: letters, marks, numbers, punctuation, symbols."""
    return unicodedata.category(letter)[0] in "LMNPS"
