"""Sampling through vLLM (Kwon et al. 2023, arXiv 2309.06180), for GPUs: the same protocol, another engine.

The policy's weights are written into a folder before each call, and vLLM reads them there anew, so that answers are always
those of the weights as they are. It is written against vLLM's documented interface and has been run against a stand-in for
it alone, never on a GPU: the tests show what it is asked, not how fast it answers.
"""

import importlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from posttrain.functional.seeds import seed_of
from posttrain.schema.errors import MissingExtra, ModelError

from .adapters.active import is_adapted
from .policy import Policy
from .sampler import Sampler, Sampling, TransformersSampler

Engine = Literal["own", "vllm"]
MEMORY = 0.4  # share of the GPU's memory that vLLM may take: the training needs the rest


def make_sampler(
    engine: Engine,
    policy: Policy,
    stop_ids: frozenset[int],
    folder: Path,
    watch: Callable[[int], None] = lambda done: None,
) -> Sampler:
    """The sampler of a policy by the name of its engine; vLLM's has its weights under `folder`."""
    if engine == "own":
        return TransformersSampler(policy, stop_ids, watch=watch)
    return VllmSampler(policy, stop_ids, folder / "vllm", watch=watch)


@dataclass
class VllmSampler:
    """Samples from a policy through vLLM. Raises MissingExtra without the package, and ModelError for an adapter, whose
    weights are not those of a folder."""

    policy: Policy
    stop_ids: frozenset[int]
    folder: Path
    watch: Callable[[int], None] = field(default=lambda done: None)
    _engine: Any = None

    def __post_init__(self) -> None:
        self._vllm = _package()
        if is_adapted(self.policy.model) or self.policy.encodes:
            raise ModelError(
                "vLLM answers with all weights of a decoder. Train without `adapter`, put a `merge` stage before this one, or "
                "leave `engine: vllm` out."
            )

    def sample(
        self, prompts: Sequence[Sequence[int]], sampling: Sampling, seed: int = 0, n: int = 1
    ) -> list[list[int]]:
        """As the protocol says. Every prompt has a seed of its own, from which vLLM draws its `n` answers."""
        self._read_weights()
        asked = [{"prompt_token_ids": list(prompt)} for prompt in prompts]
        told = [self._vllm.SamplingParams(**self._said(sampling, n, seed_of(seed, row))) for row in range(len(prompts))]
        made = self._engine.generate(asked, told, use_tqdm=False)
        self.watch(len(prompts) * n)
        return [list(output.token_ids) for each in made for output in each.outputs]

    def _said(self, sampling: Sampling, n: int, seed: int) -> dict[str, Any]:
        return {
            "n": n,
            "temperature": sampling.temperature,
            "top_p": sampling.top_p,
            "max_tokens": sampling.max_new_tokens,
            "stop_token_ids": sorted(self.stop_ids),
            "ignore_eos": True,  # what ends an answer is in stop_token_ids
            "seed": seed,
            "detokenize": False,
        }

    def _read_weights(self) -> None:
        """Has vLLM hold the policy's weights as they are now."""
        self.policy.model.save_pretrained(str(self.folder))
        if self._engine is not None:
            self._engine.collective_rpc("reload_weights")
            return
        self.policy.tokenizer.save_pretrained(str(self.folder))
        self._engine = self._vllm.LLM(
            model=str(self.folder),
            dtype=self.policy.dtype,
            gpu_memory_utilization=MEMORY,
            max_model_len=min(self.policy.context, 1 << 16),
        )


def _package() -> Any:
    try:
        return importlib.import_module("vllm")
    except ImportError as error:
        raise MissingExtra("vllm", "vllm", "`engine: vllm`") from error
