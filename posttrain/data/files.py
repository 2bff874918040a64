"""Which files hold the rows: one file, the files of a folder, or those that a pattern fits."""

import glob
import re
from pathlib import Path

from posttrain.schema.artifacts import MANIFEST
from posttrain.schema.errors import DataError

SUFFIXES = (".jsonl", ".ndjson", ".json", ".csv", ".tsv", ".parquet", ".arrow", ".txt")
NO_ROWS = frozenset((MANIFEST, "dataset_info.json", "dataset_dict.json", "state.json", "requirements.txt"))
"""Files that stand beside rows, by name."""
SPLITS = frozenset("train training test testing dev valid validation val eval evaluation".split())


def suffix_of(path: Path) -> str:
    """The suffix that says what is inside: `.jsonl` for `a.jsonl.gz`."""
    return Path(path.name.lower().removesuffix(".gz")).suffix


def is_row_file(path: Path) -> bool:
    """Whether a file's name says that it holds rows."""
    return suffix_of(path) in SUFFIXES and path.name not in NO_ROWS and not path.name.startswith(".")


def row_files(path: Path) -> list[Path]:
    """The files of rows at a path (a file, a folder or a glob), sorted. Raises DataError when there are none."""
    if path.is_file():
        return [path]
    if path.is_dir():
        return _in_folder(path)
    if not glob.has_magic(str(path)):
        raise DataError(f"There is no file {str(path)!r}. Check the path (seen from {Path.cwd()}) and write it again.")
    found = sorted(p for name in glob.glob(str(path), recursive=True) if (p := Path(name)).is_file())
    if not found:
        raise DataError(f"No file fits {str(path)!r}. Look with `ls {path.parent}`, then mend the pattern.")
    return found


def _in_folder(folder: Path) -> list[Path]:
    found = [p for p in sorted(folder.rglob("*")) if p.is_file() and is_row_file(p) and not _hidden(p, folder)]
    if not found:
        raise DataError(
            f"The folder {folder} has no file of rows. Name a file, or put one of {', '.join(SUFFIXES)} there."
        )
    splits = {word: p for p in found if (word := _first_word(p)).lower() in SPLITS}
    if len(splits) > 1:  # a test split read as training data would go unnoticed
        word, example = next(iter(splits.items()))
        raise DataError(
            f"The folder {folder} holds several splits: {', '.join(splits)}. "
            f"Name the files of one of them, for example '{example.parent / word}*'."
        )
    return found


def _hidden(path: Path, folder: Path) -> bool:
    return any(part.startswith(".") for part in path.relative_to(folder).parts)


def _first_word(path: Path) -> str:
    """`train` of `train-00000-of-00002.parquet`."""
    return re.split(r"[-_.]", path.name, maxsplit=1)[0]
