"""A chat template in Jinja as one in Go, which is what Ollama reads: found by trying, and compared on conversations.

What a template writes around the words of a conversation is seen from sentinels in their place:

    opening  QUESTION  answer  ANSWER  question  QUESTION  answer  ANSWER  question  QUESTION  ask
    system[0]  SYSTEM  system[1]  QUESTION  …

That is enough for every template that writes each turn alike. One that does not (that puts the system's words before the
last question, or turns the last answer into another text) is refused: the prompt would be another one without a word.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from posttrain.schema.errors import DataError, ModelError
from posttrain.schema.rows import Message

from .go_template import literal, rendered
from .template import render

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

SYSTEM, QUESTIONS, ANSWERS = "Psystemq", ("Pfirstq", "Psecondq", "Pthirdq"), ("Ponea", "Ptwoa")
TEXTS = (
    "Answer in one word.\nNo more.",
    'What does `x = {"a": 1}` do, and {{ y }}?',
    "It binds a dictionary.\n\n- one\n- two",
    "Und auf Deutsch, mit Umlauten: ä ö ü – 你好 🚀?",
    "So geht es nicht.",
    "Why <b>not</b>?  Two  spaces.",
)
IN_LINES = (
    '{{ range .Messages }}{{ if eq .Role "user" }}{{ .Content }}{{ else if eq .Role "assistant" }} {{ .Content }}\n'
    "{{ end }}{{ end }}"
)
"""The plain layout: each question behind the last one's answer, a line for both."""


@dataclass(frozen=True)
class Around:
    """What a template writes around the words, as in the drawing above. `system` is None where it knows no system."""

    opening: str
    system: tuple[str, str] | None
    answer: str
    question: str
    ask: str
    after_question: str = ""
    after_answer: str = ""


@dataclass(frozen=True)
class Carried:
    """A template in Go, and in sentences what of the Jinja template it does not do. `system` says that it has a place for the
    system's words, `trims` that the Jinja template takes the spaces around words away."""

    text: str
    lost: tuple[str, ...] = ()
    system: bool = True
    trims: bool = False


def in_go(tokenizer: "PreTrainedTokenizerBase", *, add_bos: bool) -> Carried:
    """The chat template of a tokenizer in Go. `add_bos` says that the program puts the first token before every text itself.
    Raises ModelError for a template that cannot be carried over."""
    around = _around(tokenizer)
    text = _written(around)
    if add_bos and tokenizer.bos_token:
        text = _written(_without(around, str(tokenizer.bos_token)))
    begins = str(tokenizer.bos_token) if add_bos and tokenizer.bos_token else ""
    for messages in conversations(with_system=around.system is not None):
        wanted, found = render(tokenizer, messages, ask=True), begins + rendered(text, messages)
        if found != wanted:
            raise _refused(f"it writes {_where(wanted, found)} for {_roles(messages)}")
    trims = _trims(tokenizer)
    return Carried(text, tuple(_lost(tokenizer, around, trims)), around.system is not None, trims)


def conversations(*, with_system: bool) -> list[list[Message]]:
    """What templates are compared on: one, two and three questions, with the system's words before them and without."""
    told, *said = TEXTS
    roles = ("user", "assistant")
    turns = [Message(roles[n % 2], text) for n, text in enumerate(said)]
    found = [turns[:n] for n in (1, 3, 5)]
    return found + ([[Message("system", told), *each] for each in found] if with_system else [])


def _around(tokenizer: "PreTrainedTokenizerBase") -> Around:
    ones = zip(QUESTIONS, (*ANSWERS, ""), strict=True)
    turns = [m for q, a in ones for m in (Message("user", q), Message("assistant", a))][:-1]
    opening, answer, question, again, once_more, ask = _split(tokenizer, turns)
    if (answer, question) != (again, once_more):
        raise _refused("it writes the second turn otherwise than the first")
    system = _system(tokenizer, turns[:3], (answer, question, ask))
    after_question = _behind(tokenizer, turns[:1])
    after_answer = _behind(tokenizer, turns[:2])
    return Around(
        opening,
        system,
        answer,
        question,
        ask,
        after_question if answer.startswith(after_question) and ask.startswith(after_question) else "",
        after_answer if question.startswith(after_answer) else "",
    )


def _system(
    tokenizer: "PreTrainedTokenizerBase", turns: Sequence[Message], rest: tuple[str, str, str]
) -> tuple[str, str] | None:
    """What stands before the system's words and behind them; None where the template refuses them, or leaves them out."""
    messages = [Message("system", SYSTEM), *turns]
    try:
        text = render(tokenizer, messages, ask=True)
    except DataError:
        return None
    if SYSTEM not in text:
        return None
    before, behind, *others = _split(tokenizer, messages)
    if tuple(others) != rest:
        raise _refused("what the system says changes how later turns are written")
    return before, behind


def _split(tokenizer: "PreTrainedTokenizerBase", messages: Sequence[Message]) -> list[str]:
    """What a template writes before, between and behind the words of messages."""
    try:
        text = render(tokenizer, messages, ask=True)
    except DataError as error:
        raise _refused(f"it cannot write {_roles(messages)} ({error})") from error
    found = []
    for message in messages:
        before, said, text = text.partition(message.content)
        if not said or message.content in text:
            raise _refused(
                f"in {_roles(messages)} the words of the {message.role} do not stand once and in their order"
            )
        found.append(before)
    return [*found, text]


def _behind(tokenizer: "PreTrainedTokenizerBase", messages: Sequence[Message]) -> str:
    """What a template writes behind the last message where nothing is asked; empty where it does not say."""
    try:
        return render(tokenizer, messages, ask=False).rpartition(messages[-1].content)[2]
    except DataError:
        return ""


def _without(around: Around, bos: str) -> Around:
    """The same where the program writes the first token. Raises ModelError where the template does not write it."""
    starts = [around.opening, *([around.system[0]] if around.system else [])]
    if not all(start.startswith(bos) for start in starts):
        raise ModelError(
            f"llama.cpp and Ollama put {bos!r} before every text, as tokenizer.json says, and the chat template does not "
            "begin with it: the model would read other tokens than it learnt. Begin the template with {{- bos_token -}}."
        )
    system = (around.system[0].removeprefix(bos), around.system[1]) if around.system else None
    return Around(
        around.opening.removeprefix(bos),
        system,
        around.answer,
        around.question,
        around.ask,
        around.after_question,
        around.after_answer,
    )


def _written(around: Around) -> str:
    """The template in Go. Where every question begins alike its beginning stands in the loop, else the first is told apart."""
    before = around.question.removeprefix(around.after_answer)
    heads = [around.opening, *([around.system[1]] if around.system else [])]
    alike = all(head.endswith(before) for head in heads)
    cut = len(before) if alike else 0
    opening, *behind = (literal(head[: len(head) - cut]) for head in heads)
    head = opening
    if around.system:
        otherwise = f"{{{{ else }}}}{opening}" if opening else ""
        head = f"{{{{ if .System }}}}{literal(around.system[0])}{{{{ .System }}}}{behind[0]}{otherwise}{{{{ end }}}}"
    if alike:
        first, question = "", literal(before)
    else:
        first = "{{ $first := true }}"
        question = f"{{{{ if $first }}}}{{{{ $first = false }}}}{{{{ else }}}}{literal(before)}{{{{ end }}}}"
    n = len(around.after_question)
    return (
        f'{head}{first}{{{{ range .Messages }}}}{{{{ if eq .Role "user" }}}}{question}{{{{ .Content }}}}'
        f"{literal(around.after_question)}"
        f'{{{{ else if eq .Role "assistant" }}}}{literal(around.answer[n:])}{{{{ .Content }}}}{literal(around.after_answer)}'
        f"{{{{ end }}}}{{{{ end }}}}{literal(around.ask[n:])}"
    )


def _trims(tokenizer: "PreTrainedTokenizerBase") -> bool:
    asked = render(tokenizer, [Message("user", f"  {QUESTIONS[0]}\n")], ask=True)
    return f"  {QUESTIONS[0]}\n" not in asked


def _lost(tokenizer: "PreTrainedTokenizerBase", around: Around, trims: bool) -> list[str]:
    template = str(tokenizer.chat_template)
    said = {
        "the system's words: the chat template has no place for them, and they are left out": around.system is None,
        "tools: the chat template can offer some, and the template in Go does not": "tools" in template,
        "reasoning: what was thought before earlier answers is not written apart": "reasoning_content" in template,
        "the date: it stays that of the export": "strftime_now" in template,
        "spaces around a message: the chat template drops them, Ollama keeps them": trims,
    }
    return [sentence for sentence, holds in said.items() if holds]


def _roles(messages: Sequence[Message]) -> str:
    return ", ".join(message.role for message in messages)


def _where(wanted: str, found: str) -> str:
    """The first place where two texts part."""
    n = next((n for n, (a, b) in enumerate(zip(wanted, found, strict=False)) if a != b), min(len(wanted), len(found)))
    return f"{wanted[n : n + 30]!r} where {found[n : n + 30]!r} would be written"


def _refused(why: str) -> ModelError:
    return ModelError(
        f"The chat template of this model cannot be carried over to Ollama, which reads no Jinja: {why}. Export it to "
        "llama.cpp, whose server reads the template itself, or give the tokenizer a plainer chat_template."
    )
