"""Files that llama.cpp rounds, from rows to files that are called good; and what was solved, asked of llama.cpp itself."""

import numpy as np
import pytest
import torch

from posttrain.data.ggml_vocab import read_source
from posttrain.functional.divergence import plain_divergence
from posttrain.models import llama_cpp
from posttrain.models.gguf_file import tensors_in
from tests import gguf_models
from tests.methods.transforms.test_gptq import TEXTS

pytestmark = [
    pytest.mark.gguf,
    pytest.mark.slow,
    pytest.mark.skipif(not llama_cpp.installed(), reason="llama.cpp is not installed: `make test-gguf` compiles it"),
]
WIDE = {"hidden_size": 256, "intermediate_size": 512, "num_attention_heads": 8, "initializer_range": 0.03}
SMALL = {"sequences": 16, "length": 32}


def test_rows_of_no_super_blocks_are_named(workshop):
    """Those that llama.cpp makes something else of, without a word."""
    weights = gguf_models.model("llama", vocab_size=720, **WIDE | {"intermediate_size": 320})
    model = workshop.store.model(str(gguf_models.save(workshop.folder / "m", weights, gguf_models.byte_level("qwen2"))))
    found = workshop.run("gguf", model, workshop.rows(*TEXTS), types=["q4_k_s", "iq2_xs", "q4_k"], **SMALL)
    files = found.facts["files"]
    names = [f"blk.{n}.ffn_down.weight" for n in (0, 1)]
    assert files["model-Q4_K_S.gguf"]["fell_back"] == dict.fromkeys(names, "q5_0")
    assert files["model-Q4_K.gguf"]["fell_back"] == dict.fromkeys(names, "q5_0")
    assert files["model-IQ2_XS.gguf"]["fell_back"] == dict.fromkeys(names, "iq4_nl")
    assert found.facts["verified"] == "llama.cpp"


def test_experts_are_rounded_by_what_each_of_them_reads(workshop):
    weights = gguf_models.model(
        "qwen3_moe", vocab_size=720, head_dim=32, moe_intermediate_size=256, **WIDE | {"num_key_value_heads": 2}
    )
    model = workshop.store.model(str(gguf_models.save(workshop.folder / "m", weights, gguf_models.byte_level("qwen2"))))
    found = workshop.run("gguf", model, workshop.rows(*TEXTS), types=["iq2_xs", "q4_k"], **SMALL)
    types = {name: each for name, (each, _) in tensors_in(found.path / "model-IQ2_XS.gguf").items()}
    assert types["blk.0.ffn_gate_exps.weight"] == "iq2_xs"
    assert types["blk.0.ffn_gate_inp.weight"] == "f32"
    assert 0 < found.facts["difference"]["q4_k"]["kl"] < found.facts["difference"]["iq2_xs"]["kl"] < 1


def test_solved_super_blocks_are_closer_in_llama_cpp_itself(workshop):
    """The same texts, asked of the program that the files are for."""
    weights = gguf_models.model("llama", vocab_size=720, **WIDE)
    model = workshop.store.model(str(gguf_models.save(workshop.folder / "m", weights, gguf_models.byte_level("qwen2"))))
    rows = workshop.rows(*TEXTS)
    ids = read_source(model.path).ids("\n".join(row["text"] for row in TEXTS[-20:]))[:200]
    dense = llama_cpp._dense(weights, ids)
    lost = {}
    for name, options in (("stock", {}), ("solved", {"solver": "gptq"})):
        found = workshop.run("gguf", model, rows, types=["q4_k"], **SMALL, **options)
        llama = llama_cpp.opened(found.path / "model-Q4_K.gguf")
        llama.eval(ids)
        lost[name] = float(
            plain_divergence(torch.from_numpy(np.array(llama.scores[: len(ids)])).double(), dense).mean()
        )
        llama.close()
    assert lost["solved"] < 0.8 * lost["stock"]
