"""The programs that models are exported to."""

from typing import Literal, get_args

Target = Literal["ollama", "llama.cpp", "vllm", "transformers"]
TARGETS: tuple[Target, ...] = get_args(Target)
