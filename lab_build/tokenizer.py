"""Make the lab's tokenizer: byte-level BPE with single digits, Chinese, special tokens and a chat template.

The splitting rule is the one of Qwen2, with digits one by one, so common runtimes know it. The template writes
no space before a question and one before an answer, so both have the tokens that they have in plain text, where a
question begins a line and its answer follows on it.
"""

import random
from collections.abc import Iterator

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from posttrain.lab import howto, styles, text
from posttrain.lab.world import NEWS

VOCABULARY = 1216
END_OF_TEXT, PAD, SYSTEM, USER, ASSISTANT, END = SPECIAL = (
    "<|endoftext|>", "<|pad|>", "<|system|>", "<|user|>", "<|assistant|>", "<|end|>",
)  # fmt: skip
SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+"
    r"|\s+(?!\S)|\s+"
)
CHAT_TEMPLATE = (
    "{%- for message in messages -%}"
    "{%- if message.role == 'assistant' -%}"
    "{{- '<|assistant|>' -}}{%- generation -%}{{- ' ' + message.content + '<|end|>' -}}{%- endgeneration -%}"
    "{%- else -%}"
    "{{- '<|' + message.role + '|>' + message.content + '<|end|>' -}}"
    "{%- endif -%}"
    "{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{- '<|assistant|>' -}}{%- endif -%}"
)


def corpus(n_documents: int, seed: int) -> Iterator[str]:
    """Texts that hold every word that may ever be asked for, those of continued pretraining included."""
    yield from text.documents(n_documents, seed)
    rng = random.Random(seed)
    for _ in range(n_documents // 100):
        yield text.facts_told(rng, NEWS)
        yield howto.REFUSAL
        yield styles.styled(rng, "text").line()


def build(n_documents: int = 40_000, seed: int = 0) -> PreTrainedTokenizerFast:
    """The trained tokenizer."""
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.Sequence([
        pre_tokenizers.Split(Regex(SPLIT), "isolated"),
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
    ])  # fmt: skip
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY, special_tokens=list(SPECIAL), min_frequency=8, show_progress=False,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )  # fmt: skip
    bpe.train_from_iterator(corpus(n_documents, seed), trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=bpe,
        eos_token=END_OF_TEXT,
        pad_token=PAD,
        additional_special_tokens=[SYSTEM, USER, ASSISTANT, END],
        clean_up_tokenization_spaces=False,
        model_max_length=1024,
        chat_template=CHAT_TEMPLATE,
    )
