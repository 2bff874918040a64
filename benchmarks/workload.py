"""What is trained and on what: the same random model and rows for every side, and the loss that judges the result.

Lengths are log-normal, as instruction data are: prompts around 90 tokens (20 to 400), answers around 110 (20 to 300).
Words are drawn by Zipf's law, so that there is something to learn and a wrong step shows in the loss.
"""

import argparse
import math
import os
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from posttrain.models.precision import use_fast_matmul

SPECIAL = ("<pad>", "<bos>", "<eos>", "<unk>")
PAD, BOS, EOS = 0, 1, 2
BETA = 0.1

LARGE = {  # 19 M weights
    "vocab_size": 16384, "hidden_size": 384, "intermediate_size": 1024, "num_hidden_layers": 8,
    "num_attention_heads": 6, "num_key_value_heads": 2,
}  # fmt: skip
QUICK = LARGE | {"vocab_size": 512, "hidden_size": 48, "intermediate_size": 64, "num_hidden_layers": 2}


@dataclass(frozen=True)
class Row:
    """A prompt and its answers: one to imitate, or a chosen and a rejected one. Answers end with EOS."""

    prompt: list[int]
    answers: list[list[int]]

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
    config = LlamaConfig(
        **(QUICK if args.quick else LARGE), max_position_embeddings=4096, tie_word_embeddings=True,
        pad_token_id=PAD, bos_token_id=BOS, eos_token_id=EOS,
    )  # fmt: skip
    return LlamaForCausalLM(config)


def tokenizer(args: argparse.Namespace) -> PreTrainedTokenizerFast:
    """A word `t7` for token 7."""
    n_words = (QUICK if args.quick else LARGE)["vocab_size"]
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
    n_words = (QUICK if args.quick else LARGE)["vocab_size"]
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
        Row(text(prompt), [[*text(answer - 1), EOS] for answer in each])
        for prompt, each in zip(prompts, answers, strict=True)
    ]


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
    margins = []
    for row in held_out:
        chosen, rejected = (_logp(model, row, a) - _logp(reference, row, a) for a in row.answers)
        margins.append(BETA * (chosen - rejected))
    return float(-F.logsigmoid(torch.stack(margins)).mean())
