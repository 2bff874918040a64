"""Stand-in methods that only hash what they are given, so that the pipeline is tested without a model.

Tune    objective   dense -> dense      Compress  transform  dense -> gptq     Write   generator
Adapt   objective   dense -> adapter    Fold      transform  adapter -> dense  Score, Weigh, Against   measures
Blend   transform   several dense -> dense
"""

import json
from typing import Annotated, Any, ClassVar

from pydantic import Field

from posttrain.engine.job import Job
from posttrain.engine.method import Generator, Made, Measure, Stage, Transform
from posttrain.schema.artifacts import Dataset, Model, hash_of
from posttrain.schema.errors import Diverged, Stopped
from posttrain.schema.findings import Findings, Flag, Graded, Metric
from posttrain.schema.rows import Prompt
from posttrain.schema.settings import Cosmetic, DatasetRef, ModelRef, ParentRef, ParentRefs

RAN: list[str] = []
"""The name of every stand-in that ran, in order; tests clear it."""


def write_model(job: Job, what: Any) -> None:
    (job.folder / "config.json").write_text("{}")
    (job.folder / "model.safetensors").write_text(hash_of([what, job.seed]))


def digests(data: tuple[Dataset, ...]) -> list[str]:
    return [source.digest for source in data]


class Tune(Stage):
    """Writes a hash of the model, the data and the options, after a few steps of falling loss."""

    kind: ClassVar[str] = "objective"
    artifact: ClassVar[type[Model]] = Model
    accepts: ClassVar[frozenset[str]] = frozenset({"dense"})
    reads: ClassVar[type[Prompt]] = Prompt

    data: DatasetRef
    """Rows to learn from."""
    strength: float = Field(0.1, gt=0)
    """How much is learnt."""
    steps: int = Field(3, ge=1)
    """How many points of a curve are told."""
    fail: str = ""
    """`diverge`, `stop`, `crash` or `memory`, to test what follows."""
    log_every: Annotated[int, Cosmetic] = 1
    """How often the loss is told."""

    def run(self, job: Job, *, model: Model, data: tuple[Dataset, ...]) -> Made:
        RAN.append("tune")
        for step in range(1, self.steps + 1):
            job.emit("progress", step=step, of=self.steps, loss=1 / step, lr=0.1, tokens=100 * step)
        if self.fail == "diverge":
            raise Diverged("The loss is not finite at step 3. Lower `strength`.")
        if self.fail == "crash":
            raise FileExistsError("an error that no method raises on purpose")
        if self.fail == "memory":
            raise RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB.\nGPU 0 has too little.")
        if self.fail == "stop" or job.stop():
            raise Stopped("Stopped after step 3; a checkpoint was saved.")
        write_model(job, [model.digest, digests(data), self.strength])
        return Made({"n_rows": 6})


class Adapt(Tune):
    """Tune that leaves an adapter."""

    def makes_form(self, form: str) -> str:
        return "adapter"

    def run(self, job: Job, *, model: Model, data: tuple[Dataset, ...]) -> Made:
        super().run(job, model=model, data=data)
        return Made(form="adapter", base=str(model.path))


class Compress(Transform):
    """Makes a form that Tune does not accept."""

    accepts: ClassVar[frozenset[str]] = frozenset({"dense"})
    bits: int = 4
    """How many bits are left."""

    def makes_form(self, form: str) -> str:
        return "gptq"

    def run(self, job: Job, *, model: Model) -> Made:
        RAN.append("compress")
        write_model(job, [model.digest, self.bits])
        return Made(form="gptq")


class Fold(Transform):
    """An adapter becomes dense again."""

    accepts: ClassVar[frozenset[str]] = frozenset({"adapter"})

    def makes_form(self, form: str) -> str:
        return "dense"

    def run(self, job: Job, *, model: Model) -> Made:
        RAN.append("fold")
        write_model(job, model.digest)
        return Made()


class Blend(Transform):
    """Makes one model of several."""

    accepts: ClassVar[frozenset[str]] = frozenset({"dense"})
    others: ParentRefs = ()
    """The further models."""
    base: ParentRef = None
    """What all come from."""

    def run(self, job: Job, *, model: Model, others: tuple[Model, ...] = (), base: Model | None = None) -> Made:
        RAN.append(f"blend {1 + len(others)}")
        write_model(job, [model.digest, [each.digest for each in others], base and base.digest])
        return Made()


class Write(Generator):
    """Makes rows that name the model they came from."""

    data: DatasetRef
    """Prompts to answer."""

    def run(self, job: Job, *, model: Model, data: tuple[Dataset, ...]) -> Made:
        RAN.append("write")
        row = {"prompt": f"What says {model.digest}?", "answer": "4"}
        (job.folder / "rows.jsonl").write_text(json.dumps(row) + "\n")
        return Made({"n_rows": 1})


class Score(Measure):
    """A number between 0 and 1 that depends on nothing but the model's digest, unless it is given."""

    accepts: ClassVar[frozenset[str]] = frozenset({"dense", "adapter", "gptq"})

    reads: ClassVar[type[Prompt]] = Prompt
    data: DatasetRef
    """Rows to ask."""
    value: float | None = None
    """The score to give instead."""

    def measure(self, job: Job, model: Model, *, data: tuple[Dataset, ...]) -> Findings:
        RAN.append("score")
        score = int(model.digest[:4], 16) / 0xFFFF if self.value is None else self.value
        samples = (Graded("1", score, "What is 1+1?", "2", "2"),)
        return Findings("score", "score", {"accuracy": Metric(score, 1)}, samples)


class Weigh(Measure):
    """Size in bytes of dense models only."""

    accepts: ClassVar[frozenset[str]] = frozenset({"dense"})

    def measure(self, job: Job, model: Model) -> Findings:
        RAN.append("weigh")
        return Findings("weigh", "weigh", {"bytes": Metric(model.bytes, unit="bytes", better="lower")})


class Against(Measure):
    """Tells a model from another, which the recipe may name before it is made."""

    accepts: ClassVar[frozenset[str]] = frozenset({"dense", "gptq"})

    against: ModelRef
    """The other model."""
    data: DatasetRef = ()
    """Rows that a stage made."""
    limit: float = 0.5
    """A difference above which the model is flagged."""

    def measure(self, job: Job, model: Model, **inputs: Any) -> Findings:
        other: Model = inputs["against"]
        RAN.append(f"against {'itself' if other.digest == model.digest else 'another'}")
        far = float(other.digest != model.digest)
        flags = (Flag("it went far", "Bring it back."),) if far > self.limit else ()
        notes = {"against": other.digest, "rows": digests(inputs.get("data", ()))}
        return Findings("against", "against", {"far": Metric(far, better="lower")}, (), notes, flags)


def ran() -> list[str]:
    """What ran since this was last asked."""
    names = list(RAN)
    RAN.clear()
    return names
