"""What a training does about the way its model is talked to: the chat template it gets, and a first look at the rows.

The first look renders a sample of the rows and says what is wrong with it before a step is taken. It stops only what makes
a training meaningless: nothing is learnt, or no answer ever ends.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from posttrain.data.audit import Finding, audit, rendered
from posttrain.data.chat import ChatFormat
from posttrain.data.dressing import Dress, dress
from posttrain.data.templates import ChatTemplate
from posttrain.models.vocabulary import make_room
from posttrain.schema.errors import DataError
from posttrain.schema.rows import Row
from posttrain.schema.settings import Settings

from .job import Job

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

MEANINGLESS = ("never_trained", "never_stops")
TOLD_ELSEWHERE = ("unreadable", "too_long", "nothing_trained", "pad_is_eos")
"""Findings that stop the stage by themselves, that are counted over all rows, or that do not touch the loop here."""


class Speaking(Settings):
    """How the model is talked to."""

    chat_template: ChatTemplate | None = None
    """How the model is talked to from now on: a layout that ships, such as `chatml`, `llama3` or `plain`, or a Jinja
    file. If not given the model keeps its own, and a base model without one gets `chatml`."""

    def dressed(
        self, weights: "PreTrainedModel", tokenizer: "PreTrainedTokenizerBase", *, chats: bool, grows: bool
    ) -> Dress:
        """Gives the tokenizer its template and the weights rows for new tokens. A stage that does not chat leaves a
        model without template as it is, unless one is named."""
        encodes = bool(weights.config.is_encoder_decoder)
        if self.chat_template is None and (encodes or not chats):
            return Dress()
        given = dress(tokenizer, self.chat_template, grows=grows and not encodes)
        make_room(weights, given.ids)
        return given


def first_look(rows: Sequence[Row], form: ChatFormat, max_length: int, job: Job) -> tuple[Finding, ...]:
    """Emits what is wrong with a sample of rows as alerts. Raises DataError when training on them is meaningless."""
    found = audit(list(rendered(rows, form, max_length)), form, max_length).findings
    for finding in found:
        if finding.name in MEANINGLESS:
            raise DataError(f"Of {len(rows)} rows that were looked at, {finding.title}. {finding.cure}")
        if finding.name not in TOLD_ELSEWHERE:
            job.emit("alert", level=finding.level, title=f"of a sample of the rows, {finding.title}", cure=finding.cure)
    return found
