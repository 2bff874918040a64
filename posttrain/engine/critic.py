"""Reward models and critics beside a policy, in as little memory as there can be.

Where the policy trains an adapter, and the reward model is an adapter on the same base, one base in memory serves policy,
reference, critic and reward: each is a set of adapter weights, or none. A reward model with weights of its own carries
the critic as a fresh adapter. Where all weights are trained, the critic is a copy of the reward model, or of the policy
with an empty head where no reward model is given.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from posttrain.models import adapters
from posttrain.models.load import load_scorer, load_weights
from posttrain.models.policy import Policy
from posttrain.models.scorer import Scorer
from posttrain.schema.artifacts import Model

if TYPE_CHECKING:
    from peft import PeftModel

REWARD, CRITIC = "reward", "critic"
SCORE = "base_model.model.score.weight"


def reward_model(reward: Model, model: Model, policy: Policy) -> Scorer:
    """The frozen reward model; on the policy's own base where both are adapters of it."""
    scorer = on_base_of(policy, reward, model, REWARD) or load_scorer(reward, micro_tokens=policy.micro_tokens)
    for name, parameter in scorer.named_parameters():
        if scorer.model is not policy.model or f".{REWARD}." in name or name.startswith("head."):
            parameter.requires_grad_(False)
    return scorer


def critic(model: Model, policy: Policy, reward: Model | None, scorer: Scorer | None, seed: int) -> Scorer:
    """The critic, which begins as the reward model where there is one: what an answer is worth is the best guess of what
    may be expected of it."""
    if not adapters.is_adapted(policy.model):
        made = load_scorer(reward) if reward is not None else _from(model, policy)
    elif reward is None:
        made = _fresh(policy.model, policy, _head(policy), 0.0, seed)
    else:
        assert scorer is not None
        made = on_base_of(policy, reward, model, CRITIC) or _on_reward(scorer, policy, seed)
    made.dtype, made.micro_tokens = policy.dtype, policy.micro_tokens
    for parameter in made.head.parameters():
        parameter.requires_grad_(True)
    return made


def learn_at(critic: Scorer, policy: Policy, times: float) -> None:
    """Lets the critic's own weights learn at a multiple of the policy's rate."""
    for parameter in own_weights(critic, policy):
        setattr(parameter, adapters.TIMES, times)


def own_weights(critic: Scorer, policy: Policy) -> list[nn.Parameter]:
    """What the critic trains and the policy does not use."""
    shared = critic.model is policy.model
    return [
        p
        for name, p in critic.named_parameters()
        if p.requires_grad and (not shared or f".{CRITIC}." in name or name.startswith("head."))
    ]


def on_base_of(policy: Policy, reward: Model, model: Model, name: str) -> Scorer | None:
    """A reward model as a further adapter on the policy's base, trainable as a critic; None where it is not one of that
    base alone."""
    if not reward.base or not adapters.is_adapted(policy.model) or Path(reward.base) != Path(model.base or model.path):
        return None
    from peft import PeftConfig, set_peft_model_state_dict
    from peft.utils.save_and_load import load_peft_weights

    config: Any = PeftConfig.from_pretrained(str(reward.path))
    weights = load_peft_weights(str(reward.path), device=str(policy.device))
    if config.is_prompt_learning or getattr(config, "trainable_token_indices", None) or SCORE not in weights:
        return None
    config.task_type, config.modules_to_save = policy.model.peft_config[adapters.NAME].task_type, None
    head = _head(policy)
    with torch.no_grad():
        head.weight.copy_(weights.pop(SCORE))
    _add(policy.model, name, config)
    set_peft_model_state_dict(policy.model, weights, adapter_name=name)
    return Scorer(
        policy.model, policy.tokenizer, head=head, offset=float(reward.facts.get("offset", 0.0)), adapter=name
    )


def _from(model: Model, policy: Policy) -> Scorer:
    """A copy of the policy as it begins, with a head of zeros."""
    return Scorer(load_weights(model, scores=True), policy.tokenizer)


def _on_reward(scorer: Scorer, policy: Policy, seed: int) -> Scorer:
    """A fresh adapter on the reward model, with a copy of its head; without it the reward model is what it was."""
    head = _head(policy)
    with torch.no_grad():
        head.weight.copy_(scorer.head.weight)  # type: ignore[arg-type]
    if adapters.is_adapted(scorer.model):
        return _fresh(scorer.model, policy, head, scorer.offset, seed)
    from peft import LoraConfig, PeftModel

    config = _config_like(policy)
    assert isinstance(config, LoraConfig)
    weights: Any = scorer.model
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        adapted = PeftModel(weights, config, adapter_name=CRITIC)
    scorer.model, scorer.adapter = adapted.eval(), None
    return Scorer(adapted, policy.tokenizer, head=head, offset=scorer.offset, adapter=CRITIC)


def _fresh(adapted: "PeftModel", policy: Policy, head: nn.Linear, offset: float, seed: int) -> Scorer:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        _add(adapted, CRITIC, _config_like(policy))
    return Scorer(adapted, policy.tokenizer, head=head, offset=offset, adapter=CRITIC)


def _config_like(policy: Policy) -> Any:
    """The description of the policy's own adapter, for another one of its kind."""
    from copy import deepcopy

    config: Any = deepcopy(policy.model.peft_config[adapters.NAME])
    config.trainable_token_indices = None
    config.inference_mode = False
    return config


def _add(adapted: "PeftModel", name: str, config: Any) -> None:
    """One more adapter; which weights of the others are trained stays as it is."""
    trained = {id(p) for p in adapted.parameters() if p.requires_grad}
    adapted.add_adapter(name, config)
    adapted.set_adapter(adapted.active_adapter)
    for key, parameter in adapted.named_parameters():
        parameter.requires_grad_(id(parameter) in trained or f".{name}." in key)


def _head(policy: Policy) -> nn.Linear:
    """A head of zeros that fits the policy's states."""
    width = policy.model.config.hidden_size
    head = nn.Linear(width, 1, bias=False, device=policy.device)
    nn.init.zeros_(head.weight)
    return head
