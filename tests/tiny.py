"""Tiny random models of real architectures, and a tokenizer that needs no files."""

from collections.abc import Callable
from typing import Any

import torch
import transformers as hf
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers

from posttrain.functional.layout import Branch, Tree
from posttrain.models import attention

VOCABULARY = 300
CHAT = (
    "{% for m in messages %}<|{{ m.role }}|>{{ m.content }}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)


def tokenizer() -> hf.PreTrainedTokenizerFast:
    """Bytes as tokens, with real special tokens and a chat template."""
    special = ["<|endoftext|>", "<|pad|>", "<|end|>", "<|system|>", "<|user|>", "<|assistant|>"]
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    words = {token: i for i, token in enumerate([*special, *letters])}
    made = Tokenizer(models.BPE(vocab=words, merges=[]))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    made.decoder = decoders.ByteLevel()
    found = hf.PreTrainedTokenizerFast(
        tokenizer_object=made, eos_token="<|end|>", pad_token="<|pad|>", additional_special_tokens=special[3:]
    )
    found.chat_template = CHAT
    return found


OTHER_CHAT = (
    "{% for m in messages %}[{{ m.role }}]\n{{ m.content }}</s>\n{% endfor %}"
    "{% if add_generation_prompt %}[assistant]\n{% endif %}"
)
TRAINED_ON = ("say hello to the whole world", "the world says hello", "abc xyz tuv pqr no go", "cba zyx vut rqp on og")


def other_tokenizer(texts: tuple[str, ...] = TRAINED_ON, n: int = 290) -> hf.PreTrainedTokenizerFast:
    """Longer tokens than those of `tokenizer`, merged where they are frequent in `texts`; another end and template."""
    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(
        vocab_size=n, special_tokens=["</s>", "<pad>"], initial_alphabet=letters, show_progress=False
    )
    made.train_from_iterator(texts, trainer)
    found = hf.PreTrainedTokenizerFast(tokenizer_object=made, eos_token="</s>", pad_token="<pad>")
    found.chat_template = OTHER_CHAT
    return found


FAMILIES: dict[str, tuple[Callable[..., Any], Callable[..., Any], dict[str, Any]]] = {
    "llama": (hf.LlamaConfig, hf.LlamaForCausalLM, {}),
    "mistral": (hf.MistralConfig, hf.MistralForCausalLM, {"sliding_window": None}),
    "qwen3": (hf.Qwen3Config, hf.Qwen3ForCausalLM, {"head_dim": 8}),
    "gpt2": (hf.GPT2Config, hf.GPT2LMHeadModel, {}),
    "gpt_neox": (hf.GPTNeoXConfig, hf.GPTNeoXForCausalLM, {}),
    "gemma": (hf.GemmaConfig, hf.GemmaForCausalLM, {"head_dim": 8}),
    "glm4": (hf.Glm4Config, hf.Glm4ForCausalLM, {"head_dim": 8}),
    "phi3": (hf.Phi3Config, hf.Phi3ForCausalLM, {}),
}


def model(family: str = "llama", seed: int = 0, **changes: Any) -> hf.PreTrainedModel:
    """Two layers, width 32, four heads; weights large enough that positions and neighbours matter."""
    config, causal, more = FAMILIES[family]
    torch.manual_seed(seed)
    settings = {
        "vocab_size": VOCABULARY, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2,
        "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 512, "initializer_range": 0.3,
        "bos_token_id": None, "eos_token_id": 2, "pad_token_id": 1,
    }  # fmt: skip
    made = causal(config(**settings | more | changes))
    made.set_attn_implementation(attention.register())
    return made.eval()


def reward_model(family: str = "llama", seed: int = 0, **changes: Any) -> hf.PreTrainedModel:
    """The same with a head of one number, as transformers builds it."""
    config = model(family, seed, **changes).config
    config.num_labels = 1
    made = hf.AutoModelForSequenceClassification.from_config(config)
    made.set_attn_implementation(attention.register())
    return made.eval()


def trees(n: int, n_branches: int, seed: int = 0, longest: int = 12) -> tuple[Tree, ...]:
    """Drawn trees; every branch learns at least its last token."""
    draw = torch.Generator().manual_seed(seed)

    def number(low: int, high: int) -> int:
        return int(torch.randint(low, high + 1, (1,), generator=draw))

    def tokens() -> tuple[int, ...]:
        return tuple(torch.randint(VOCABULARY, (number(1, longest),), generator=draw).tolist())

    def branch() -> Branch:
        ids = tokens()
        return Branch(ids, (*(number(0, 3) > 0 for _ in ids[1:]), True))

    return tuple(Tree(tokens(), tuple(branch() for _ in range(n_branches))) for _ in range(n))


SHARED = {"vocab_size": VOCABULARY, "d_model": 32}
T5 = {"d_kv": 8, "d_ff": 48, "num_layers": 2, "num_heads": 4, "decoder_start_token_id": 0}
BART = {
    "encoder_layers": 2, "decoder_layers": 2, "encoder_attention_heads": 4, "decoder_attention_heads": 4,
    "encoder_ffn_dim": 48, "decoder_ffn_dim": 48, "max_position_embeddings": 64, "init_std": 0.2,
    "bos_token_id": 2, "decoder_start_token_id": 1, "forced_eos_token_id": 1,
}  # fmt: skip
ENCODER_DECODERS: dict[str, tuple[Callable[..., Any], Callable[..., Any], dict[str, Any]]] = {
    "t5": (hf.T5Config, hf.T5ForConditionalGeneration, T5),
    "flan-t5": (
        hf.T5Config,
        hf.T5ForConditionalGeneration,
        T5 | {"feed_forward_proj": "gated-gelu", "tie_word_embeddings": False},
    ),
    "mt5": (hf.MT5Config, hf.MT5ForConditionalGeneration, T5 | {"tie_word_embeddings": False}),
    "bart": (hf.BartConfig, hf.BartForConditionalGeneration, BART),
}


def encoder_decoder(family: str = "t5", seed: int = 0, **changes: Any) -> hf.PreTrainedModel:
    """Two layers on either side, width 32, four heads; FLAN-T5 with a head of its own, BART with a bias behind it."""
    config, conditional, more = ENCODER_DECODERS[family]
    torch.manual_seed(seed)
    made = conditional(config(**SHARED | {"pad_token_id": 0, "eos_token_id": 1} | more | changes))
    if family in ("flan-t5", "mt5"):
        made.lm_head.weight = torch.nn.Parameter(torch.randn(VOCABULARY, 32) / 4)
    if family == "bart":
        made.final_logits_bias.normal_()
        made.generation_config.forced_bos_token_id = 2
    return made.eval()


def encoder_tokenizer(begins: bool = False) -> hf.PreTrainedTokenizerFast:
    """Bytes as tokens, </s> put behind every text as T5's tokenizer does, and `begins` with <s> before it as BART's."""
    special = ["<pad>", "</s>", "<s>", "<unk>"]
    words = {token: i for i, token in enumerate([*special, *sorted(pre_tokenizers.ByteLevel.alphabet())])}
    made = Tokenizer(models.BPE(vocab=words, merges=[]))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    made.decoder = decoders.ByteLevel()
    made.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>" if begins else "$A </s>", special_tokens=[("<s>", 2), ("</s>", 1)]
    )
    return hf.PreTrainedTokenizerFast(
        tokenizer_object=made,
        bos_token="<s>" if begins else None,
        eos_token="</s>",
        pad_token="<pad>",
        unk_token="<unk>",
    )
