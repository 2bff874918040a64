"""Data sets of the Hugging Face Hub: their files of rows, downloaded once. `org/name`, or `org/name/folder` for one of
several sets in a repository."""

import re
from pathlib import Path

from posttrain.schema.errors import DataError

from .files import PACKED, STATE, SUFFIXES

HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+(/[\w.-]+)*")


def from_hub(name: str, part: str) -> Path:
    """The folder with the rows of a data set, or of a folder in it; with `part`, perhaps no other split. Everything
    that can go wrong becomes one DataError."""
    from huggingface_hub import snapshot_download

    owner, repository, *inside = name.split("/")
    above = "".join(f"{folder}/" for folder in inside)
    suffixes = [f"{suffix}{packed}" for suffix in SUFFIXES for packed in ("", *PACKED)]
    patterns = [f"{above}*{part}*{suffix}" for suffix in suffixes] + [f"{above}*{STATE}"]
    id = f"{owner}/{repository}"
    try:
        folder = Path(snapshot_download(id, repo_type="dataset", allow_patterns=patterns))
    except Exception as error:  # its errors have many roots: network, HTTP, validation, cache
        reason = re.split(r"\.\s|\n", str(error).strip(), maxsplit=1)[0].rstrip(".")
        raise DataError(
            f"There are no rows {name!r}: no file, folder or artifact of that name, and the Hugging Face Hub gave none "
            f"({type(error).__name__}: {reason}). Name a local file; offline, download it first with "
            f"`hf download --repo-type dataset {id}` on a machine that is online."
        ) from error
    return folder.joinpath(*inside)
