"""Continued pretraining: learn the language and the facts of a domain from plain text (Gururangan et al. 2020, arXiv
2004.10964).

    L = -1/N  sum over all N tokens of  log pi(y_t | y_<t)

A document sees itself alone, however many lie in one batch; one longer than `max_length` is split and not cut, and each
ends with the end-of-sequence token. What such a training forgets, `keep` and `forget` hold (posttrain.engine.watch).
"""

from typing import ClassVar

from torch import Tensor

from posttrain.data.batch import Batch, Counts
from posttrain.engine.method import Objective
from posttrain.models.policy import Models
from posttrain.schema.rows import Row, Text


class CPT(Objective):
    """Learn every token of documents."""

    reads: ClassVar[type[Row]] = Text

    def loss(self, models: Models, micro: Batch, total: Counts) -> tuple[Tensor, dict[str, Tensor]]:
        return -models.policy.logps(micro).sum() / total.tokens, {}
