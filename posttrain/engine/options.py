"""What every training can be told beside its objective's own settings, by what it is about."""

from typing import Annotated, Literal

from pydantic import Field

from posttrain.schema.settings import Cosmetic, Settings

from .optimizer import Kind


class Stepping(Settings):
    """How far and how fast the weights move."""

    learning_rate: float = Field(2e-5, gt=0)
    """Size of the steps; where none is given, an adapter takes the multiple of this default that suits its kind."""
    epochs: int = Field(1, ge=1)
    """How often every row is seen."""
    steps: int | None = Field(None, ge=1)
    """Optimizer steps; takes the place of `epochs` when given."""
    batch_size: int = Field(32, ge=1)
    """Rows in one optimizer step."""
    schedule: Literal["constant", "linear", "cosine"] = "linear"
    """How the learning rate falls after the warm-up."""
    warmup: float = Field(0.03, ge=0, le=1)
    """Share of the steps over which the learning rate rises."""
    weight_decay: float = Field(0.0, ge=0)
    """How strongly weights are pulled to zero."""
    max_grad_norm: float = Field(1.0, gt=0)
    """Longest gradient; a longer one is scaled down to it."""
    optimizer: Kind = "adamw"
    """AdamW with fp32 moments, or with moments of eight bits, which take a quarter of the memory (bitsandbytes)."""


class Computing(Settings):
    """How a step is computed: what fits into memory, and in which precision."""

    max_length: int = Field(1024, ge=2)
    """Longest row in tokens; a longer one loses its end."""
    micro_tokens: int = Field(4096, ge=1)
    """Tokens computed at once; smaller needs less memory and gives the same gradient."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Precision of the computation; weights and optimizer stay in float32."""
    gradient_checkpointing: bool = False
    """Compute layers again in the backward pass rather than keep what is inside them: slower, and far smaller."""
    offload_activations: bool = False
    """Let what the backward pass needs wait in the machine's memory, out of the GPU's; needs a GPU."""
    checkpoint_seconds: Annotated[float, Cosmetic] = Field(60.0, ge=0)
    """Seconds between checkpoints; a killed run loses at most as much."""
