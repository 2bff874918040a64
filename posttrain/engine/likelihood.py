"""How likely a model finds texts that it did not write, in nats: sums over all tokens of a text, or of an answer."""

from collections.abc import Sequence

from posttrain.data.batch import Batch
from posttrain.data.trees import plant
from posttrain.functional.layout import Branch, Tree
from posttrain.models.load import load_format, load_policy
from posttrain.schema.artifacts import Model
from posttrain.schema.errors import DataError
from posttrain.schema.rows import Message, Prompt, Text


def text_logps(model: Model, rows: Sequence[Prompt]) -> list[float]:
    """log p of the last message of every row as a text of its own; but for the very first token, which nothing precedes.
    Raises DataError for a text that is longer than the model reads."""
    policy = load_policy(model)
    form = load_format(model, policy.tokenizer)
    planted = [plant([Text(row.messages[-1].content)], form, policy.context) for row in rows]
    if any(len(trees) > 1 for trees in planted):
        raise _too_long(policy.context)
    return [float(logp) for logp in policy.score(Batch(tuple(tree for (tree,) in planted)))]


def answer_logps(model: Model, rows: Sequence[Prompt]) -> list[float]:
    """log p of the answer that every row holds, with the token that ends it, behind its prompt. Raises DataError for a row
    without an answer, and for one that is longer than the model reads."""
    policy = load_policy(model)
    form = load_format(model, policy.tokenizer)
    trees = []
    for row in rows:
        if row.answer is None:
            raise DataError("A row has no answer to be likely. Say which column holds it with `columns: {answer: …}`.")
        before, said = form.answer(row.messages, (Message("assistant", row.answer),), row.tools)
        if len(before) + len(said) > policy.context:
            raise _too_long(policy.context)
        trees.append(Tree(tuple(before), (Branch(tuple(said), (True,) * len(said)),)))
    return [float(logp) for logp in policy.score(Batch(tuple(trees)))]


def _too_long(context: int) -> DataError:
    return DataError(
        f"A text is longer than the {context} tokens that the model reads. Leave such rows out with `max_chars`."
    )
