"""Training under a teacher as a stage: rows as ever, a second model that is asked about them and, where wanted, answers
that the policy draws itself in place of those of the rows."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

from pydantic import Field, model_validator

from posttrain.data.planting import Planted, shelved
from posttrain.data.read import read
from posttrain.functional.layout import Branch, Tree
from posttrain.models.bridge import bridge
from posttrain.models.load import load_format, load_policy, load_tokenizer
from posttrain.models.policy import Models, Policy, Teacher
from posttrain.models.sampler import Sampling
from posttrain.models.vllm import Engine, make_sampler
from posttrain.models.vocabulary import n_rows
from posttrain.schema.artifacts import Dataset, Model
from posttrain.schema.errors import ModelError
from posttrain.schema.rows import Conversation, Prompt, Row, Text
from posttrain.schema.settings import ModelRef, Settings

from .job import Job
from .laid import Begun, Laid
from .noting import Asking, noted
from .other_tokens import OtherTokens, partners
from .own_answers import FromOwnAnswers
from .rollouts import Asked, without_prompts_too_long
from .train import Training

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

SHOWN = 3  # tokens that an error names
MORE = 4  # tokens that a teacher may need for one of the policy's, before its rows are cut


class Cache(Settings):
    """What a teacher expects, noted on the disk."""

    top: int = Field(64, ge=1)
    """How many of the likeliest tokens are noted at each token; what the teacher gives to all others is one number."""


class Taught(Training):
    """What every training under a teacher can be told."""

    teacher: ModelRef
    """The model to learn from: the name of a stage such as `sft`, or a folder. It must know the same tokens, but
    under `divergence: uld`."""
    cache: Cache | None = None
    """Ask the teacher once, before anything is trained, and note its likeliest tokens on the disk, as `{top: 64}`: it is
    not in memory when the policy learns, nor asked again in another epoch or by another student of the same rows."""
    on_policy: float = Field(0.0, ge=0, le=1)
    """Share of the rows whose answers the policy draws itself, so that it learns where its own ways lead (GKD); at 1 rows
    need no answers, and what they have is not read."""
    max_new_tokens: int = Field(256, ge=1)
    """Longest answer that it draws, in tokens."""
    engine: Engine = "own"
    """What draws them: the engine of this package, or `vllm` on a GPU, which needs `pip install 'posttrain[vllm]'`."""

    @model_validator(mode="after")
    def _labels_are_of_rows(self) -> "Taught":
        if self.on_policy and getattr(self, "labels", 0):
            raise ValueError(
                "an answer that the policy draws itself is no label to learn: leave `labels` out, or `on_policy`"
            )
        return self

    @model_validator(mode="after")
    def _credit_is_for_own_answers(self) -> "Taught":
        others = self.on_policy != 1 or self.keep.replay or self.stop_early
        if getattr(self, "ahead", 0) and others:
            raise ValueError(
                "`ahead` is the credit of answers that the policy drew: write `on_policy: 1` without `keep.replay` and "
                "`stop_early`, which read other ones, or leave `ahead` out"
            )
        return self

    @model_validator(mode="after")
    def _notes_are_enough(self) -> "Taught":
        if self.cache is None:
            return self
        if self.on_policy:
            raise ValueError(
                "what a policy will write is not there to be noted before: leave `cache` out, or `on_policy`"
            )
        if getattr(self, "hidden", 0):
            raise ValueError(
                "`hidden` asks for the teacher's states, and `cache` notes what it expects: leave one of them out"
            )
        if (divergence := getattr(self, "divergence", "forward")) != "forward":
            raise ValueError(
                f"`divergence: {divergence}` asks for what the teacher gives to every token, and `cache` notes the likeliest: "
                "write `divergence: forward`, or leave `cache` out"
            )
        return self

    @model_validator(mode="after")
    def _other_tokens_are_read_in_rows(self) -> "Taught":
        asked = {"on_policy": self.on_policy, "hidden": getattr(self, "hidden", 0), "keep.replay": self.keep.replay}
        for option in (name for name, value in asked.items() if value and self.reads_other_tokens):
            raise ValueError(
                f"a teacher of other tokens is compared on the answers of `data` alone: leave `{option}` out, or take a "
                "teacher of the same tokens and another `divergence`"
            )
        return self

    @property
    def reads_other_tokens(self) -> bool:
        """Whether the teacher may have another tokenizer."""
        return getattr(self, "divergence", "") == "uld"

    def shapes(self) -> tuple[type[Row], ...]:
        if self.on_policy == 1:
            return (Prompt,)
        return (Conversation,) if self.on_policy or self.reads_other_tokens else (Conversation, Text)

    def begin(self, model: Model, data: tuple[Dataset, ...], job: Job, **others: Any) -> tuple[Begun, Planted]:
        begun, planted = super().begin(model, data, job, **others)
        if self.reads_other_tokens:
            rows = {"data": data, **{name: others[name] for name in ("stop_early.on",) if name in others}}
            begun.teacher = self._of_other_tokens(others["teacher"], model, begun.policy, rows, job)
            return begun, planted
        begun.teacher = self._teacher(others["teacher"], begun.policy, job)
        if getattr(self, "hidden", 0):
            assert isinstance(begun.teacher, Policy)
            begun.bridge = bridge(begun.policy, begun.teacher, planted.trees)
            if begun.bridge is not None:
                n = sum(p.numel() for p in begun.bridge.parameters())
                job.note(f"{n:,} weights between the widths of the two models are learnt beside, and thrown away")
        return begun, planted

    def laid_out(self, job: Job, **inputs: Any) -> Laid:
        laid = super().laid_out(job, **inputs)
        if not self.on_policy:
            return laid
        model, policy = inputs["model"], laid.begun.policy
        form, longest = self._reading(model, policy)
        source = FromOwnAnswers(
            laid.trees,
            self.batch_size,
            job.seed,
            make_sampler(self.engine, policy, form.stop_ids, job.scratch),
            Sampling(max_new_tokens=self.max_new_tokens, temperature=1.0),
            self.on_policy,
            longest,
            form.stop_ids,
            form.apart,
        )
        return replace(laid, source=source)

    def remembering(self, models: Models, laid: Laid, asked: Sequence[Sequence[Tree]], job: Job) -> Mapping[str, Any]:
        facts = super().remembering(models, laid, asked, job)
        if isinstance(models.teacher, OtherTokens):
            return {**facts, **models.teacher.facts(laid.trees)}
        if not isinstance(models.teacher, Asking):
            return facts
        models.teacher = laid.begun.teacher = noted(models.teacher, asked, models.policy.device, job)
        return {**facts, "cache": models.teacher.facts()}

    def _rows(self, model: Model, policy: Policy, data: tuple[Dataset, ...], job: Job) -> Planted:
        return (
            self._prompts(model, policy, data, job) if self.on_policy == 1 else super()._rows(model, policy, data, job)
        )

    def _prompts(self, model: Model, policy: Policy, data: tuple[Dataset, ...], job: Job) -> Planted:
        """What rows ask, as trees without an answer."""
        form, longest = self._reading(model, policy)
        found = [read(dataset, Prompt) for dataset in data]
        for each in found:
            job.note(each.decision)
        rows = [row for each in found for row in each.rows]
        asked, dropped = without_prompts_too_long([Asked(row, tuple(form.ask(row))) for row in rows], longest)
        if dropped:
            job.note(f"{dropped} prompts dropped, as they leave no room for an answer within {longest} tokens")
        trees = [Tree(each.ids, (Branch((), ()),)) for each in asked]
        return Planted(trees, len(rows), 0, dropped, 0, 0, tuple(each.decision for each in found))

    def _teacher(self, model: Model, policy: Policy, job: Job) -> Teacher:
        """Who answers for the teacher. Raises ModelError where it cannot read what the policy writes."""
        tokenizer = load_tokenizer(model)
        require_same_tokens(tokenizer, policy, model)
        if load_format(model, tokenizer).tokenizer.chat_template != policy.tokenizer.chat_template:
            job.note("the teacher has another chat template; it is asked in that of the model that learns")
        load = partial(self._reading_as_much, model, policy, job)
        if self.cache is None:
            return load()
        temperature = getattr(self, "temperature", 1.0)
        top, most = self.cache.top, n_rows(policy.model)
        return Asking(load, model.digest, top, most, temperature, policy.dtype, self.micro_tokens)

    def _of_other_tokens(
        self, teacher: Model, model: Model, policy: Policy, rows: Mapping[str, tuple[Dataset, ...]], job: Job
    ) -> OtherTokens:
        """The teacher beside the rows as it reads them, each set on a shelf next to that of the policy."""
        loaded = self._loaded(teacher, job)
        form = load_format(teacher, loaded.tokenizer)
        ways = {"": self._reading(model, policy), "-theirs": (form, min(MORE * self.max_length, loaded.context))}
        ours, theirs = (
            [
                shelved(dataset, Conversation, *how, job.scratch / f"{name}-{n}{suffix}", lambda _: None)
                for name, several in rows.items()
                for n, dataset in enumerate(several)
            ]
            for suffix, how in ways.items()
        )
        return OtherTokens(loaded, policy, *partners(ours, theirs))

    def _reading_as_much(self, model: Model, policy: Policy, job: Job) -> Policy:
        """The teacher in memory. Raises ModelError where it reads less than the policy."""
        teacher = self._loaded(model, job)
        if teacher.context < min(self.max_length, policy.context):
            raise ModelError(
                f"The teacher {model.path} reads {teacher.context} tokens at once, and rows may have "
                f"{min(self.max_length, policy.context)}. Set `max_length: {teacher.context}`."
            )
        return teacher

    def _loaded(self, model: Model, job: Job) -> Policy:
        """The teacher in memory, frozen."""
        teacher = load_policy(model, dtype=self.dtype, micro_tokens=self.micro_tokens)
        teacher.model.requires_grad_(False)
        job.note(f"a teacher of {sum(p.numel() for p in teacher.model.parameters()):,} weights")
        return teacher


def require_same_tokens(tokenizer: "PreTrainedTokenizerBase", policy: Policy, model: Model) -> None:
    """Raises ModelError where the two know other tokens by the same numbers, or read questions in another way. How many
    rows their heads have beside is nothing: these are padded as each size of a model likes it."""
    if load_format(model, tokenizer).apart != policy.encodes:
        raise ModelError(
            f"The teacher {model.path} and the model that learns are not both encoder-decoders, so that one cannot read "
            "what the other writes. Take a teacher of the same kind, or learn its answers: `sample` and then `sft`."
        )
    theirs, ours = tokenizer.get_vocab(), policy.tokenizer.get_vocab()
    apart = sorted(token for token in theirs.keys() | ours.keys() if theirs.get(token) != ours.get(token))
    if apart:
        shown = ", ".join(repr(token) for token in apart[:SHOWN])
        raise ModelError(
            f"The teacher {model.path} has other tokens than the model that learns, or other numbers for them: {len(apart)}, "
            f"such as {shown}. Take a teacher of the same family; give both the same `chat_template`, where that is what "
            "brought the tokens; set `divergence: uld`, which reads any; or learn the teacher's answers as text: `sample` "
            "and then `sft`."
        )
