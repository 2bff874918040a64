"""Supervised fine-tuning: learn to write the answers of a data set.

InstructGPT, step 1 (Ouyang et al. 2022, arXiv 2203.02155).

    L = -1/N  sum over all N answer tokens of  log pi(y_t | x, y_<t)

N counts the learnt tokens of the whole batch, so a long answer weighs as much as its tokens, however the batch is cut.
"""

from typing import ClassVar

from torch import Tensor

from posttrain.data.batch import Batch, Counts
from posttrain.engine.method import Objective
from posttrain.models.policy import Models
from posttrain.schema.rows import Conversation, Row


class SFT(Objective):
    """Learn the assistant's turns of conversations, stop token included."""

    reads: ClassVar[type[Row]] = Conversation

    def loss(self, models: Models, micro: Batch, total: Counts) -> tuple[Tensor, dict[str, Tensor]]:
        return -models.policy.logps(micro).sum() / total.tokens, {}
