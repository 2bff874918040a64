"""Reward models and critics beside a policy, in as little memory as there can be.

    policy trains    reward model                 the critic begins as
    all weights      none                         a copy of the policy, with an empty head
    all weights      any                          a copy of the reward model
    LoRA or IA3      none                         a fresh adapter on the policy's base, with an empty head
    LoRA or IA3      an adapter on the same base  a copy of that adapter: one base serves policy, reference, reward, critic
    an adapter       an adapter elsewhere         a copy of that adapter, on the base that the reward model has
    an adapter       all weights                  a fresh adapter on the reward model, which stays what it was without it
    another adapter  none                         fresh LoRA on another copy of the base

Where the policy's base holds no second adapter, as that of PiSSA, nothing is shared with it. A critic reads the tokens
that the policy wrote: a reward model that knows others, or fewer places for them, is none to begin with.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from copy import deepcopy
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from posttrain.models import adapters
from posttrain.models.adapters.family import names_a_layer
from posttrain.models.four_bits import FILE, is_in_four_bits
from posttrain.models.load import load_scorer, load_weights
from posttrain.models.policy import Policy
from posttrain.models.scorer import Scorer
from posttrain.schema.artifacts import Model

if TYPE_CHECKING:
    from peft import PeftModel

REWARD, CRITIC = "reward", "critic"
SCORE = "base_model.model.score.weight"
SEVERAL = frozenset({"LORA", "IA3"})  # what PEFT calls adapters of which a base carries several, each for itself


def reward_model(reward: Model, model: Model, policy: Policy) -> Scorer:
    """The frozen reward model; on the policy's own base where both are adapters of it."""
    scorer = on_base_of(policy, reward, model, REWARD) or load_scorer(reward, micro_tokens=policy.micro_tokens)
    for parameter in scorer.trainable():
        parameter.requires_grad_(False)
    return scorer


def critic(model: Model, policy: Policy, reward: Model | None, scorer: Scorer | None, seed: int) -> Scorer:
    """The critic, which begins as the reward model where there is one: what an answer is worth is the best guess of what
    may be expected of it."""
    if scorer is not None and not reads_the_same(scorer, policy):
        reward = scorer = None
    if adapters.is_adapted(policy.model):
        made = _adapter(model, policy, reward, scorer, seed)
    elif reward is not None:
        made = load_scorer(reward)
    else:
        made = Scorer(load_weights(model, scores=True), policy.tokenizer)
    made.dtype, made.micro_tokens, made.offload = policy.dtype, policy.micro_tokens, policy.offload
    for name, parameter in made.head.named_parameters():
        parameter.requires_grad_("original_module" not in name)  # PEFT keeps the head of the base beside its own
    return made


def reads_the_same(scorer: Scorer, policy: Policy) -> bool:
    """Whether a scorer can read what the policy wrote, token by token."""
    return scorer.context >= policy.context and scorer.tokenizer.get_vocab() == policy.tokenizer.get_vocab()


def learn_at(critic: Scorer, times: float) -> None:
    """Lets the critic's own weights learn at a multiple of the policy's rate."""
    for parameter in critic.trainable():
        setattr(parameter, adapters.TIMES, times)


def on_base_of(policy: Policy, reward: Model, model: Model, name: str) -> Scorer | None:
    """A reward model as a further adapter on the policy's base; None where it is not one of that base alone."""
    if not carries_more(policy) or not reward.base or Path(reward.base) != Path(model.base or model.path):
        return None
    if (Path(reward.path) / FILE).is_file() != is_in_four_bits(policy.causal()):
        return None
    return _copied(policy.model, policy, reward, name)


def carries_more(policy: Policy) -> bool:
    """Whether the policy's base is as it was before, and can carry one more adapter."""
    if not adapters.is_adapted(policy.model) or adapters.start_of(policy.model) is not None:
        return False
    return policy.model.peft_config[adapters.NAME].peft_type in SEVERAL


def _adapter(model: Model, policy: Policy, reward: Model | None, scorer: Scorer | None, seed: int) -> Scorer:
    """A critic beside a policy that trains an adapter is an adapter too."""
    if scorer is not None and reward is not None:
        if not adapters.is_adapted(scorer.model):
            made = _wrapped(scorer.model, policy, seed, scorer.head, scorer.offset)
            scorer.model, scorer.adapter = made.model, None
            return made
        if copy := _copied(scorer.model, policy, reward, CRITIC):
            return copy
    if not carries_more(policy):
        return _wrapped(load_weights(model, scores=True), policy, seed)
    _add(policy.model, CRITIC, _config_of(policy), seed)
    return Scorer(policy.model, policy.tokenizer, head=_head(policy.model), adapter=CRITIC)


def _copied(adapted: Any, policy: Policy, reward: Model, name: str) -> Scorer | None:
    """The adapter of a reward model once more on a model that carries some; None where it cannot be."""
    from peft import PeftConfig, set_peft_model_state_dict
    from peft.utils.save_and_load import load_peft_weights

    config: Any = PeftConfig.from_pretrained(str(reward.path))
    own = adapted.peft_config[adapters.NAME]
    weights = load_peft_weights(str(reward.path), device=str(policy.device))
    if config.peft_type not in SEVERAL or config.peft_type != own.peft_type or SCORE not in weights:
        return None
    if getattr(config, "trainable_token_indices", None) or isinstance(getattr(config, "init_lora_weights", True), str):
        return None  # new tokens, and what begins by taking parts out of the base, would change what others read
    config.task_type, config.modules_to_save = own.task_type, None
    head = _head(adapted, weights[SCORE])
    _add(adapted, name, config)
    if not config.modules_to_save:  # PEFT sets it on a model that scores
        del weights[SCORE]
    loaded: Any = set_peft_model_state_dict(adapted, weights, adapter_name=name)
    if loaded.unexpected_keys:
        adapted.delete_adapter(name)
        return None
    offset = float(reward.facts.get("offset", 0.0))
    return Scorer(adapted, policy.tokenizer, head=head, offset=offset, adapter=name)


def _wrapped(weights: Any, policy: Policy, seed: int, head: nn.Module | None = None, offset: float = 0.0) -> Scorer:
    """A fresh adapter of the policy's kind on a model that scores, with a copy of a head or an empty one."""
    from peft import LoraConfig, PeftModel, TaskType

    config = _config_of(policy)
    targets = getattr(config, "target_modules", None)
    known = not isinstance(targets, str) and all(names_a_layer(weights, each) for each in targets or ())
    if config.peft_type not in SEVERAL or not known:
        config = LoraConfig(r=16, lora_alpha=32, target_modules="all-linear", task_type=TaskType.SEQ_CLS)
    own = _head(weights, None if head is None else head.weight)
    with _drawn_from(seed):
        adapted = PeftModel(weights, config, adapter_name=CRITIC)
    return Scorer(adapted.eval(), policy.tokenizer, head=own, offset=offset, adapter=CRITIC)


def _config_of(policy: Policy) -> Any:
    """What PEFT says of the policy's adapter, for another one like it."""
    config: Any = deepcopy(policy.model.peft_config[adapters.NAME])
    if hasattr(config, "trainable_token_indices"):
        config.trainable_token_indices = None
    if hasattr(config, "init_lora_weights"):
        config.init_lora_weights = True  # PiSSA's would take the strongest parts out of the base
    return config


def _add(adapted: "PeftModel", name: str, config: Any, seed: int = 0) -> None:
    """One more adapter; which weights of the others are trained stays as it is."""
    trained = {id(p) for p in adapted.parameters() if p.requires_grad}
    config.inference_mode = False
    with _drawn_from(seed):
        adapted.add_adapter(name, config)
    adapted.set_adapter(adapted.active_adapter)
    for key, parameter in adapted.named_parameters():
        new = name in key.split(".") and "modules_to_save" not in key  # heads are kept beside
        parameter.requires_grad_(id(parameter) in trained or new)


@contextmanager
def _drawn_from(seed: int) -> Iterator[None]:
    """Within: draws come from this seed. Outside, they go on as if nothing had been drawn."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield


def _head(model: Any, weight: Any = None) -> nn.Linear:
    """A head that fits the model's states: a copy of a weight, or one of zeros."""
    device = next(model.parameters()).device
    head: nn.Linear = nn.utils.skip_init(nn.Linear, model.config.hidden_size, 1, bias=False, device=device)
    with torch.no_grad():
        head.weight.zero_() if weight is None else head.weight.copy_(weight)
    return head
