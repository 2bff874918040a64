"""Rows of token ids that another program made, with what is learnt of them.

input_ids, labels             learnt where the label is the token itself; -100 elsewhere (labels are not shifted)
input_ids, completion_mask    learnt where it is 1; `assistant_masks` narrows it down
input_ids                     all learnt but the first, which nothing precedes
attention_mask                a token with 0 is padding and is left out
prompt_ids, chosen_ids, rejected_ids
"""

from posttrain.schema.rows import Tokenised, TokenisedPair

from .cells import Cells
from .record import NotReadable, shown

IGNORED = -100
"""The label of a token that is not learnt."""


def tokenised(cells: Cells) -> Tokenised:
    """Ids with their mask."""
    ids = _whole_numbers(cells, "ids")
    if not ids:
        raise NotReadable(f"the column {cells.roles['ids']!r} has no tokens")
    trained = [n > 0 for n in range(len(ids))]
    if cells.get("labels") is not None:
        trained = _learnt(ids, _column(cells, "labels", len(ids)))
    for role in ("mask", "answer_mask"):
        if cells.get(role) is not None:
            mask = _column(cells, role, len(ids))
            trained = [learnt and bool(on) for learnt, on in zip(trained, mask, strict=True)]
    if cells.get("attention") is not None:
        kept = _column(cells, "attention", len(ids))
        ids = [id for id, on in zip(ids, kept, strict=True) if on]
        trained = [learnt for learnt, on in zip(trained, kept, strict=True) if on]
    if not ids:
        raise NotReadable("all tokens are padding")
    return Tokenised(tuple(ids), (False, *trained[1:]))


def tokenised_pair(cells: Cells) -> TokenisedPair:
    """Ids of a prompt and of both answers."""
    prompt, chosen, rejected = (
        tuple(_whole_numbers(cells, role)) for role in ("prompt_ids", "chosen_ids", "rejected_ids")
    )
    if not (prompt and chosen and rejected):
        raise NotReadable("the prompt and both answers must have tokens")
    return TokenisedPair(prompt, chosen, rejected)


def _learnt(ids: list[int], labels: list[int]) -> list[bool]:
    for n, (id, label) in enumerate(zip(ids, labels, strict=True)):
        if label not in (IGNORED, id):
            raise NotReadable(
                f"labels[{n}] is {label}, but must be input_ids[{n}], which is {id}, or {IGNORED}: labels are not shifted"
            )
    return [label != IGNORED for label in labels]


def _column(cells: Cells, role: str, n: int) -> list[int]:
    column = _whole_numbers(cells, role, low=IGNORED)
    if len(column) != n:
        raise NotReadable(f"there are {n} tokens, but {len(column)} in the column {cells.roles[role]!r}")
    return column


def _whole_numbers(cells: Cells, role: str, low: int = 0) -> list[int]:
    values = cells.list(role)
    for n, value in enumerate(values):
        if not isinstance(value, int) or value < low:
            said = str(value)[:20] if isinstance(value, int) else shown(value)
            raise NotReadable(f"{cells.roles[role]}[{n}] must be a token's number, this is {said}")
    return [int(value) for value in values]
