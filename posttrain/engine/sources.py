"""What a recipe names and no stage makes: base models and files of rows, found and hashed.

An artifact from outside has no key; its digest is of its files, so that a changed file changes what follows.
"""

import difflib
import glob
import json
import os
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from posttrain.data.files import is_row_file, parted, row_files
from posttrain.data.hub import HUB_NAME, from_hub
from posttrain.schema.artifacts import MANIFEST, Dataset, Model, hash_of
from posttrain.schema.errors import Damaged, DataError, ModelError, nearest
from posttrain.schema.settings import Rows

from .files import digest_of, replace_text, room_for

if TYPE_CHECKING:
    from .store import Store

LAB = "lab"
MODEL_FILES = ("*.json", "*.safetensors", "*.bin", "*.model", "*.txt", "*.jinja", "*.tiktoken", "*.gguf")
WEIGHTS = ("*.safetensors", "pytorch_model*.bin")


def model(store: "Store", name: str) -> Model:
    """The model that a recipe calls `name`. Raises ModelError, whose message ends with what to write instead."""
    if name == LAB:
        from posttrain import lab

        return _folder(store, Path(lab.base()))
    folder = Path(name).expanduser()
    if folder.is_dir():
        return _folder(store, folder)
    if folder.exists():
        raise ModelError(f"{name!r} is a file, not a model. Name the folder that holds config.json and the weights.")
    if found := store.lookup(name):
        return _only_model(name, found)
    if name.startswith((".", "/", "~")) or name.count("/") > 1:
        raise ModelError(f"There is no folder {name!r}. {_neighbours(folder)}")
    return _folder(store, _from_hub(name))


def _only_model(name: str, found: list[Any]) -> Model:
    models = {artifact.digest: artifact for artifact in found if isinstance(artifact, Model)}
    if len(models) == 1:
        return next(iter(models.values()))
    if models:
        raise ModelError(f"{name!r} fits {len(models)} models: {', '.join(models)}. Write more digits of the digest.")
    raise ModelError(f"{name!r} is a {found[0].kind}, not a model. Name a model that a stage made.")


def _folder(store: "Store", folder: Path) -> Model:
    """The model in a folder: one that posttrain made, or any in the Hugging Face or PEFT format."""
    from .store import load

    if (folder / MANIFEST).is_file():
        try:
            made = load(folder)
        except Damaged as damage:
            raise ModelError(f"{damage} Make it again, or copy it again from where it came.") from damage
        if isinstance(made, Model):
            return made
        raise ModelError(f"{folder} holds a {made.kind}, not a model. Name the folder of a model.")
    paths = sorted({path for pattern in MODEL_FILES for path in folder.glob(pattern) if path.is_file()})
    form, base = _form(store, folder)
    files = {path.name: store.hashes.entry(path) for path in paths}
    digest = digest_of(files) if base is None else hash_of([digest_of(files), base.digest])
    return Model(folder.resolve(), digest, files=files, form=form, base=str(base.path) if base else None)


def _form(store: "Store", folder: Path) -> tuple[str, Model | None]:
    """(form, the model an adapter sits on) of a folder without manifest."""
    if (folder / "adapter_config.json").is_file():
        return "adapter", _base_of(store, folder)
    if (folder / "config.json").is_file():
        if not any(path for pattern in WEIGHTS for path in folder.glob(pattern)):
            if any(folder.glob("*.gguf")):
                return "gguf", None
            raise ModelError(f"{folder} has a config.json but no weights. Put model.safetensors beside it.")
        config = _json(folder / "config.json")
        if any(str(name).endswith("ForSequenceClassification") for name in config.get("architectures") or ()):
            return "reward", None
        return str(config.get("quantization_config", {}).get("quant_method", "dense")), None
    if any(folder.glob("*.gguf")):
        raise ModelError(
            f"{folder} holds GGUF files alone, and they are read beside the config.json and tokenizer.json of the model that they "
            "were made from. Put these there, or name that model."
        )
    raise ModelError(
        f"{folder} is no model: it has neither config.json nor adapter_config.json. Name a folder in the Hugging Face "
        "format (config.json, model.safetensors, tokenizer.json), or `lab` for the small model that ships with posttrain."
    )


def _base_of(store: "Store", folder: Path) -> Model:
    name = _json(folder / "adapter_config.json").get("base_model_name_or_path")
    if not name:
        raise ModelError(
            f"{folder}/adapter_config.json does not say which model it adapts. Set base_model_name_or_path."
        )
    beside = folder / name
    return model(store, str(beside) if beside.is_dir() else name)


def _json(path: Path) -> dict[str, Any]:
    try:
        read = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ModelError(f"{path} cannot be read as JSON ({error}). Copy the model again.") from error
    if not isinstance(read, dict):
        raise ModelError(f"{path} holds no JSON object. Copy the model again.")
    return read


def _from_hub(name: str) -> Path:
    """The folder of a Hub model, downloaded once. Everything that can go wrong becomes one ModelError."""
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(name, allow_patterns=[p for p in MODEL_FILES if p != "*.gguf"]))
    except Exception as error:  # its errors have many roots: network, HTTP, validation, cache
        reason = re.split(r"\.\s|\n", str(error).strip(), maxsplit=1)[0].rstrip(".")
        meant = f" {nearest(name, [LAB])}" if difflib.get_close_matches(name, [LAB]) else ""
        raise ModelError(
            f"There is no model {name!r}: no folder and no artifact of that name, and the Hugging Face Hub gave none "
            f"({type(error).__name__}: {reason}).{meant} Name a local folder, or `lab`; offline, download it first with "
            f"`hf download {name}` on a machine that is online."
        ) from error


def dataset(store: "Store", rows: Rows) -> Dataset:
    """The dataset that `rows` names: `path` is a folder and `files` the files to read in it, by name and in order."""
    path, part, n = parted(rows.path)
    said = rows.reading()
    if n is not None:
        said["take"] = min(n, said.get("take", n))
    if part and Path(path).expanduser().is_file():
        said["part"] = part
    if path.startswith(f"{LAB}:"):
        found = _files(store, [_lab_rows(store, (rows.path if part else path).removeprefix(f"{LAB}:"))])
    else:
        found = _rows(store, path, part)
    return found.read_as(said)


def _rows(store: "Store", name: str, part: str) -> Dataset:
    path = Path(name).expanduser()
    if path.is_dir():
        return _folder_rows(store, path, part)
    if path.is_file() or glob.has_magic(name):
        return _files(store, row_files(path, part))
    if made := [artifact for artifact in store.lookup(name) if isinstance(artifact, Dataset)]:
        if part:
            raise DataError(f"The rows {name!r} were made by a stage and have no split {part!r}. Leave '#{part}' out.")
        return made[0]
    if "://" in name:
        raise DataError(f"Rows are not read over a network, so {name!r} is not. Copy it here and name the copy.")
    if HUB_NAME.fullmatch(name) and not path.parent.is_dir() and not is_row_file(path):
        return _folder_rows(store, from_hub(name, part), part)
    raise DataError(f"There is no file {name!r}. {_neighbours(path)}")


def _folder_rows(store: "Store", folder: Path, part: str) -> Dataset:
    from .store import load

    if not (folder / MANIFEST).is_file():
        return _files(store, row_files(folder, part))
    try:
        made = load(folder)
    except Damaged as damage:
        raise DataError(f"{damage} Make it again, or copy it again from where it came.") from damage
    if isinstance(made, Dataset) and not part:
        return made
    raise DataError(
        f"{folder} holds a {made.kind}, not {f'splits like {part!r}' if part else 'rows'}. Name a folder of rows."
    )


def _files(store: "Store", paths: list[Path]) -> Dataset:
    paths = [path.absolute() for path in paths]
    folder = Path(os.path.commonpath([path.parent for path in paths]))
    files = {path.relative_to(folder).as_posix(): store.hashes.entry(path) for path in paths}
    return Dataset(folder, digest_of(files), files=files)


def _lab_rows(store: "Store", name: str) -> Path:
    """Rows of the lab as a file, written once per version of the lab."""
    from posttrain import lab

    if name not in lab.names():
        raise DataError(f"The lab has no rows {name!r}. {nearest(name, lab.names())}")
    path = store.root / "lab" / str(lab.VERSION) / f"{name}.jsonl"
    if not path.is_file():
        text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in lab.rows(name))
        with room_for(f"lab:{name}", path, len(text.encode())):
            replace_text(path, text)
    return path


def _neighbours(path: Path) -> str:
    """A hint that ends an error about a path that does not exist."""
    folder = path.parent
    if not folder.is_dir():
        return f"The folder {folder} does not exist either. Check the path from {Path.cwd()}."
    where = "" if folder == Path() else f"In {folder}: "
    return where + nearest(path.name, [p.name for p in folder.iterdir() if not p.name.startswith(".")])
