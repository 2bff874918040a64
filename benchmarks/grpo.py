"""Group relative policy optimisation, a step of rollouts and training: posttrain against TRL's GRPOTrainer.

    python benchmarks/grpo.py                           # 2 prompts x 8 answers x 64 tokens in a step
    python benchmarks/grpo.py --stops 400               # one word in 41 ends an answer
    python benchmarks/grpo.py --longest-prompt 400

The same prompts in the same order, no KL, one update for each draw; an answer earns the share of its words whose number is
even. What is drawn differs from side to side, and with it all losses. So both sides first learn from the same given
answers, outside the rounds, and the length of the gradient and its component in a drawn direction have to agree. Nothing
ends an answer but its length, unless there are `--stops`: then token counts differ a little, and rates by the token tell.
"""

import argparse
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from fair import Setting, Turns, bench
from preference import CHANGES, FUSED, WITH_METRICS

if TYPE_CHECKING:
    from workload import Row

LEARNING_RATE = 1e-5
SETTINGS = {name: Setting(setting.told, same_loss=False) for name, setting in FUSED.items()} | {
    "static": Setting("padding, with a static cache", same_loss=False),
    "continuous": Setting("padding, with continuous batching", same_loss=False),
}
MORE = CHANGES | {
    "static": {"cache_implementation": "static"},
    "continuous": {"use_transformers_continuous_batching": True},
}


def more(parser: argparse.ArgumentParser) -> None:
    parser.set_defaults(batch=2)
    parser.add_argument("--answers", type=int, default=8, help="answers to each prompt")
    parser.add_argument("--max-new-tokens", type=int, default=64, help="longest answer, divided by --shorter")
    parser.add_argument("--longest-prompt", type=int, default=80, help="longer prompts are cut")
    parser.add_argument("--stops", type=int, default=0, help="words that end an answer; without, all are equally long")


def asked(args: argparse.Namespace) -> "list[Row]":
    """Prompts, each with answers that are given where they are not to be drawn."""
    from workload import Row, rows

    longest, stops = args.max_new_tokens // args.shorter, set(ends(args))

    def ended(answer: list[int]) -> list[int]:
        return answer[: next((n for n, token in enumerate(answer[:longest], 1) if token in stops), longest)]

    return [
        Row(row.prompt[: args.longest_prompt], list(map(ended, row.answers)), row.grades)
        for row in rows(args, args.answers)
    ]


def ends(args: argparse.Namespace) -> list[int]:
    """Tokens that end an answer: the last words, or one that there is not."""
    from workload import vocabulary

    n = vocabulary(args)
    return list(range(n - args.stops, n)) or [n]


class Given:
    """A sampler that gives the answers of the rows."""

    def __init__(self, rows: "Sequence[Row]") -> None:
        self.answers = {tuple(row.prompt): row.answers for row in rows}

    def sample(self, prompts: Sequence[Sequence[int]], *_: Any, **__: Any) -> list[list[int]]:
        return [answer for prompt in prompts for answer in self.answers[tuple(prompt)]]


def posttrain_side(args: argparse.Namespace, turns: Turns) -> None:
    from ours import ORDER_SEED, compete, policy
    from workload import settle, signature, words

    from posttrain.data.chat import ChatFormat
    from posttrain.engine.loop import step_shares
    from posttrain.engine.rewarding import Rewarding, Rewards
    from posttrain.engine.rollouts import Asked, FromRollouts, KLRule
    from posttrain.methods.objectives.grpo import GRPO
    from posttrain.models.policy import Models
    from posttrain.models.sampler import Sampling, TransformersSampler
    from posttrain.schema.rows import Message, Prompt

    told, models, rows = settle(args), Models(policy(args)), asked(args)
    form = ChatFormat(models.policy.tokenizer)
    form.stop_ids = frozenset(ends(args))
    prompts = [Asked(Prompt((Message("user", words(row.prompt)),)), tuple(row.prompt)) for row in rows]
    source = FromRollouts(
        prompts, TransformersSampler(models.policy, form.stop_ids), form,
        Rewarding(Rewards(functions=("workload:even_words",))),
        Sampling(max_new_tokens=args.max_new_tokens // args.shorter, temperature=1.0), KLRule(0.0),
        args.batch, args.answers, ORDER_SEED, args.micro_tokens,
    )  # fmt: skip
    objective, sampler = GRPO(kl=0.0), source.sampler
    source.sampler = Given(rows)
    step_shares(models, objective, source.draw(0, models), args.micro_tokens)
    told |= {"checked": signature(models.policy.model), "drawn_lengths": bool(args.stops)}
    source.sampler = sampler
    compete(args, turns, told, objective, models, source, LEARNING_RATE, lap="rollouts")


def trl_side(args: argparse.Namespace, turns: Turns) -> None:
    import trl
    from datasets import Dataset
    from ours import orders
    from peer import compete, spare_metrics
    from trl.trainer import grpo_trainer
    from workload import causal_lm, even_words, settle, words

    told = settle(args)
    if args.side not in WITH_METRICS:
        spare_metrics(grpo_trainer)
    rows = asked(args)
    order = [[i for i in each for _ in range(args.answers)] for each in orders(args, rows)]
    model, prompts = causal_lm(args), [{"prompt": words(row.prompt)} for row in rows]

    ending = {f"t{token}" for token in ends(args)}

    def earned(completions: list[str], **_: Any) -> list[float]:
        """posttrain does not show a grader the word that ended an answer, so here it is left out too."""
        return [even_words(" ".join(word for word in text.split() if word not in ending)) for text in completions]

    def make(callbacks: list[Any], **given: Any) -> Any:
        trainer = trl.GRPOTrainer(model, earned, train_dataset=Dataset.from_list(prompts), callbacks=callbacks, **given)
        trainer.eos_token_ids = ends(args)
        together = args.batch * args.answers
        callbacks[0].told["checked"] = _checked(trainer, rows, [prompts[i] for i in order[0][:together]])
        return trainer

    compete(
        args, turns, told, trl.GRPOConfig, make, order, LEARNING_RATE, count=_count,
        changes=MORE.get(args.side, {}), beta=0.0, num_iterations=1, loss_type="grpo", num_generations=args.answers,
        per_device_train_batch_size=args.batch * args.answers, max_completion_length=args.max_new_tokens // args.shorter,
        generation_kwargs={"eos_token_id": ends(args)},
    )  # fmt: skip
    turns.end()


def _checked(trainer: Any, rows: "Sequence[Row]", inputs: list[dict[str, str]]) -> list[float]:
    """What the gradient of the rows' own answers looks like; leaves the trainer as it was."""
    from workload import signature

    draw, trainer.current_gradient_accumulation_steps = trainer._generate_single_turn, 1
    given = Given(rows)

    def answers(prompt_ids: list[list[int]], *_: Any, **__: Any) -> tuple[list[list[int]], None]:
        return given.sample(prompt_ids[:: trainer.num_generations]), None

    trainer._generate_single_turn = answers
    trainer.model.train()
    trainer.compute_loss(trainer.model, trainer._generate_and_score_completions(inputs)).backward()
    trainer._generate_single_turn = draw
    trainer._metrics["train"].clear()
    return signature(trainer.model)


def _count(trainer: Any, turns: Turns) -> None:
    """Counts and times what is drawn and scored."""
    score = trainer._generate_and_score_completions

    def counting(inputs: Any) -> Any:
        with turns.lap("rollouts"):
            made = score(inputs)
        n_learnt = int(made["completion_mask"].sum())
        turns.count(n_learnt, n_learnt + int(made["prompt_mask"].sum()))
        return made

    trainer._generate_and_score_completions = counting


if __name__ == "__main__":
    sys.exit(bench(__file__, __doc__ or "", SETTINGS, ["padding"], posttrain_side, trl_side, more))
