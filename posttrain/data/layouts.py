"""How rows are laid out in columns, and what they are by nature.

layout                 columns (`columns.ALIASES` has their other names)                    by nature
preferences            chosen, rejected; with prompt or messages, or both whole dialogues   Pair
rejected answers       messages, rejected                                                   Pair
ranked answers         prompt, answers (scores)                                             Ranked
steps                  prompt, steps, labels                                                Steps
labelled answers       prompt, completion, label; or messages, label                        Labelled
messages               messages (tools)                                                     Conversation or Prompt
prompt and completion  prompt (context, system, history), completion or answer              Conversation
text                   text                                                                 Text
prompts                prompt                                                               Prompt
token ids              ids (labels, masks); or prompt_ids, chosen_ids, rejected_ids         Tokenised, TokenisedPair
"""

from collections.abc import Callable
from dataclasses import dataclass

from posttrain.schema.rows import Answered, Conversation, Labelled, Messages, Pair, Prompt, Ranked, Row, Text

from . import judged, tokens
from .cells import Cells, asked, prompt_of
from .columns import Roles
from .record import text_of

PROMPT = ("system", "history", "prompt", "context")
TOLD = ("tools", "template_options")
"""What a row may tell the chat template beside its messages."""
ASIDE = ("answer", "plain", "task")
"""Roles that ask for nothing by themselves; a row of any layout may have them."""

Nature = Row | judged.Steps


@dataclass(frozen=True)
class Layout:
    """One way to write rows: the roles it `needs` (one of several sets) and may read, and what it is read as."""

    name: str
    needs: tuple[frozenset[str], ...]
    reads: tuple[str, ...]
    serves: tuple[type[Row], ...]
    parse: Callable[[Cells], Nature]

    def fits(self, roles: Roles) -> bool:
        return any(needed <= roles.keys() for needed in self.needs)

    def of(self, roles: Roles) -> Roles:
        """The roles that it reads. An `answer` without a completion beside it is the completion."""
        read = {role: column for role, column in roles.items() if role in self.reads or role in ASIDE}
        if "completion" in self.reads and not read.keys() & {"completion", "messages"}:
            read["completion"] = read.pop("answer")
        return read


def _whole(messages: Messages, cells: Cells) -> Row:
    tools, options = cells.tools(), cells.template_options()
    if messages[-1].role == "assistant":
        return Conversation(messages, tools=tools, template_options=options)
    return Prompt(messages, tools=tools, template_options=options)


def _messages(cells: Cells) -> Row:
    return _whole(prompt_of(cells), cells)


def _prompt_completion(cells: Cells) -> Row:
    completion = cells.messages("completion", "assistant")
    return _whole(asked(prompt_of(cells)) + completion, cells)


def _text(cells: Cells) -> Row:
    return Text(text_of(cells.need("text"), f"the column {cells.roles['text']!r}"))


def _prompt_alone(cells: Cells) -> Row:
    return _whole(asked(prompt_of(cells)), cells)


def _sets(*needs: str) -> tuple[frozenset[str], ...]:
    return tuple(frozenset(roles.split()) for roles in needs)


LAYOUTS = (
    Layout(
        "preferences",
        _sets("chosen rejected"),
        ("messages", *PROMPT, "chosen", "rejected", "margin", "probability", "tools"),
        (Pair, Ranked, Labelled, Conversation, Prompt),
        judged.pair,
    ),
    Layout(
        "rejected answers",
        _sets("messages rejected"),
        ("messages", "system", "rejected", "margin", "probability", "tools"),
        (Pair, Ranked, Labelled, Conversation, Prompt),
        judged.rejected_beside_messages,
    ),
    Layout(
        "ranked answers",
        _sets("prompt answers"),
        (*PROMPT, "answers", "scores", "tools"),
        (Pair, Ranked, Conversation, Prompt),
        judged.ranked,
    ),
    Layout("steps", _sets("prompt steps labels"), (*PROMPT, "steps", "labels"), (Labelled, Conversation), judged.steps),
    Layout(
        "labelled answers",
        _sets("messages label", "prompt completion label"),
        ("messages", *PROMPT, "completion", "label", "tools"),
        (Labelled, Conversation, Prompt),
        judged.labelled,
    ),
    Layout("messages", _sets("messages"), ("messages", "system", *TOLD), (Conversation, Prompt, Answered), _messages),
    Layout(
        "prompt and completion",
        _sets("prompt completion", "prompt answer"),
        (*PROMPT, "completion", *TOLD),
        (Conversation, Prompt, Answered),
        _prompt_completion,
    ),
    Layout("text", _sets("text"), ("text",), (Text,), _text),
    Layout("prompts", _sets("prompt"), (*PROMPT, *TOLD), (Prompt,), _prompt_alone),
    Layout(
        "token ids",
        _sets("ids"),
        ("ids", "labels", "mask", "answer_mask", "attention"),
        (Text, Conversation),
        tokens.tokenised,
    ),
    Layout(
        "token ids",
        _sets("prompt_ids chosen_ids rejected_ids"),
        ("prompt_ids", "chosen_ids", "rejected_ids"),
        (Pair, Ranked),
        tokens.tokenised_pair,
    ),
)
"""The most telling first: rows with chosen and rejected have messages too, and those are only the prompt."""
