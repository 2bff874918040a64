"""Training on the policy's own answers as a stage: rollouts in place of rows, and the models that judge them."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import Field, model_validator

from posttrain.data.program import PromptProgram
from posttrain.data.read import read
from posttrain.functional.seeds import seed_of
from posttrain.models.activations import checkpoint_layers
from posttrain.models.load import load_format
from posttrain.models.policy import Models, Policy
from posttrain.models.sampler import Sampling
from posttrain.models.scorer import Scorer
from posttrain.models.vllm import Engine, make_sampler
from posttrain.schema.artifacts import Dataset, Model
from posttrain.schema.errors import ModelError, UsageError
from posttrain.schema.rows import Prompt, Text
from posttrain.schema.settings import DatasetRef, Settings

from .critic import critic, learn_at, reads_the_same, reward_model
from .job import Job
from .laid import Begun, Laid
from .loop import Shares
from .on_policy import OnPolicy
from .rewarding import Rewards, rewarding
from .rollouts import Asked, FromRollouts, KLRule, without_prompts_too_long
from .source import FromRows
from .train import Training

MIX = 3  # tells the seed of the rows that are mixed in from others


class Mix(Settings):
    """Ordinary text that is learnt in every update, which keeps what the model could (InstructGPT's PPO-ptx)."""

    data: DatasetRef
    """Conversations or plain text, such as what the model was trained on before."""
    weight: float = Field(1.0, gt=0)
    """How much its loss in nats a token counts beside the objective's; InstructGPT's 27.8 is for a loss divided otherwise."""
    batch_size: int = Field(16, ge=1)
    """Rows in every update."""


@dataclass(frozen=True)
class MixedIn:
    """Rows that are learnt beside an objective, by their cross-entropy a token."""

    source: FromRows
    weight: float

    def learn(self, models: Models, update: int, micro_tokens: int) -> Shares:
        batch = self.source.draw(update, models)
        total, found = batch.counts(), Shares()
        for micro in batch.split(micro_tokens):
            loss = -models.policy.logps(micro).sum() / total.tokens
            (self.weight * loss).backward()
            found.add(mixed_in=loss)
            found.tokens += micro.n_tokens()
        return found


class Rolling(Settings):
    """How answers are drawn and judged."""

    reward: Rewards
    """What answers earn, as `{model: NAME}` or `{functions: [exact]}`."""
    answers: int = Field(4, ge=1)
    """Answers to every prompt."""
    max_new_tokens: int = Field(256, ge=1)
    """Longest answer, in tokens."""
    missing_end: float = Field(0.0, ge=0)
    """What an answer pays that does not end by itself."""
    engine: Engine = "own"
    """What draws the answers: the engine of this package, or `vllm` on a GPU, which needs `pip install 'posttrain[vllm]'`."""
    mix: Mix | None = None
    """Ordinary rows that are learnt in every update, as `{data: lab:text/train, weight: 1}`."""


class Online(Rolling, Training):
    """What every training on the policy's own answers can be told."""

    @model_validator(mode="after")
    def _has_no_rows(self) -> "Online":
        if self.keep.replay is not None:
            raise ValueError(
                "answers of its own leave no place for replayed rows in a batch: write `mix: {data: …}` instead"
            )
        if self.stop_early is not None:
            raise ValueError("there is no held-out loss of answers yet to be drawn: set `steps`, or watch `forget`")
        return self

    def chats(self, model: Model) -> bool:
        program = PromptProgram.load(model.path)
        return program is None or program.layout == "chat"

    def laid_out(self, job: Job, **inputs: Any) -> Laid:
        model: Model = inputs["model"]
        self._check(model)
        policy = self._policy(model, job)
        objective = self.make_objective()
        assert isinstance(objective, OnPolicy)
        asked, facts = self._asked(model, policy, inputs["data"], job)
        begun = Begun(policy, self._reference(model, policy))
        reward: Model | None = inputs.get("reward.model")
        scorer = reward_model(reward, model, policy) if reward is not None else None
        if "critic" in objective.needed():
            begun.critic = self._critic(model, policy, reward, scorer, job)
        form, fits = load_format(model, policy.tokenizer), scorer is None or scorer.context >= policy.context
        source = FromRollouts(
            asked,
            make_sampler(self.engine, policy, form.stop_ids, job.scratch),
            form,
            rewarding(
                self.reward, reward, scorer, policy.tokenizer if fits else None, inputs.get("reward.judge.model")
            ),
            Sampling(max_new_tokens=self.max_new_tokens, temperature=objective.temperature),
            KLRule(objective.kl, objective.kl_target, objective.kl_horizon),
            self.batch_size,
            self.answers,
            job.seed,
            self.micro_tokens,
            self.missing_end,
        )
        n_steps = self.steps or self.epochs * source.steps_per_epoch
        return Laid(begun, source, n_steps, facts, beside=self._mixed_in(model, policy, inputs, job))

    def _critic(self, model: Model, policy: Policy, reward: Model | None, scorer: Scorer | None, job: Job) -> Scorer:
        if policy.encodes:
            raise ModelError(
                f"The critic of {type(self).__name__} reads a question with its answer, which an encoder-decoder does "
                "not. Take `grpo` or `rloo`, which need none."
            )
        if scorer is not None and not reads_the_same(scorer, policy):
            job.note("the critic begins with an empty head, as the reward model reads other tokens or shorter texts")
        made = critic(model, policy, reward, scorer, job.seed)
        learn_at(made, getattr(self, "critic_rate", 1.0))
        if self.gradient_checkpointing and made.model is not policy.model:
            checkpoint_layers(made.model)
        job.note(f"a critic of {sum(p.numel() for p in made.trainable()):,} weights learns beside the policy")
        return made

    def begin(self, model: Model, data: tuple[Dataset, ...], job: Job, **others: Any) -> Any:
        raise UsageError(
            "Learning rates are tried on rows, and this stage has none but those that it draws itself. Take its recommended "
            "rate, and lower it when the log shows KL running away."
        )

    def _asked(
        self, model: Model, policy: Policy, data: Sequence[Dataset], job: Job
    ) -> tuple[list[Asked], dict[str, Any]]:
        """The prompts with their tokens, and what the artifact records of them."""
        form, longest = self._reading(model, policy)
        read_rows = [read(dataset, Prompt) for dataset in data]
        for each in read_rows:
            job.note(each.decision)
        asked = [Asked(row, tuple(form.ask(row))) for each in read_rows for row in each.rows]
        asked, dropped = without_prompts_too_long(asked, longest)
        if dropped:
            job.note(f"{dropped} prompts dropped, as they leave no room for an answer within {longest} tokens")
        return asked, {"data": [each.decision for each in read_rows], "rows": len(asked), "rows_dropped": dropped}

    def _mixed_in(self, model: Model, policy: Policy, inputs: dict[str, Any], job: Job) -> MixedIn | None:
        if self.mix is None:
            return None
        trees = self._planted("mix.data", inputs["mix.data"], (Text,), *self._reading(model, policy), job).trees
        return MixedIn(FromRows(trees, self.mix.batch_size, seed_of(job.seed, MIX)), self.mix.weight)
