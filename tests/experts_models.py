"""Tiny mixtures of experts whose tokens are routed unevenly: one expert gets few of them, and one none."""

from pathlib import Path
from typing import Any

import torch
import transformers as hf

from tests import tiny

SIZES = {
    "vocab_size": tiny.VOCABULARY, "hidden_size": 32, "intermediate_size": 64, "moe_intermediate_size": 32,
    "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8, "max_position_embeddings": 512,
    "num_experts": 4, "num_local_experts": 4, "n_routed_experts": 4, "num_experts_per_tok": 2, "moe_num_experts": 4, "moe_k": 2,
    "moe_topk": 2, "n_group": 1, "topk_group": 1, "shared_expert_intermediate_size": 32, "n_shared_experts": 1,
    "first_k_dense_replace": 0, "q_lora_rank": 8, "kv_lora_rank": 8, "qk_rope_head_dim": 4, "qk_nope_head_dim": 4, "v_head_dim": 8,
    "decoder_sparse_step": 1, "mlp_only_layers": [], "norm_topk_prob": True, "initializer_range": 0.3,
    "bos_token_id": None, "eos_token_id": 2, "pad_token_id": 1,
}  # fmt: skip
NEVER, SELDOM = 3, 1  # experts


def model(family: str = "qwen3_moe", seed: int = 0, **changes: Any) -> Any:
    """Two layers, width 32, four experts of which each token chooses two."""
    config = hf.CONFIG_MAPPING[family]
    known = {name for each in config.__mro__ for name in getattr(each, "__annotations__", {})}
    settings = {name: value for name, value in (SIZES | changes).items() if name in known}
    torch.manual_seed(seed)
    made = hf.AutoModelForCausalLM.from_config(config(**settings))
    for name, x in made.named_parameters():
        if x.dim() > 1:
            x.data.normal_(0, 1 if "embed" in name else 0.2)
    return made.eval()


def uneven(seed: int = 0, **changes: Any) -> Any:
    """A Qwen3 mixture whose norms say something in one channel that repels one expert always, and another one mostly."""
    made = model("qwen3_moe", seed, **changes)
    with torch.no_grad():
        made.model.embed_tokens.weight[:, 0] = 2
        for layer in made.model.layers:
            layer.mlp.gate.weight[:, 0] = 0
            layer.mlp.gate.weight[NEVER, 0] = -20
            layer.mlp.gate.weight[SELDOM, 0] = -2.0
            layer.self_attn.o_proj.weight[0] = 0
            layer.mlp.experts.down_proj[:, 0] = 0
    return made


def saved(folder: Path, weights: Any) -> Path:
    """A model folder."""
    weights.save_pretrained(folder)
    tiny.tokenizer().save_pretrained(folder)
    return folder
