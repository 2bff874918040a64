"""Sample answers from a model: one row an answer, ready to be judged, filtered or learnt.

Every prompt draws from a generator of its own, so a run with the same seed makes the same rows.
"""

import json
from typing import Any, ClassVar

from pydantic import Field

from posttrain.data.read import read
from posttrain.engine.job import Job
from posttrain.engine.method import Generator, Made
from posttrain.models.load import load_format, load_policy
from posttrain.models.sampler import Sampling, TransformersSampler
from posttrain.schema.artifacts import Dataset, Model
from posttrain.schema.rows import Prompt, Row
from posttrain.schema.settings import DatasetRef


class Sample(Generator):
    """Ask a model every prompt `n` times and keep the answers as conversations."""

    reads: ClassVar[type[Row]] = Prompt

    data: DatasetRef
    """The prompts to ask."""
    n: int = Field(1, ge=1)
    """Answers for each prompt."""
    sampling: Sampling = Sampling(temperature=1.0)
    """How answers are drawn."""

    def run(self, job: Job, **inputs: Any) -> Made:
        model: Model = inputs["model"]
        datasets: tuple[Dataset, ...] = inputs["data"]
        policy = load_policy(model)
        form = load_format(model, policy.tokenizer)
        rows = [row for dataset in datasets for row in read(dataset, Prompt).rows for _ in range(self.n)]
        sampler = TransformersSampler(policy, form.stop_ids, watch=lambda done: job.answered(done, len(rows)))
        answers = sampler.sample([form.ask(row) for row in rows], self.sampling, job.seed)
        with (job.folder / "rows.jsonl").open("w", encoding="utf-8") as file:
            for row, answer in zip(rows, answers, strict=True):
                file.write(json.dumps(_conversation(row, form.read_answer(answer)), ensure_ascii=False) + "\n")
        finished = sum(bool(answer) and answer[-1] in form.stop_ids for answer in answers)
        return Made({"rows": len(rows), "finished": finished, "tokens": sum(map(len, answers))})


def _conversation(row: Prompt, answer: str) -> dict[str, Any]:
    messages = [*(message.as_dict() for message in row.messages), {"role": "assistant", "content": answer}]
    return {"messages": messages, "task": row.task, "answer": row.answer}
