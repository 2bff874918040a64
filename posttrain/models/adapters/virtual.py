"""Virtual tokens: the model stays as it is and reads a few learnt vectors before every text.

prompt tuning   n embeddings                              Lester et al. 2021, arXiv 2104.08691
P-tuning        n embeddings made by a small network      Liu et al. 2021, arXiv 2103.10385
prefix-tuning   keys and values of n tokens, every layer  Li & Liang 2021, arXiv 2101.00190

All begin as real tokens: drawn at random they are noise that every answer reads, and steps go into unlearning it.
They need many steps, large ones, and many tokens: what they recommend was found on the lab model (docs/adapters.md).
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn

from posttrain.schema.errors import ModelError

from .family import NAME, Family, task_of

if TYPE_CHECKING:
    from peft import PeftConfig, PeftModel
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


def encoder_of(adapted: "PeftModel") -> Any:
    """What makes the virtual tokens."""
    encoders: Any = adapted.prompt_encoder
    return encoders[NAME]


class Virtual(Family):
    """Learnt vectors before every text."""

    recommended: ClassVar[Mapping[str, Any]] = {"batch_size": 8, "epochs": 8}

    tokens: int = Field(64, ge=1)
    """Number of virtual tokens; each takes a place of the context."""
    text: str = ""
    """The words that the virtual tokens begin as, repeated as needed; tokens drawn from the vocabulary if not given."""

    def _first_ids(self, model: "PreTrainedModel", tokenizer: "PreTrainedTokenizerBase") -> Tensor:
        """(n,): the tokens to begin as."""
        ids = tokenizer.encode(self.text, add_special_tokens=False) if self.text else []
        if self.text and not ids:
            raise ModelError(f"The text {self.text!r} has no token to begin with. Write some words.")
        if not ids:
            special = set(tokenizer.all_special_ids)
            words = torch.tensor([i for i in range(len(tokenizer)) if i not in special] or [0])
            return words[torch.randint(len(words), (self.tokens,))]
        return torch.tensor(ids * -(-self.tokens // len(ids)))[: self.tokens]

    def _first_embeddings(self, adapted: "PeftModel", tokenizer: "PreTrainedTokenizerBase") -> Tensor:
        """(n, width): real tokens as the model reads them."""
        model: Any = adapted.get_base_model()
        embedding = model.get_input_embeddings()
        return embedding(self._first_ids(model, tokenizer).to(embedding.weight.device)).detach()


class Prompt(Virtual):
    """Prompt tuning: learnt embeddings before every text."""

    times: ClassVar[float] = 1500.0

    def config(self, model: "PreTrainedModel") -> "PeftConfig":
        from peft import PromptTuningConfig

        return PromptTuningConfig(
            num_virtual_tokens=self.tokens, task_type=task_of(model), num_transformer_submodules=1
        )  # of an encoder-decoder, the encoder

    def begin(self, adapted: "PeftModel", tokenizer: "PreTrainedTokenizerBase") -> None:
        with torch.no_grad():
            encoder_of(adapted).embedding.weight.copy_(self._first_embeddings(adapted, tokenizer))


class PTuning(Virtual):
    """P-tuning: embeddings before every text, made by a small network that is not kept."""

    times: ClassVar[float] = 1000.0
    recommended: ClassVar[Mapping[str, Any]] = {"batch_size": 8, "epochs": 20}

    hidden: int = Field(64, ge=1)
    """Width of the network that makes the embeddings."""

    def config(self, model: "PreTrainedModel") -> "PeftConfig":
        from peft import PromptEncoderConfig

        return PromptEncoderConfig(
            num_virtual_tokens=self.tokens,
            encoder_hidden_size=self.hidden,
            task_type=task_of(model),
            num_transformer_submodules=1,
        )

    def begin(self, adapted: "PeftModel", tokenizer: "PreTrainedTokenizerBase") -> None:
        """What the network makes lies around the mean of real tokens."""
        last: nn.Linear = encoder_of(adapted).mlp_head[-1]
        with torch.no_grad():
            last.bias.copy_(self._first_embeddings(adapted, tokenizer).mean(0))


class Prefix(Virtual):
    """Prefix-tuning: learnt keys and values before every text, in every layer."""

    times: ClassVar[float] = 5000.0

    tokens: int = Field(32, ge=1)
    """Number of virtual tokens; each takes a place of the context."""

    def config(self, model: "PreTrainedModel") -> "PeftConfig":
        from peft import PrefixTuningConfig

        if model.config.is_encoder_decoder:
            raise ModelError(
                f"Prefix-tuning is for models that only decode, and {type(model).__name__} has an encoder. "
                "Use `adapter: prompt`, `p_tuning`, `lora` or `ia3`."
            )
        return PrefixTuningConfig(num_virtual_tokens=self.tokens, task_type=task_of(model))

    def begin(self, adapted: "PeftModel", tokenizer: "PreTrainedTokenizerBase") -> None:
        """(n, 2 layers * K * D): what the layers make of real tokens."""
        from .root import keys_and_values

        first = self._first_embeddings(adapted, tokenizer)[None]
        with torch.no_grad():
            pairs = keys_and_values(adapted.get_base_model(), first)
            stacked = torch.stack([x[0].transpose(0, 1).flatten(1) for pair in pairs for x in pair], 1).flatten(1)
            prefix = encoder_of(adapted).embedding.weight
            if stacked.shape != prefix.shape:
                raise ModelError(
                    f"This model makes {stacked.shape[1]} keys and values of a token where PEFT's prefix-tuning has "
                    f"{prefix.shape[1]}. Use `adapter: prompt` or `p_tuning`."
                )
            prefix.copy_(stacked)
