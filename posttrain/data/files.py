"""Which files hold the rows: one file, the files of a folder or of one of its splits, or those that a pattern fits.

rows.jsonl, rows.csv.gz, data/*.parquet, folder
folder#train          train.jsonl, train-00000-of-00002.parquet, train/… or data_train.csv in it
file.json#train       the list `train` of a JSON document
rows.jsonl#:100       the first 100 rows; `folder#train:100` of a split
"""

import glob
import json
import re
from pathlib import Path

from posttrain.schema.artifacts import MANIFEST
from posttrain.schema.errors import DataError, nearest

SUFFIXES = (".jsonl", ".ndjson", ".json", ".csv", ".tsv", ".parquet", ".arrow", ".txt")
PACKED = (".gz", ".zst")
STATE = "state.json"
"""The file in which `datasets.save_to_disk` lists its files."""
REVIEW = "review.jsonl"
"""Rows that a human is to look at first: read where the file is named, not with the others of its folder."""
NO_ROWS = frozenset(
    (MANIFEST, "dataset_info.json", "dataset_dict.json", "dataset_infos.json", STATE, "requirements.txt", REVIEW)
)
"""Files that stand beside rows, by name."""
SPLITS = frozenset("train training test testing dev valid validation val eval evaluation".split())
PART = re.compile(r"(?P<path>.+)#(?P<part>[^#:/]*)(?::(?P<take>[1-9]\d*))?")


def parted(name: str) -> tuple[str, str, int | None]:
    """(path, part, number of rows) of `path#part:rows`; a path that exists is not taken apart.

    >>> parted("rows#train:100")
    ('rows', 'train', 100)
    """
    found = PART.fullmatch(name)
    if found is None or Path(name).expanduser().exists():
        return name, "", None
    return found["path"], found["part"], int(found["take"]) if found["take"] else None


def suffix_of(path: Path) -> str:
    """The suffix that says what is inside: `.jsonl` for `a.jsonl.gz`."""
    name = path.name.lower()
    for packed in PACKED:
        name = name.removesuffix(packed)
    return Path(name).suffix


def is_row_file(path: Path) -> bool:
    """Whether a file's name says that it holds rows."""
    return suffix_of(path) in SUFFIXES and path.name not in NO_ROWS and not path.name.startswith(".")


def row_files(path: Path, part: str = "") -> list[Path]:
    """The files of rows at a path (a file, a folder or a glob), sorted. Raises DataError when there are none."""
    if path.is_file():
        return [path]
    if path.is_dir():
        return _in_folder(path, part)
    if not glob.has_magic(str(path)):
        raise DataError(f"There is no file {str(path)!r}. Check the path (seen from {Path.cwd()}) and write it again.")
    found = sorted(p for name in glob.glob(str(path), recursive=True) if (p := Path(name)).is_file())
    found = _of_split(path, found, part) if part else found
    if not found:
        raise DataError(f"No file fits {str(path)!r}. Look with `ls {path.parent}`, then mend the pattern.")
    return found


def _in_folder(folder: Path, part: str) -> list[Path]:
    inside = [p for p in sorted(folder.rglob("*")) if p.is_file() and is_row_file(p) and not _hidden(p, folder)]
    if not inside:
        raise DataError(
            f"The folder {folder} has no file of rows. Name a file, or put one of {', '.join(SUFFIXES)} there."
        )
    found = _of_split(folder, inside, part) if part else inside
    splits = [] if part else sorted({split for p in inside if (split := _split(p, folder)).lower() in SPLITS})
    if len(splits) > 1:  # a test split read as training data would go unnoticed
        example = "train" if "train" in splits else splits[0]
        raise DataError(
            f"The folder {folder} holds several splits: {', '.join(splits)}. Name one of them: '{folder}#{example}'."
        )
    return _saved(found)


def _of_split(folder: Path, files: list[Path], part: str) -> list[Path]:
    """The files of a split: by their folder or first word, else by any word of their name."""
    first = [p for p in files if _split(p, folder) == part or part in p.relative_to(_root(folder)).parts[:-1]]
    found = first or [p for p in files if part in re.split(r"[-_.]", p.name)[:-1]]
    if not found:
        splits = {_split(p, folder) for p in files}
        raise DataError(f"{folder} has no split {part!r}. {nearest(part, splits)}")
    above = sorted({p.parent.parent if p.parent.name == part else p.parent for p in found})
    if len(above) > 1 and folder.is_dir():  # data sets of their own, with a split each
        raise DataError(
            f"{folder} has a split {part!r} in {len(above)} folders. Name one of them: '{above[0]}#{part}'."
        )
    return found


def _root(folder: Path) -> Path:
    """The folder itself; for a pattern, the part of it before the first sign that stands for others."""
    while glob.has_magic(str(folder)):
        folder = folder.parent
    return folder


def _split(path: Path, folder: Path) -> str:
    """`train` of `train-00000-of-00002.parquet` and of `train/data-00000-of-00001.arrow`."""
    above = [part for part in path.relative_to(_root(folder)).parts[:-1] if part.lower() in SPLITS]
    return above[0] if above else re.split(r"[-_.]", path.name, maxsplit=1)[0]


def _saved(files: list[Path]) -> list[Path]:
    """Without the files that `datasets` keeps beside those of a saved data set."""
    listed: dict[Path, list[str]] = {}
    for folder in {path.parent for path in files if (path.parent / STATE).is_file()}:
        try:
            state = json.loads((folder / STATE).read_text(encoding="utf-8"))
            listed[folder] = [str(file["filename"]) for file in state["_data_files"]]
        except (OSError, ValueError, KeyError, TypeError):
            continue
    return [path for path in files if path.parent not in listed or path.name in listed[path.parent]]


def _hidden(path: Path, folder: Path) -> bool:
    return any(part.startswith(".") for part in path.relative_to(folder).parts)
