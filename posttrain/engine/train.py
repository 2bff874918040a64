"""Training as a stage: any objective, run by the one loop, with the same settings."""

from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any, ClassVar

from pydantic import ValidationError, create_model, model_validator

from posttrain.data.chat import ChatFormat
from posttrain.data.dressing import added
from posttrain.data.planting import Look, Planted, picked, shape_of, shelved
from posttrain.data.templates import name_of
from posttrain.functional.layout import Tree
from posttrain.models import adapters
from posttrain.models.activations import checkpoint_layers, require_offloading
from posttrain.models.load import load_format, load_policy, load_tokenizer, load_weights, save_weights
from posttrain.models.policy import Models, Policy
from posttrain.models.scorer import Scorer
from posttrain.models.vocabulary import give_padding, make_room
from posttrain.models.zeros import hold_zeros
from posttrain.schema.artifacts import Artifact, Dataset, Model
from posttrain.schema.errors import ModelError
from posttrain.schema.rows import Conversation, Row, Text
from posttrain.schema.settings import DatasetRef

from .guarding import Guarding
from .job import Job
from .laid import Begun, Laid
from .loop import Steps, fit
from .method import Made, Objective, Stage
from .options import Computing, Stepping
from .reference import Remembered
from .source import FromRows
from .speaking import Speaking, first_look
from .watch import Watch

SHORTEST = 2  # tokens of a text: one to be learnt, and one that it follows


class Training(Guarding, Speaking, Computing, Stepping, Stage):
    """What every training stage can be told beside its objective's own settings."""

    kind: ClassVar[str] = "objective"
    artifact: ClassVar[type[Artifact]] = Model
    objective: ClassVar[type[Objective]]

    data: DatasetRef
    """The rows to train on."""
    adapter: adapters.Adapter | None = None
    """Train an adapter instead of all weights, as `lora` or `{lora: {rank: 16}}`."""

    @model_validator(mode="before")
    @classmethod
    def _as_the_adapter_learns(cls, values: Any) -> Any:
        """What an adapter recommends stands where nothing is given."""
        if not isinstance(values, dict) or not values.get("adapter"):
            return values
        return adapters.as_recommended(values, cls.model_fields["learning_rate"].default)

    @model_validator(mode="after")
    def _objective_can_be_made(self) -> "Training":
        """What an objective says against its own settings together, it says here already."""
        try:
            self.make_objective()
        except ValidationError as error:
            raise ValueError(error.errors()[0]["msg"].removeprefix("Value error, ")) from error
        return self

    def makes_form(self, form: str) -> str:
        if self.objective.scores:
            return "reward"
        return "adapter" if self.carries(form) else "dense"

    def carries(self, form: str) -> bool:
        """Whether an adapter is trained on a model of this form."""
        return self.adapter is not None or form == "adapter"

    def chats(self, model: Model) -> bool:
        """Whether the stage talks to the model in its chat format."""
        return self.objective.reads is not Text

    def run(self, job: Job, **inputs: Any) -> Made:
        model: Model = inputs["model"]
        laid = self.laid_out(job, **inputs)
        models, policy, objective = laid.models, laid.models.policy, self.make_objective()
        described = _described(models)
        job.note("training {trained_weights:,} weights, {trained_share:.2%} of the model".format(**described))
        beside = self._beside(model, policy, inputs, job)
        rules = self.rules(beside["forget.on"], beside["stop_early.on"], laid.trees, objective)
        watch = Watch(list(rules.values()))
        asked = laid.trees, beside["keep.replay.data"], beside["stop_early.on"]
        remembered = self.remembering(models, laid, asked, job)
        final = fit(
            models,
            self.near(objective, laid.start),
            self.guarded(laid.source, beside["keep.replay.data"], watch),
            self._steps(laid.n_steps),
            job,
            watch,
            self.anchors(policy, beside["keep.replay.data"], job.scratch),
            laid.beside,
        )
        save_weights(policy.model, policy.tokenizer, job.folder, source=model)
        watched = {name: rule.facts(models) for name, rule in rules.items()}
        told = objective.learnt(models, laid.trees)
        facts = {**laid.facts, "steps": laid.n_steps, **described, "final": final, **watched, **remembered, **told}
        base = str(model.base or model.path) if self.carries(model.form) else None
        return Made(facts, self.makes_form(model.form), base)

    def laid_out(self, job: Job, **inputs: Any) -> Laid:
        """What is trained, on what, and for how long."""
        begun, planted = self.begin(job=job, **inputs)
        source = FromRows(planted.trees, self.batch_size, job.seed)
        n_steps = self.steps or self.epochs * source.steps_per_epoch
        is_often = n_steps > source.steps_per_epoch
        return Laid(begun, source, n_steps, planted.facts(), planted.trees, is_often)

    def begin(self, model: Model, data: tuple[Dataset, ...], job: Job, **others: Any) -> tuple[Begun, Planted]:
        """The models that are trained and asked, and the rows as trees: what a first step needs. `others` are further
        inputs by name."""
        self._check(model)
        policy = self._policy(model, job)
        planted = self._rows(model, policy, data, job)
        return Begun(policy, self._reference(model, policy)), planted

    def _check(self, model: Model) -> None:
        if model.form == "adapter" and self.adapter is not None:
            raise ModelError(
                "The model already carries an adapter. Leave `adapter` out to train that one further, or put a `merge` stage "
                "before this one."
            )

    def _policy(self, model: Model, job: Job) -> Policy:
        tokenizer = load_tokenizer(model)
        scores, four_bits = self.objective.scores, self.adapter is not None and self.adapter.family.quantises
        weights: Any = load_weights(model, four_bits=four_bits, scores=scores)
        grows = model.form == "dense" and (self.adapter is None or self.adapter.family.grows)
        dress = self.dressed(weights, tokenizer, chats=self.chats(model), grows=grows)
        if dress.name:
            job.note(str(dress))
        if self.adapter is not None:
            weights = adapters.attach(weights, self.adapter, tokenizer, job.seed, dress.ids)
        name = adapters.NAME if self.carries(model.form) else None
        if scores:
            give_padding(weights, tokenizer)
        kind = Scorer if scores else Policy
        policy = kind(weights, tokenizer, dtype=self.dtype, adapter=name, micro_tokens=self.micro_tokens)
        if policy.context < SHORTEST:
            raise ModelError(
                f"The adapter's {policy.n_virtual} virtual tokens leave no room for a text among the "
                f"{policy.context + policy.n_virtual} tokens that the model reads. Give it fewer `tokens`."
            )
        if self.offload_activations:
            require_offloading(policy.device)
            policy.offload = True
        if self.gradient_checkpointing:
            checkpoint_layers(weights)
        if self.keep.zeros:
            job.note(f"{hold_zeros(weights):,} weights are zero and stay so")
        return policy

    def _reference(self, model: Model, policy: Policy) -> Policy | None:
        """The model as it was before the stage, sharing the frozen base weights where an adapter is trained."""
        if "reference" not in self.make_objective().needed() and not self.keep.kl:
            return None
        shared: dict[str, Any] = {"dtype": self.dtype, "layout": policy.layout, "micro_tokens": self.micro_tokens}
        if self.adapter is not None and not adapters.start_of(policy.model):
            return Policy(policy.model, policy.tokenizer, adapter=None, **shared)
        if model.form == "adapter":
            policy.model.load_adapter(str(model.path), adapter_name="reference", is_trainable=False)
            return Policy(policy.model, policy.tokenizer, adapter="reference", **shared)
        reference = load_policy(model, **shared)
        make_room(reference.model, added(reference.tokenizer, policy.tokenizer))
        reference.model.requires_grad_(False)
        return reference

    def _rows(self, model: Model, policy: Policy, data: tuple[Dataset, ...], job: Job) -> Planted:
        form, longest = self._reading(model, policy)
        shapes = self.shapes()
        planted = self._planted(
            "data", data, shapes[1:], form, longest, job, lambda rows: first_look(rows, form, longest, job)
        )
        for line in planted.decisions:
            job.note(line)
        if planted.dropped or planted.cut:
            job.note(f"{planted.dropped} of {planted.rows} rows dropped and {planted.cut} cut at {longest} tokens")
        if policy.dtype != self.dtype:
            job.note(f"this processor has no {self.dtype} products: computing in {policy.dtype}")
        return planted

    def _beside(self, model: Model, policy: Policy, inputs: dict[str, Any], job: Job) -> dict[str, Sequence[Tree]]:
        """The rows of every other input as trees; none for one that is left out. Plain text stands for any other rows
        in a budget, and for conversations in a batch."""
        text = {"forget.on": (Text,), "keep.replay.data": (Text,) if self.objective.reads is Conversation else ()}
        how = self._reading(model, policy)
        return {
            name: self._planted(name, inputs[name], text.get(name, ()), *how, job).trees if name in inputs else ()
            for name in ("keep.replay.data", "forget.on", "stop_early.on")
        }

    def _reading(self, model: Model, policy: Policy) -> tuple[ChatFormat, int]:
        """How rows become tokens, and how many of them a text may have."""
        return load_format(model, policy.tokenizer), min(self.max_length, policy.context)

    def _planted(
        self,
        name: str,
        data: tuple[Dataset, ...],
        or_else: tuple[type[Row], ...],
        form: ChatFormat,
        longest: int,
        job: Job,
        look: Look = lambda rows: None,
    ) -> Planted:
        """The rows of one input, of the objective's own shape or another, mixed as its sets say."""
        shelves = []
        for n, dataset in enumerate(data):
            learnt = Conversation if self.objective.online else self.objective.reads
            shape = shape_of(dataset, (learnt, *or_else))
            shelves.append(shelved(dataset, shape, form, longest, job.scratch / f"{name}-{n}", look))
        return picked(shelves, [each.weight for each in data], [each.epochs for each in data], job.seed)

    def remembering(self, models: Models, laid: Laid, asked: Sequence[Sequence[Tree]], job: Job) -> Mapping[str, Any]:
        """Has the models that do not learn answer from memory where they can, and returns what the artifact records of it:
        the reference where the objective asks for the same rows again, and for no others."""
        start, wanted = laid.start, "reference" in self.make_objective().needed()
        models.reference = start if wanted else None
        if start is not None and wanted and laid.is_often and not self.objective.strays:
            models.reference = Remembered(start, *asked)
        return {}

    def make_objective(self) -> Objective:
        """The objective with its own settings."""
        return self.objective(**{name: getattr(self, name) for name in self.objective.model_fields})

    def _steps(self, n: int) -> Steps:
        same = {name: getattr(self, name) for name in Steps.__dataclass_fields__ if name in type(self).model_fields}
        return Steps(n, **same)


def _described(models: Models) -> dict[str, Any]:
    """What was trained and how it was computed."""
    policy = models.policy
    trained = sum(p.numel() for p in policy.trainable())
    share = trained / adapters.n_weights(policy.model)
    beside = {} if models.critic is None else {"critic_weights": sum(p.numel() for p in models.critic.trainable())}
    return {
        **beside,
        "trained_weights": trained,
        "trained_share": share,
        "layout": policy.layout,
        "layout_why": policy.why,
        "dtype": policy.dtype,
        "chat_template": name_of(policy.tokenizer.chat_template),
    }


@cache
def training(objective: type[Objective]) -> type[Training]:
    """The stage that trains with `objective`: its settings first, then those of every training."""
    base: type[Training] = Training
    if objective.online:
        from .online import Online

        base = Online
    elif "teacher" in objective.needs:
        from .taught import Taught

        base = Taught
    fields: dict[str, Any] = {name: (info.annotation, info) for name, info in objective.model_fields.items()}
    for name, default in objective.recommended.items():
        info = base.model_fields[name]
        fields[name] = (info.annotation, info.merge_field_infos(info, default=default))
    stage = create_model(
        objective.__name__, __base__=base, __doc__=objective.__doc__, __module__=objective.__module__, **fields
    )
    stage.objective, stage.reads, stage.version = objective, objective.reads, objective.version
    if objective.scores:
        stage.accepts = frozenset({"dense"})
    return stage
