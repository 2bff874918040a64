"""Few-shot prompting: show the model solved examples before every question (Brown et al. 2020, arXiv 2005.14165).

No weight changes. The examples become the model's prompt program, which every measure, chat and server applies.
"""

import os
import random
import shutil
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal

from pydantic import Field

from posttrain.data.program import FILE as PROGRAM
from posttrain.data.program import Example, PromptProgram
from posttrain.data.read import read
from posttrain.engine.job import Job
from posttrain.engine.method import ANSWERING, Made, Transform
from posttrain.schema.artifacts import MANIFEST, Dataset, Model
from posttrain.schema.errors import DataError
from posttrain.schema.rows import Prompt, Row
from posttrain.schema.settings import DatasetRef


class FewShot(Transform):
    """Put solved examples before every question."""

    reads: ClassVar[type[Row]] = Prompt
    accepts: ClassVar[frozenset[str]] = ANSWERING

    data: DatasetRef
    """Rows with answers, from which the examples are drawn."""
    k: int = Field(4, ge=0)
    """How many examples a question gets."""
    layout: Literal["chat", "plain"] = "chat"
    """Show them as earlier turns of a chat, or as plain text to a model without one."""
    by_task: bool = False
    """Draw the examples of a question from rows of its own `task`."""

    def run(self, job: Job, **inputs: Any) -> Made:
        model: Model = inputs["model"]
        datasets: tuple[Dataset, ...] = inputs["data"]
        rows = [row for dataset in datasets for row in read(dataset, Prompt).rows]
        examples = tuple(_example(row, self.layout) for row in self._draw(rows, job.seed))
        _same_files(model, job.folder)
        PromptProgram(layout=self.layout, examples=examples, k=self.k, by_task=self.by_task).save(job.folder)
        return Made({"examples": len(examples)}, model.form, model.base)

    def _draw(self, rows: Sequence[Prompt], seed: int) -> list[Prompt]:
        """k rows with answers, or k of each task."""
        groups: dict[str, list[Prompt]] = defaultdict(list)
        for row in rows:
            if row.answer:
                groups[row.task if self.by_task else ""].append(row)
        short = [f"{task or 'all rows'}: {len(group)}" for task, group in groups.items() if len(group) < self.k]
        if short or not groups:
            raise DataError(
                f"k={self.k} examples are wanted and there are fewer with an answer ({', '.join(short) or 'none'}). "
                "Lower k, or give more rows."
            )
        return [row for _, group in sorted(groups.items()) for row in random.Random(seed).sample(group, self.k)]


def _example(row: Prompt, layout: str) -> Example:
    asked = row.messages[-1].content if layout == "chat" or row.plain is None else row.plain
    return Example(prompt=asked, answer=row.answer or "", task=row.task)


def _same_files(model: Model, folder: Path) -> None:
    """The model's files but its prompt program in another folder. Those of an artifact are linked where the file system
    can, so that weights take no second place; others are copied, since whoever owns them may change them."""
    place = os.link if (model.path / MANIFEST).is_file() else shutil.copyfile
    for name in model.files.keys() - {PROGRAM}:
        target = folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            place(model.path / name, target)
        except OSError:
            shutil.copyfile(model.path / name, target)
