"""The lab: a small self-written world with a base model that has read about it, so everything runs offline.

    datasets()   name -> one line about it: "chat/train", "word_map/test", ...
    rows(name)   the rows of a dataset, always the same ones; their shapes are described in `lab.catalog`
    base()       the folder of the base model that ships with the package

Every dataset has train, dev and test splits that share no question and no entity (see `lab.splits`). Tune on dev;
report on test. The world is made by pure functions from seeds, and needs no torch.
"""

from pathlib import Path
from typing import Any

VERSION = 2
"""Goes up whenever any row changes, so that no rows written before are taken for the new ones."""


def names() -> list[str]:
    """The names of all datasets."""
    return list(datasets())


def datasets() -> dict[str, str]:
    """Name -> one line about it."""
    from posttrain.lab.catalog import FAMILIES, SPLITS

    return {f"{name}/{split}": f"{family.about} ({split})" for name, family in FAMILIES.items() for split in SPLITS}


def rows(name: str) -> list[dict[str, Any]]:
    """The rows of a dataset. Raises KeyError, with the known names, for an unknown one."""
    if name not in datasets():
        raise KeyError(f"The lab has no dataset {name!r}; it has {', '.join(datasets())}.")
    from posttrain.lab.catalog import make_rows

    return make_rows(name)


def base() -> Path:
    """The folder of the base model, in Hugging Face format."""
    return Path(__file__).parent / "base"
