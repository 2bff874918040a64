"""What is trained and on what: the same random model and rows for every side, and the loss that judges the result.

Lengths are log-normal, as instruction data are: prompts around 90 tokens (20 to 400), answers around 110 (20 to 300).
Words are drawn by Zipf's law, so that there is something to learn and a wrong step shows in the loss.
"""

import argparse
import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, LlamaForSequenceClassification, PreTrainedTokenizerFast

from posttrain.models.precision import use_fast_matmul

SPECIAL = ("<pad>", "<bos>", "<eos>", "<unk>")
PAD, BOS, EOS = 0, 1, 2
BETA = 0.1  # of DPO and KTO
WEIGHT = 0.1  # of ORPO's odds ratio

LARGE = {  # 19 M weights
    "vocab_size": 16384, "hidden_size": 384, "intermediate_size": 1024, "num_hidden_layers": 8,
    "num_attention_heads": 6, "num_key_value_heads": 2,
}  # fmt: skip
QUICK = LARGE | {"vocab_size": 512, "hidden_size": 48, "intermediate_size": 64, "num_hidden_layers": 2}


@dataclass(frozen=True)
class Row:
    """A prompt and its answers: one to imitate, or a chosen and a rejected one. Answers end with EOS. `grades` are what
    they are worth: 1 and 0 of a pair, a thumb up or down where there is one answer."""

    prompt: list[int]
    answers: list[list[int]]
    grades: list[float]

    def answer_tokens(self) -> int:
        return sum(map(len, self.answers))

    def tokens(self) -> int:
        """Of all answers, each with its prompt."""
        return len(self.prompt) * len(self.answers) + self.answer_tokens()


def settle(args: argparse.Namespace) -> dict[str, Any]:
    """The same threads and the same matrix products for every side; says which."""
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    if args.threads:
        torch.set_num_threads(args.threads)
    return {"fast_matmul": "on" if use_fast_matmul() else "off", "threads": torch.get_num_threads()}


def causal_lm(args: argparse.Namespace, seed: int = 0) -> LlamaForCausalLM:
    torch.manual_seed(seed)
    return LlamaForCausalLM(_config(args))


def reward_model(args: argparse.Namespace, seed: int = 0) -> LlamaForSequenceClassification:
    """The same with a head of one number."""
    torch.manual_seed(seed)
    return LlamaForSequenceClassification(_config(args, num_labels=1))


def _config(args: argparse.Namespace, **more: Any) -> LlamaConfig:
    return LlamaConfig(
        **(QUICK if args.quick else LARGE), max_position_embeddings=4096, tie_word_embeddings=True,
        pad_token_id=PAD, bos_token_id=BOS, eos_token_id=EOS, **more,
    )  # fmt: skip


def vocabulary(args: argparse.Namespace) -> int:
    return (QUICK if args.quick else LARGE)["vocab_size"]


def tokenizer(args: argparse.Namespace) -> PreTrainedTokenizerFast:
    """A word `t7` for token 7."""
    n_words = vocabulary(args)
    words = {word: i for i, word in enumerate([*SPECIAL, *(f"t{i}" for i in range(len(SPECIAL), n_words))])}
    made = Tokenizer(models.WordLevel(words, unk_token="<unk>"))
    made.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(
        tokenizer_object=made, pad_token="<pad>", bos_token="<bos>", eos_token="<eos>", unk_token="<unk>"
    )


def rows(args: argparse.Namespace, n_answers: int, seed: int = 0, n: int | None = None) -> list[Row]:
    """The rows of a round; another seed gives rows that nobody trains on."""
    draw = np.random.default_rng(seed)
    n = n or args.steps * args.batch
    n_words = vocabulary(args)
    chances = 1 / np.arange(1, n_words - len(SPECIAL) + 1)
    chances /= chances.sum()

    def lengths(median: float, sigma: float, low: int, high: int) -> list[int]:
        drawn = np.exp(draw.normal(math.log(median), sigma, n)).clip(low, high) // args.shorter
        return [int(length) for length in drawn.clip(2)]

    def text(length: int) -> list[int]:
        return (draw.choice(len(chances), length, p=chances) + len(SPECIAL)).tolist()

    prompts = lengths(90, 0.8, 20, 400)
    answers = zip(*(lengths(110, 0.7, 20, 300) for _ in range(n_answers)), strict=True)
    return [
        Row(
            text(prompt),
            [[*text(answer - 1), EOS] for answer in each],
            [1.0, *[0.0] * (n_answers - 1)] if n_answers > 1 else [float(i % 2)],
        )
        for i, (prompt, each) in enumerate(zip(prompts, answers, strict=True))
    ]


def words(ids: Sequence[int]) -> str:
    """Tokens as the text that the tokenizer reads as them; EOS is left out, as trainers add it themselves."""
    return "".join(f" t{i}" for i in ids if i >= len(SPECIAL))


def even_words(text: str, row: Any = None) -> float:
    """What a rollout earns: the share of its words whose number is even."""
    numbers = [int(word[1:]) for word in text.split() if word[1:].isdigit()]
    return sum(number % 2 == 0 for number in numbers) / max(len(numbers), 1)


def signature(model: torch.nn.Module) -> list[float]:
    """The length of a gradient and its component in a drawn direction; the gradient is gone then."""
    draw = torch.Generator().manual_seed(0)
    gradients = [p.grad.double() for p in model.parameters() if p.grad is not None]
    norm = float(sum((g**2).sum() for g in gradients)) ** 0.5
    along = float(sum((g * torch.randn(g.shape, generator=draw)).sum() for g in gradients))
    model.zero_grad(set_to_none=True)
    return [norm, along]


@torch.no_grad()
def _logp(model: torch.nn.Module, row: Row, answer: list[int]) -> torch.Tensor:
    ids = torch.tensor([row.prompt + answer])
    table = model(input_ids=ids, use_cache=False).logits[0, len(row.prompt) - 1 : -1].float().log_softmax(-1)
    return table.gather(1, torch.tensor(answer)[:, None]).sum()


def held_out_nll(model: torch.nn.Module, held_out: list[Row]) -> float:
    """Cross-entropy per answer token, one row at a time, through transformers alone."""
    total = sum(float(_logp(model, row, row.answers[0])) for row in held_out)
    return -total / sum(row.answer_tokens() for row in held_out)


def held_out_dpo(model: torch.nn.Module, reference: torch.nn.Module, held_out: list[Row]) -> float:
    """The DPO loss, one answer at a time, through transformers alone."""
    margins = [
        _gain(model, reference, row, row.answers[0]) - _gain(model, reference, row, row.answers[1]) for row in held_out
    ]
    return float(-F.logsigmoid(BETA * torch.stack(margins)).mean())


def held_out_kto(model: torch.nn.Module, reference: torch.nn.Module, held_out: list[Row]) -> float:
    """The KTO loss of the rows as one batch, one answer at a time, through transformers alone."""
    answers = [row.answers[0] for row in held_out]
    strays = [_gain(model, reference, *pair) for pair in zip(held_out, [*answers[1:], answers[0]], strict=True)]
    gains = torch.stack([_gain(model, reference, *pair) for pair in zip(held_out, answers, strict=True)])
    sign = torch.tensor([2 * row.grades[0] - 1 for row in held_out])
    return float((1 - torch.sigmoid(sign * BETA * (gains - torch.stack(strays).mean().clamp(min=0)))).mean())


def held_out_orpo(model: torch.nn.Module, held_out: list[Row]) -> float:
    """The ORPO loss, one answer at a time, through transformers alone."""
    sums = torch.stack(
        [torch.stack([_logp(model, row, answer) for answer in row.answers]) for row in held_out]
    ).double()
    lengths = torch.tensor([list(map(len, row.answers)) for row in held_out])
    means = sums / lengths
    odds = means - torch.log1p(-means.exp())
    nll = -sums[:, 0].sum() / lengths[:, 0].sum()
    return float(nll - WEIGHT * F.logsigmoid(odds[:, 0] - odds[:, 1]).mean())


@torch.no_grad()
def held_out_reward(model: torch.nn.Module, held_out: list[Row]) -> float:
    """The loss of preferring the better answer, one answer at a time, through transformers alone."""

    def reward(row: Row, answer: list[int]) -> torch.Tensor:
        return model(input_ids=torch.tensor([row.prompt + answer]), use_cache=False).logits[0, 0].float()

    margins = [reward(row, row.answers[0]) - reward(row, row.answers[1]) for row in held_out]
    return float(-F.logsigmoid(torch.stack(margins)).mean())


def _gain(model: torch.nn.Module, reference: torch.nn.Module, row: Row, answer: list[int]) -> torch.Tensor:
    """log pi - log ref of an answer."""
    return _logp(model, row, answer) - _logp(reference, row, answer)
