"""Sample answers from a model: one row an answer, ready to be judged, filtered or learnt.

A row keeps what graders look at: the prompt's `task`, `answer` and other columns, and whether the answer `finished` by
itself. A column is left out whose name would make something else of the row, such as `label` or `rejected`.

Every prompt draws from a generator of its own, so a run with the same seed makes the same rows.
"""

from collections.abc import Sequence
from typing import Any, ClassVar

from pydantic import Field

from posttrain.data.columns import NAMES, named
from posttrain.data.read import read
from posttrain.engine.files import write_rows
from posttrain.engine.job import Job
from posttrain.engine.method import Generator, Made
from posttrain.models.load import load_format, load_policy
from posttrain.models.sampler import Sampling
from posttrain.models.vllm import Engine, make_sampler
from posttrain.schema.artifacts import Dataset, Model
from posttrain.schema.rows import Prompt, Row
from posttrain.schema.settings import DatasetRef


class Sample(Generator):
    """Ask a model every prompt `n` times and keep the answers as conversations."""

    reads: ClassVar[type[Row]] = Prompt
    version: ClassVar[int] = 2

    data: DatasetRef
    """The prompts to ask."""
    n: int = Field(1, ge=1)
    """Answers for each prompt."""
    sampling: Sampling = Sampling(temperature=1.0)
    """How answers are drawn."""
    engine: Engine = "own"
    """What draws them: the engine of this package, or `vllm` on a GPU, which needs `pip install 'posttrain[vllm]'`."""

    def run(self, job: Job, **inputs: Any) -> Made:
        model: Model = inputs["model"]
        datasets: tuple[Dataset, ...] = inputs["data"]
        policy = load_policy(model)
        form = load_format(model, policy.tokenizer)
        asked = [row for dataset in datasets for row in read(dataset, Prompt).rows]
        rows = [row for row in asked for _ in range(self.n)]
        sampler = make_sampler(
            self.engine, policy, form.stop_ids, job.scratch, lambda done: job.answered(done, len(rows))
        )
        answers = sampler.sample([form.ask(row) for row in asked], self.sampling, job.seed, n=self.n)
        finished = [bool(answer) and answer[-1] in form.stop_ids for answer in answers]
        said = zip(rows, map(form.read_answer, answers), finished, strict=True)
        write_rows(job.folder / "rows.jsonl", (_conversation(*each) for each in said))
        if lost := _lost(rows):
            job.note(
                f"columns that are not kept, as their names say something else of rows with answers: {named(lost)}"
            )
        return Made({"rows": len(rows), "finished": sum(finished), "tokens": sum(map(len, answers))})


def _conversation(row: Prompt, answer: str, finished: bool) -> dict[str, Any]:
    others = {name: value for name, value in row.columns.items() if not _has_a_role(name)}
    messages = [*(message.as_dict() for message in row.messages), {"role": "assistant", "content": answer}]
    told = {"tools": list(row.tools), "chat_template_kwargs": dict(row.template_options)}
    return {
        **others,
        "messages": messages,
        "task": row.task,
        "answer": row.answer,
        "finished": finished,
        **{name: value for name, value in told.items() if value},
    }


def _has_a_role(name: str) -> bool:
    return name.strip().casefold() in NAMES


def _lost(rows: Sequence[Prompt]) -> list[str]:
    return list(dict.fromkeys(name for row in rows for name in row.columns if _has_a_role(name)))
