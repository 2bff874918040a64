"""Who belongs to train, to dev and to test.

Entities (people, towns, words, verb-object combinations) are dealt out once; open-ended things (a chain, a
list, a document) are dealt out by a hash of what they are. So no question of one split can occur in another.

`text` is a fourth side: what pretraining text may ask. It asks about train entities only, in every wording;
statements ("Tom is a baker.") and lines of word maps ("red -> rako") tell the whole world, as it must be known before
it can be asked for.
The last wording of every task is kept from train and dev: in test it shows transfer to a new phrasing.
"""

import hashlib
import random
from collections.abc import Sequence
from typing import Literal, TypeVar

Split = Literal["text", "train", "dev", "test"]
T = TypeVar("T")

DEV_SHARE = 0.08
TEST_SHARE = 0.15


def deal(
    things: Sequence[T], seed: int, dev_share: float = DEV_SHARE, test_share: float = TEST_SHARE
) -> dict[Split, list[T]]:
    """Disjoint lists that together hold all `things`, by split ("text" is the train list again)."""
    shuffled = list(things)
    random.Random(seed).shuffle(shuffled)
    n_dev = max(1, round(dev_share * len(shuffled)))
    n_test = max(1, round(test_share * len(shuffled)))
    train = shuffled[n_dev + n_test :]
    return {"text": train, "train": train, "dev": shuffled[:n_dev], "test": shuffled[n_dev : n_dev + n_test]}


def split_of(*key: object) -> Split:
    """The split that an open-ended thing belongs to, the same in every process."""
    digest = hashlib.sha256(repr(key).encode()).digest()
    share = int.from_bytes(digest[:4], "big") / 2**32
    if share < DEV_SHARE:
        return "dev"
    return "test" if share < DEV_SHARE + TEST_SHARE else "train"


def allowed(split: Split, *key: object) -> bool:
    """Whether a thing with this key may appear in `split`."""
    return split_of(*key) == ("train" if split == "text" else split)


def wording(rng: random.Random, split: Split, wordings: Sequence[str]) -> str:
    """One way to put a question; the last of them is kept for test (and for pretraining text)."""
    return rng.choice(wordings if split in ("text", "test") else wordings[:-1])
