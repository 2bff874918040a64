"""What vLLM is asked, by a stand-in that has the interface which its documentation tells of, and answers with our own engine."""

import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest
import torch

from posttrain.models.adapters import Adapter, attach
from posttrain.models.policy import Policy
from posttrain.models.sampler import Sampling, TransformersSampler
from posttrain.models.vllm import VllmSampler, make_sampler
from posttrain.schema.errors import MissingExtra, ModelError
from tests import tiny

PROMPTS = [[7, 8, 9], [20, 21]]


class LLM:
    """Reads a folder, and reads it again when told to."""

    def __init__(self, model: str, **told: object) -> None:
        self.folder, self.told, self.reloads = model, told, 0
        self._read()

    def _read(self) -> None:
        import transformers

        weights = transformers.AutoModelForCausalLM.from_pretrained(self.folder, attn_implementation="eager")
        self.policy = Policy(weights, transformers.AutoTokenizer.from_pretrained(self.folder))

    def collective_rpc(self, method: str) -> None:
        assert method == "reload_weights"
        self.reloads += 1
        self._read()

    def generate(self, prompts, params, use_tqdm):
        made = []
        for prompt, asked in zip(prompts, params, strict=True):
            sampler = TransformersSampler(self.policy, frozenset(asked.stop_token_ids))
            told = Sampling(max_new_tokens=asked.max_tokens, temperature=asked.temperature, top_p=asked.top_p)
            answers = sampler.sample([prompt["prompt_token_ids"]], told, asked.seed, n=asked.n)
            made.append(SimpleNamespace(outputs=[SimpleNamespace(token_ids=tuple(ids)) for ids in answers]))
        return made


@pytest.fixture
def vllm(monkeypatch):
    fake = ModuleType("vllm")
    fake.LLM, fake.SamplingParams = LLM, SimpleNamespace
    monkeypatch.setitem(sys.modules, "vllm", fake)


def test_answers_are_those_of_the_weights_as_they_are(vllm, tmp_path: Path):
    policy = Policy(tiny.model(), tiny.tokenizer())
    sampler, own = make_sampler("vllm", policy, frozenset({2}), tmp_path), TransformersSampler(policy, frozenset({2}))
    assert isinstance(sampler, VllmSampler)
    before = sampler.sample(PROMPTS, Sampling(max_new_tokens=6))
    assert before == own.sample(PROMPTS, Sampling(max_new_tokens=6))
    with torch.no_grad():
        for parameter in policy.model.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)))
    after = sampler.sample(PROMPTS, Sampling(max_new_tokens=6))
    assert after == own.sample(PROMPTS, Sampling(max_new_tokens=6)) != before
    assert sampler._engine.reloads == 1


def test_a_prompt_gets_its_answers_one_after_another(vllm, tmp_path: Path):
    sampler = VllmSampler(Policy(tiny.model(), tiny.tokenizer()), frozenset({2}), tmp_path)
    told = Sampling(max_new_tokens=5, temperature=1.0)
    answers = sampler.sample(PROMPTS, told, seed=3, n=3)
    assert len(answers) == 6
    assert answers == sampler.sample(PROMPTS, told, seed=3, n=3) != sampler.sample(PROMPTS, told, seed=4, n=3)
    assert answers[3:] != sampler.sample(PROMPTS[1:], told, seed=3, n=3)  # a prompt's draws are its place's own


def test_without_the_package_the_extra_is_named(tmp_path: Path, monkeypatch):
    monkeypatch.setitem(sys.modules, "vllm", None)
    with pytest.raises(MissingExtra, match=r"pip install 'posttrain\[vllm\]'"):
        VllmSampler(Policy(tiny.model(), tiny.tokenizer()), frozenset(), tmp_path)


def test_an_adapter_is_refused(vllm, tmp_path: Path):
    adapted = attach(tiny.model(), Adapter.model_validate("lora"), tiny.tokenizer(), seed=0)
    with pytest.raises(ModelError, match="`merge` stage"):
        VllmSampler(Policy(adapted, tiny.tokenizer(), adapter="default"), frozenset(), tmp_path)
