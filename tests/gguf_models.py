"""Tiny models of every architecture that llama.cpp is given, and tokenizers that cut a text in the ways it knows."""

import json
from functools import cache
from pathlib import Path
from typing import Any

import transformers as hf
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

from posttrain.data.varied_texts import varied_texts
from posttrain.functional.pretokens import AS_IN_JSON, CAPITALS, LAST, SMALL
from tests import tiny

SOFT = {"initializer_range": 0.07, "eos_token_id": 2, "pad_token_id": 1, "bos_token_id": None}
GEMMA = {"head_dim": 8, "query_pre_attn_scalar": 8, "num_hidden_layers": 6}
MIXED = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32, "norm_topk_prob": True}
LLAMA3 = {
    "rope_type": "llama3", "rope_theta": 1e4, "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}  # fmt: skip
MORE: dict[str, tuple[Any, Any, dict[str, Any]]] = {
    "qwen2": (hf.Qwen2Config, hf.Qwen2ForCausalLM, {}),
    "qwen3_moe": (hf.Qwen3MoeConfig, hf.Qwen3MoeForCausalLM, {"head_dim": 8} | MIXED),
    "gemma2": (hf.Gemma2Config, hf.Gemma2ForCausalLM, GEMMA | {"sliding_window": 16}),
    "gemma3_text": (hf.Gemma3TextConfig, hf.Gemma3ForCausalLM, GEMMA | {"sliding_window": 16}),
}
FAMILIES = ("llama", "mistral", "qwen2", "qwen3", "qwen3_moe", "gemma", "gemma2", "gemma3_text", "phi3", "gpt2")
POSITIONS: dict[str, dict[str, Any]] = {
    "llama3": LLAMA3,
    "linear": {"rope_type": "linear", "rope_theta": 1e4, "factor": 4.0},
    "yarn": {"rope_type": "yarn", "rope_theta": 1e4, "factor": 4.0, "original_max_position_embeddings": 128},
    "yarn, its own attention": {
        "rope_type": "yarn", "rope_theta": 1e4, "factor": 4.0, "original_max_position_embeddings": 128, "attention_factor": 1.5,
    },
}  # fmt: skip


def model(family: str, seed: int = 0, **changes: Any) -> hf.PreTrainedModel:
    """Two layers (Gemma: six) whose numbers are no larger than real ones; rows of whole blocks."""
    more = SOFT | {"intermediate_size": 64} | changes
    if family in tiny.FAMILIES:
        return tiny.model(family, seed, **more)
    config, causal, own = MORE[family]
    before = dict(tiny.FAMILIES)
    tiny.FAMILIES[family] = (config, causal, own)
    try:
        return tiny.model(family, seed, **more)
    finally:
        tiny.FAMILIES.clear()
        tiny.FAMILIES.update(before)


def split(pattern: str) -> Any:
    return pre_tokenizers.Split(Regex(pattern), behavior="isolated")


def bytes_of(use_regex: bool = False) -> Any:
    return pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=use_regex)


AHEAD = r"[^\r\n\p{L}\p{N}]?"
TEKKEN = rf"{AHEAD}{CAPITALS}*{SMALL}+|{AHEAD}{CAPITALS}+{SMALL}*|\p{{N}}| ?[^\s\p{{L}}\p{{N}}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
CUTS = {
    "gpt-2": [bytes_of(use_regex=True)],
    "llama-bpe": [split(AS_IN_JSON + r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}" + LAST), bytes_of()],
    "qwen2": [split(AS_IN_JSON + r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}" + LAST), bytes_of()],
    "smollm": [pre_tokenizers.Digits(individual_digits=True), bytes_of(use_regex=True)],
    "tekken": [split(TEKKEN), bytes_of()],
    "unknown": [split(r"\p{L}+|\p{N}{2}|[^\p{L}\p{N}]+"), bytes_of()],
}
SPECIAL = ["<|endoftext|>", "<|pad|>", "<|end|>", "<|user|>", "<|assistant|>"]


def byte_level(way: str, size: int = 700, **options: Any) -> Tokenizer:
    """A tokenizer that merges bytes, trained on the texts themselves so that the merges reach across many borders."""
    made = Tokenizer.from_str(_byte_level(way, size))
    for name, value in options.items():
        setattr(made, name, value)
    return made


@cache
def _byte_level(way: str, size: int) -> str:
    made = Tokenizer(models.BPE(ignore_merges=way in ("llama-bpe", "tekken")))
    made.pre_tokenizer = pre_tokenizers.Sequence(CUTS[way])
    made.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=size, special_tokens=SPECIAL, initial_alphabet=alphabet, show_progress=False
    )
    made.train_from_iterator(varied_texts() * 4, trainer)
    made.add_tokens([AddedToken("<tool>", normalized=False)])
    return str(made.to_str())


def falling_back(prefix: bool, size: int = 900, scheme: str = "") -> Tokenizer:
    """A tokenizer as Llama 2 (with `prefix`) and Gemma have one: characters, merges, bytes for what is unknown. With a
    `scheme` Metaspace puts the space before a text, as Mistral has it."""
    special = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), "<|end|>"]
    made = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    steps = [normalizers.Prepend("▁")] if prefix and not scheme else []
    made.normalizer = normalizers.Sequence([*steps, normalizers.Replace(" ", "▁")])
    made.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="never", split=True)  # words, while it is trained
    trainer = trainers.BpeTrainer(vocab_size=size, special_tokens=special, limit_alphabet=150, show_progress=False)
    made.train_from_iterator(varied_texts() * 4, trainer)
    spec = json.loads(made.to_str()) | {"pre_tokenizer": None}
    if scheme:
        ahead = {"type": "Metaspace", "replacement": "▁", "prepend_scheme": scheme, "split": False}
        spec |= {"pre_tokenizer": ahead, "normalizer": None}
    kept = ("<unk>", "<s>", "</s>", "<|end|>")
    spec["added_tokens"] = [each for each in spec["added_tokens"] if each["content"] in kept]
    made = Tokenizer.from_str(json.dumps(spec))
    made.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    return made


def save(folder: Path, weights: Any, tokenizer: Tokenizer, **named: str) -> Path:
    """A model folder; `named` are special tokens by the names that transformers gives them."""
    weights.save_pretrained(folder)
    tokens = named or {"eos_token": "<|endoftext|>", "pad_token": "<|pad|>"}
    wrapped = hf.PreTrainedTokenizerFast(tokenizer_object=tokenizer, **tokens)
    wrapped.chat_template = tiny.CHAT
    wrapped.save_pretrained(folder)
    return folder


def like_phi3() -> Tokenizer:
    """A fallback to bytes with tokens behind which spaces are dropped, but for three."""
    made = falling_back(prefix=True)
    for token in ("<unk>", "<s>", "<|endoftext|>"):
        made.add_special_tokens([AddedToken(token, normalized=False)])
    for token in ("</s>", "<|end|>", "<|user|>", "<|assistant|>"):
        made.add_special_tokens([AddedToken(token, rstrip=True, normalized=False)])
    return made


SENTENCES = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
