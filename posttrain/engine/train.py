"""Training as a stage: any objective, run by the one loop, with the same settings."""

from dataclasses import replace
from functools import cache
from typing import Any, ClassVar

from pydantic import create_model

from posttrain.data.mix import mixed
from posttrain.data.read import read
from posttrain.data.trees import Planted, plant
from posttrain.models import adapters
from posttrain.models.load import load_format, load_policy, load_tokenizer, load_weights, save_weights
from posttrain.models.policy import Models, Policy
from posttrain.schema.artifacts import Artifact, Dataset, Model
from posttrain.schema.errors import ModelError
from posttrain.schema.settings import DatasetRef

from .job import Job
from .loop import Steps, fit
from .method import Made, Objective, Stage
from .options import Computing, Stepping
from .source import FromRows


class Training(Computing, Stepping, Stage):
    """What every training stage can be told beside its objective's own settings."""

    kind: ClassVar[str] = "objective"
    artifact: ClassVar[type[Artifact]] = Model
    objective: ClassVar[type[Objective]]

    data: DatasetRef
    """The rows to train on."""
    adapter: adapters.Adapter | None = None
    """Train an adapter instead of all weights, as `lora` or `{lora: {rank: 16}}`."""

    def makes_form(self, form: str) -> str:
        return "adapter" if self.adapter or form == "adapter" else "dense"

    def run(self, job: Job, **inputs: Any) -> Made:
        model: Model = inputs["model"]
        self._check(model)
        policy = self._policy(model, job.seed)
        planted = self._rows(model, policy, inputs["data"], job)
        source = FromRows(planted.trees, self.batch_size, job.seed)
        n_steps = self.steps or self.epochs * source.steps_per_epoch
        described = _described(policy)
        models = Models(policy, self._reference(model, policy))
        final = fit(models, self._objective(), source, self._steps(n_steps), job)
        save_weights(policy.model, policy.tokenizer, job.folder, source=model)
        facts = {**planted.facts(), "steps": n_steps, **described, "final": final}
        base = str(model.base or model.path) if self.makes_form(model.form) == "adapter" else None
        return Made(facts, self.makes_form(model.form), base)

    def _check(self, model: Model) -> None:
        if model.form == "adapter" and self.adapter is not None:
            raise ModelError(
                "The model already carries an adapter. Put a `merge` stage before this one, or leave `adapter` out."
            )

    def _policy(self, model: Model, seed: int) -> Policy:
        tokenizer = load_tokenizer(model)
        weights: Any = load_weights(model, four_bits=self.adapter is not None and self.adapter.family.quantises)
        if self.adapter is not None:
            weights = adapters.attach(weights, self.adapter, tokenizer, seed)
        name = adapters.NAME if self.makes_form(model.form) == "adapter" else None
        return Policy(weights, tokenizer, dtype=self.dtype, adapter=name, micro_tokens=self.micro_tokens)

    def _reference(self, model: Model, policy: Policy) -> Policy | None:
        """The model as it was before the stage, sharing the frozen base weights where an adapter is trained."""
        if "reference" not in self.objective.needs:
            return None
        shared: dict[str, Any] = {"dtype": self.dtype, "layout": policy.layout, "micro_tokens": self.micro_tokens}
        if self.adapter is not None and not adapters.start_of(policy.model):
            return Policy(policy.model, policy.tokenizer, adapter=None, **shared)
        if model.form == "adapter":
            policy.model.load_adapter(str(model.path), adapter_name="reference", is_trainable=False)
            return Policy(policy.model, policy.tokenizer, adapter="reference", **shared)
        reference = load_policy(model, **shared)
        reference.model.requires_grad_(False)
        return reference

    def _rows(self, model: Model, policy: Policy, data: tuple[Dataset, ...], job: Job) -> Planted:
        readings = [read(dataset, self.objective.reads) for dataset in data]
        sets = [reading.rows for reading in readings]
        rows, mix = mixed(sets, [each.weight for each in data], [each.epochs for each in data], job.seed)
        longest = min(self.max_length, policy.context)
        planted = plant(rows, load_format(model, policy.tokenizer), longest, [*(r.decision for r in readings), *mix])
        skipped = tuple(line for reading in readings for line in reading.skipped)
        planted = replace(planted, skipped=skipped, n_skipped=sum(reading.n_skipped for reading in readings))
        for line in planted.decisions:
            job.note(line)
        if planted.dropped or planted.cut:
            job.note(f"{planted.dropped} of {planted.rows} rows dropped and {planted.cut} cut at {longest} tokens")
        if policy.dtype != self.dtype:
            job.note(f"this processor has no {self.dtype} products: computing in {policy.dtype}")
        return planted

    def _objective(self) -> Objective:
        return self.objective(**{name: getattr(self, name) for name in self.objective.model_fields})

    def _steps(self, n: int) -> Steps:
        same = {name: getattr(self, name) for name in Steps.__dataclass_fields__ if name in type(self).model_fields}
        return Steps(n, **same)


def _described(policy: Policy) -> dict[str, Any]:
    """What was trained and how it was computed."""
    trained = sum(p.numel() for p in policy.trainable())
    share = trained / adapters.n_weights(policy.model)
    return {
        "trained_weights": trained,
        "trained_share": share,
        "layout": policy.layout,
        "layout_why": policy.why,
        "dtype": policy.dtype,
    }


@cache
def training(objective: type[Objective]) -> type[Training]:
    """The stage that trains with `objective`: its settings first, then those of every training."""
    fields: dict[str, Any] = {name: (info.annotation, info) for name, info in objective.model_fields.items()}
    for name, default in objective.recommended.items():
        info = Training.model_fields[name]
        fields[name] = (info.annotation, info.merge_field_infos(info, default=default))
    stage = create_model(
        objective.__name__, __base__=Training, __doc__=objective.__doc__, __module__=objective.__module__, **fields
    )
    stage.objective, stage.reads, stage.version = objective, objective.reads, objective.version
    return stage
