"""A model is loaded to compute what transformers computes."""

import torch
import transformers as hf

from posttrain.models.load import load_weights
from posttrain.schema.artifacts import Model


@torch.no_grad()
def test_attention_with_sinks_is_that_of_transformers(tmp_path):
    """GPT-OSS lets a learnt number take a share of every row of scores; without it all logits are others."""
    config = hf.AutoConfig.for_model(
        "gpt_oss", hidden_size=32, intermediate_size=16, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
        head_dim=8, vocab_size=64, num_local_experts=2, num_experts_per_tok=1,
    )  # fmt: skip
    torch.manual_seed(0)
    made = hf.AutoModelForCausalLM.from_config(config)
    for name, parameter in made.named_parameters():
        if "sinks" in name:
            torch.nn.init.constant_(parameter, 3.0)
    made.save_pretrained(tmp_path)
    ids = torch.arange(20)[None]
    ours, theirs = (
        load_weights(Model(tmp_path, "")),
        hf.AutoModelForCausalLM.from_pretrained(tmp_path, attn_implementation="eager", dtype=torch.float32),
    )
    assert torch.equal(ours(ids).logits, theirs(ids).logits)
