"""Files of one model: what llama.cpp is told of columns, and what fell back."""

import numpy as np
import pytest

from posttrain.engine.gguf_writing import Writer
from posttrain.engine.job import Job
from posttrain.models.gguf_types import fell_back, fitting, refuse_by_name_alone
from posttrain.schema.errors import ModelError
from tests import gguf_models
from tests.models.test_gguf_file import VOCAB


def writer(folder, notes: list[str], family: str, **matters: np.ndarray) -> Writer:
    job = Job(folder, folder, emit=lambda kind, **said: notes.append(said["text"]))
    return Writer(job, gguf_models.model(family), VOCAB, matters={f"model.layers.0.{n}": x for n, x in matters.items()})


def test_columns_are_told_by_the_names_of_the_file(tmp_path):
    """Gate and up of experts, one tensor here, read the same; what is not known counts alike, and is told."""
    notes: list[str] = []
    experts = np.random.default_rng(0).random((4, 32)).astype(np.float32)
    made = writer(tmp_path, notes, "qwen3_moe", **{"mlp.experts.gate_up_proj": experts})
    told = made._by_place()
    assert told.keys() == made.shapes().keys()
    for part in ("gate", "up"):
        assert np.array_equal(told[f"blk.0.ffn_{part}_exps.weight"], experts)
    assert told["blk.1.ffn_down_exps.weight"].tolist() == np.ones((4, 32)).tolist()
    assert told["blk.0.attn_q.weight"].shape == (32,)
    assert notes == ["nothing is known of what 12 matrices read, such as blk.0.attn_k.weight: columns count alike"]
    assert "blk.0.ffn_gate_inp.weight" not in told  # it stays in fp32


def test_nothing_is_told_without_rows(tmp_path):
    assert writer(tmp_path, [], "llama")._by_place() == {}


def test_what_rows_become():
    assert [fitting(kind, 512) for kind in ("q4_k", "q5_k", "q6_k", "q4_0")] == ["q4_k", "q5_k", "q6_k", "q4_0"]
    assert [fitting(kind, 96) for kind in ("q4_k", "q5_k", "q6_k", "q4_0")] == ["q5_0", "q5_1", "q8_0", "q4_0"]
    assert [fitting(kind, 48) for kind in ("q4_k", "q4_0", "bf16")] == ["f16", "f16", "bf16"]


def test_what_fell_back_is_told_by_rows():
    tensors = {
        "blk.0.attn_q.weight": ("q4_k", (64, 256)),
        "blk.0.ffn_down.weight": ("q5_0", (64, 320)),
        "blk.0.attn_v.weight": ("q6_k", (64, 256)),  # a blend's choice
        "blk.0.ffn_gate_inp.weight": ("f32", (4, 320)),
        "blk.0.attn_norm.weight": ("f32", (320,)),
        "token_embd.weight": ("q8_0", (99, 320)),
    }
    assert fell_back(tensors, "q4_k_m", "q8_0") == {"blk.0.ffn_down.weight": "q5_0"}
    assert fell_back(tensors, "iq4_nl", "q8_0") == {}
    assert fell_back(tensors, "q8_0", "q6_k") == {"token_embd.weight": "q8_0"}


def test_one_row_that_fits_is_enough():
    refuse_by_name_alone([320, 256], "q4_k_m")
    refuse_by_name_alone([320], "iq4_nl")
    with pytest.raises(ModelError, match=r"`q4_k_m` wants rows of 256 .* have rows of 64, 320: nothing of the file"):
        refuse_by_name_alone([320, 64, 320], "q4_k_m")
