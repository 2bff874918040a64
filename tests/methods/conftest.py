"""A workshop: a tiny model and rows in a store, and a way to run a stage on them."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from posttrain.engine.job import Job
from posttrain.engine.method import Stage, stage_class
from posttrain.engine.store import Store
from posttrain.schema.artifacts import Dataset, Model, hash_of
from posttrain.schema.findings import Findings, Graded, from_dict
from posttrain.schema.settings import Rows, keyed
from tests import tiny

BLANK = {"path": Path(), "digest": ""}


@dataclass
class Workshop:
    """Runs stages as a pipeline does, without one."""

    store: Store
    folder: Path

    def model(self, seed: int = 0, family: str = "llama") -> Model:
        folder = self.folder / f"{family}-{seed}"
        if not folder.exists():
            tiny.model(family, seed=seed).save_pretrained(folder)
            tiny.tokenizer().save_pretrained(folder)
        return self.store.model(str(folder))

    def rows(self, *rows: dict[str, Any]) -> tuple[Dataset, ...]:
        path = self.folder / f"{hash_of(list(rows))}.jsonl"
        path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
        return (self.store.dataset(Rows(path=str(path))),)

    def run(
        self,
        method: str,
        model: Model,
        data: Sequence[Dataset] = (),
        seed: int = 0,
        inputs: Mapping[str, Any] | None = None,
        **options: Any,
    ) -> Any:
        """`inputs` are the further ones by name, as `{"reward.model": …, "mix.data": (…,)}`."""
        stage = self.stage(method, data, **options)
        inputs = {**({"data": tuple(data)} if data else {}), **(inputs or {})}
        digests = {"model": model.digest} | {
            name: [d.digest for d in value] if isinstance(value, tuple) else value.digest
            for name, value in inputs.items()
        }
        settings = keyed(stage)
        key = hash_of([method, settings, digests, seed])
        blank = stage.artifact(**BLANK, key=key, method=method, settings=settings, seed=seed)
        return self.store.make(
            key, blank, lambda folder, scratch: stage.run(Job(folder, scratch, seed), model=model, **inputs)
        )

    def findings(self, method: str, model: Model, data: Sequence[Dataset] = (), **options: Any) -> Findings:
        evidence = self.run(method, model, data, **options)
        lines = (evidence.path / "samples.jsonl").read_text(encoding="utf-8").splitlines()
        samples = tuple(Graded(**json.loads(line)) for line in lines)
        return from_dict(json.loads((evidence.path / "findings.json").read_text(encoding="utf-8")), samples)

    @staticmethod
    def stage(method: str, data: Sequence[Dataset] = (), **options: Any) -> Stage:
        return stage_class(method)(**({"data": "given"} if data else {}), **options)


@pytest.fixture
def workshop(tmp_path: Path) -> Workshop:
    return Workshop(Store(tmp_path / "store"), tmp_path)
