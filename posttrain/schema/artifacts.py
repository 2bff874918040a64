"""Artifacts: what stages take and make. Each is a folder in the ecosystem's own format plus one `posttrain.json`.

Two hashes keep them honest. The *key* is known before the work (method, version, options, input digests, seed) and
decides whether it is done again. The *digest* is of the bytes that came out; it names the artifact and feeds the next key.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any, ClassVar

MANIFEST = "posttrain.json"
FORMS = ("dense", "adapter", "reward", "compressed-tensors", "gptq", "awq", "modelopt", "gguf")


def hash_of(value: Any) -> str:
    """Sixteen hex digits of a JSON-like value; the order of mapping keys does not matter."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, ensure_ascii=False).encode()).hexdigest()[:16]


@dataclass(frozen=True)
class FileEntry:
    """One file of an artifact."""

    bytes: int
    sha256: str


@dataclass(frozen=True)
class Artifact:
    """A folder that exists whole. `inputs` are the digests of what it was made from, by parameter name."""

    path: Path
    digest: str
    key: str = ""
    method: str = ""
    version: int = 1
    settings: Mapping[str, Any] = field(default_factory=dict)
    inputs: Mapping[str, str] = field(default_factory=dict)
    seed: int = 0
    facts: Mapping[str, Any] = field(default_factory=dict)
    environment: Mapping[str, str] = field(default_factory=dict)
    files: Mapping[str, FileEntry] = field(default_factory=dict)
    kind: ClassVar[str] = "artifact"

    @property
    def bytes(self) -> int:
        return sum(entry.bytes for entry in self.files.values())

    def manifest(self) -> dict[str, Any]:
        """What stands in `posttrain.json`: everything but the place, so a folder can be moved."""
        described = asdict(self)
        del described["path"]
        return {"schema": 1, "kind": self.kind, **described}


@dataclass(frozen=True)
class Model(Artifact):
    """Weights, tokenizer, chat template and prompt program. `form` says who can load it, `reward` that it scores answers
    and writes none; `base` is the folder of the model that an adapter sits on."""

    form: str = "dense"
    base: str | None = None
    kind: ClassVar[str] = "model"


@dataclass(frozen=True)
class Dataset(Artifact):
    """Rows in files. The other fields say how they are read: as in `settings.Rows`, and which `part` of a file."""

    columns: Mapping[str, str] = field(default_factory=dict)
    take: int | None = None
    part: str = ""
    header: bool | None = None
    where: Mapping[str, Any] = field(default_factory=dict)
    min_chars: int | None = None
    max_chars: int | None = None
    deduplicate: str | None = None
    on_bad_row: str = "stop"
    weight: float | None = None
    epochs: float = 1.0
    kind: ClassVar[str] = "dataset"

    def read_as(self, said: Mapping[str, Any]) -> "Dataset":
        """The same rows, read as said: fields by name. What changes the rows changes the digest."""
        return replace(self, digest=hash_of([self.digest, said]), **said) if said else self

    def reading(self) -> dict[str, Any]:
        """How the rows are read, where that is not the usual way: fields by name."""
        usual = Dataset(self.path, self.digest)
        own = [field.name for field in fields(Dataset) if field not in fields(Artifact)]
        return {name: getattr(self, name) for name in own if getattr(self, name) != getattr(usual, name)}


@dataclass(frozen=True)
class Evidence(Artifact):
    """A folder with the findings of one measure on one model: `findings.json` and `samples.jsonl`."""

    kind: ClassVar[str] = "findings"


KINDS: dict[str, type[Artifact]] = {kind.kind: kind for kind in (Model, Dataset, Evidence)}


def from_manifest(path: Path, manifest: Mapping[str, Any]) -> Artifact:
    """The artifact that a manifest describes. Raises KeyError or TypeError when it describes none."""
    described = {name: value for name, value in manifest.items() if name not in ("schema", "kind")}
    described["files"] = {name: FileEntry(**entry) for name, entry in described["files"].items()}
    return KINDS[manifest["kind"]](path=path, **described)
