"""llama.cpp's own rounding: its blends are read as it reads them, careful with columns that matter, and ours is as close."""

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from posttrain.data.ggml_match import read_vocab
from posttrain.functional.divergence import plain_divergence
from posttrain.functional.ggml_super_blocks import SUPER_GRIDS
from posttrain.models import llama_cpp
from posttrain.models.gguf_file import read_gguf, tensors_in, write_gguf
from posttrain.models.gguf_types import BLENDS, NEED_DATA
from posttrain.models.llama_cpp import quantise
from posttrain.schema.errors import ModelError
from tests import gguf_models
from tests.agreement.test_llama_cpp import read_by_both

pytestmark = [
    pytest.mark.gguf,
    pytest.mark.slow,
    pytest.mark.skipif(not llama_cpp.installed(), reason="llama.cpp is not installed: `make test-gguf` compiles it"),
]
SIZES = {"hidden_size": 256, "intermediate_size": 512, "num_attention_heads": 8, "initializer_range": 0.03}
PARTS = ("gate", "up", "down")


def made(folder: Path, family: str = "llama", **changes: Any) -> tuple[Any, Any]:
    """A model in a folder whose rows are whole super-blocks, with its vocabulary; and its file in fp32, `exact.gguf`."""
    weights = gguf_models.model(family, vocab_size=720, **SIZES | changes)
    gguf_models.save(folder, weights, gguf_models.byte_level("qwen2"))
    vocab = read_vocab(folder, 720)
    write_gguf(folder / "exact.gguf", weights.state_dict(), weights.config, vocab, "f32")
    return weights, vocab


def worth(exact: Path) -> dict[str, np.ndarray]:
    """What the columns of the matrices of a file are worth, drawn: few are worth much."""
    draw = np.random.default_rng(0)
    shapes = {name: shape for name, (_, shape) in tensors_in(exact).items() if len(shape) > 1 and "blk" in name}
    return {name: draw.random((*shape[:-2], shape[-1])) ** 8 * 10 + 0.01 for name, shape in shapes.items()}


@pytest.mark.parametrize("kind", BLENDS)
def test_every_blend_is_read_as_llama_cpp_reads_it(tmp_path, kind):
    weights, _ = made(tmp_path)
    path = tmp_path / "m.gguf"
    quantise(tmp_path / "exact.gguf", path, kind, "q8_0", worth(tmp_path / "exact.gguf"))
    theirs, ours, dense = read_by_both(path, weights)
    lost = float(plain_divergence(ours, dense).mean())
    assert lost > 0
    assert float(plain_divergence(theirs, ours).mean()) < max(
        0.05 * lost, 1e-5
    )  # it rounds what goes into a product too
    assert tensors_in(path)["token_embd.weight"][0] == "q8_0"


@pytest.mark.parametrize("kind", ["q2_k", "q4_k_m", "iq3_s", "iq4_xs", "iq4_nl"])
def test_columns_that_matter_are_closer(tmp_path, kind):
    made(tmp_path)
    exact, matters = read_gguf(tmp_path / "exact.gguf"), worth(tmp_path / "exact.gguf")
    error = []
    for each in ({}, matters):
        quantise(tmp_path / "exact.gguf", tmp_path / "m.gguf", kind, "q8_0", each)
        found = read_gguf(tmp_path / "m.gguf")
        error.append(sum(float((matters[name] * (found[name] - exact[name]) ** 2).sum()) for name in matters))
    assert error[1] < 0.9 * error[0]


@pytest.mark.parametrize("kind", NEED_DATA)
def test_what_needs_rows_is_refused_without(tmp_path, kind):
    made(tmp_path)
    with pytest.raises(ModelError, match=rf"does not round this model to {kind} \(.*imatrix"):
        quantise(tmp_path / "exact.gguf", tmp_path / "m.gguf", kind, "q8_0", {})
    assert not (tmp_path / "m.gguf").exists()


@pytest.mark.parametrize("kind", SUPER_GRIDS)
@pytest.mark.parametrize("careful", [False, True])
def test_our_super_blocks_are_as_close_as_its_own(tmp_path, kind, careful, monkeypatch):
    weights, vocab = made(tmp_path)
    exact, matters = read_gguf(tmp_path / "exact.gguf"), worth(tmp_path / "exact.gguf")
    package = llama_cpp.package()
    options = package.llama_model_quantize_default_params()
    options.pure = True
    monkeypatch.setattr(package, "llama_model_quantize_default_params", lambda: options)
    blend: Any = {"q4_k": "q4_k_s", "q5_k": "q5_k_s", "q6_k": "q6_k"}[kind]
    quantise(tmp_path / "exact.gguf", tmp_path / "theirs.gguf", blend, "q8_0", matters if careful else {})
    names = {f"model.layers.{n}.mlp.{part}_proj.weight": f"blk.{n}.ffn_{part}.weight" for n in (0, 1) for part in PARTS}
    ours = {name: matters[place].astype(np.float32) for name, place in names.items()} if careful else {}
    write_gguf(tmp_path / "ours.gguf", weights.state_dict(), weights.config, vocab, kind, matters=ours)
    types = [Counter(each for each, _ in tensors_in(tmp_path / f"{who}.gguf").values()) for who in ("ours", "theirs")]
    assert types[0] == types[1]
    found = [read_gguf(tmp_path / f"{who}.gguf") for who in ("ours", "theirs")]
    errors = [
        sum(
            float(((matters[name] if careful else 1) * (each[name] - exact[name]) ** 2).sum())
            for name in names.values()
        )
        for each in found
    ]
    assert errors[0] < errors[1]
