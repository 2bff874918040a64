"""The transform `gguf`: files of every type, what stands beside them, and when none is called good."""

import errno
import shutil
import sys
from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from posttrain.data.program import PromptProgram
from posttrain.engine import gguf_folder as method
from posttrain.engine.store import Store
from posttrain.models import llama_cpp
from posttrain.models.gguf_file import gguf_weights
from posttrain.schema.artifacts import Model
from posttrain.schema.errors import DiskFull, MissingExtra, ModelError
from tests import gguf_models, tiny


@pytest.fixture(autouse=True)
def no_llama_cpp(monkeypatch):
    """What is tested here must not hang on whether llama.cpp is installed."""
    monkeypatch.setattr(llama_cpp, "installed", lambda: False)


def model_in(workshop: Any, family: str = "llama", **changes: Any) -> Model:
    folder = workshop.folder / f"{family}-{len(changes)}"
    weights = gguf_models.model(family, vocab_size=720, **changes)
    return workshop.store.model(str(gguf_models.save(folder, weights, gguf_models.byte_level("qwen2"))))


def test_the_lab_model_in_every_way(workshop):
    made = workshop.run("gguf", workshop.store.model("lab"), types=["f32", "q8_0", "q4_0"])
    files = made.facts["files"]
    assert (made.form, made.facts["architecture"]) == ("gguf", "llama")
    assert sorted(files) == ["model-F32.gguf", "model-Q4_0.gguf", "model-Q8_0.gguf"]
    sizes = [files[f"model-{kind}.gguf"]["bytes"] for kind in ("F32", "Q8_0", "Q4_0")]
    assert sizes == sorted(sizes, reverse=True)
    assert sizes[2] < 0.2 * sizes[0]
    told = made.facts["tokenizer"]
    assert (told["model"], told["pre"], told["differ"], told["by"]) == ("gpt2", "qwen2", 0, "rules")
    apart = made.facts["difference"]
    assert apart["f32"] == {"kl": 0.0, "top_1": 1.0, "logits_largest": 0.0, "logits_mean": 0.0}
    assert 0 < apart["q8_0"]["kl"] < 1e-3 < apart["q4_0"]["kl"] < 0.1
    assert made.facts["verified"] == "tokenizer rules, read back"


def test_all_that_our_own_loader_needs_stands_beside(workshop):
    model = model_in(workshop)
    shown = workshop.run("few_shot", model, workshop.rows({"prompt": "a", "answer": "b"}), k=1)
    made = workshop.run("gguf", shown, types=["q8_0"])
    names = {"config.json", "tokenizer.json", "chat_template.jinja", "generation_config.json", "prompt_program.json"}
    assert names - {"prompt_program.json"} <= made.files.keys()
    assert PromptProgram.load(made.path) == PromptProgram.load(shown.path) is not None
    assert not [name for name in made.files if name.endswith(".safetensors")]
    config = AutoConfig.from_pretrained(made.path)
    weights = AutoModelForCausalLM.from_config(config)
    assert not weights.load_state_dict(gguf_weights(made.path, config), strict=False).unexpected_keys


def test_rows_of_no_whole_blocks_fall_back_and_it_is_told(workshop):
    notes: list[str] = []
    model = model_in(workshop, intermediate_size=48)
    made = told(workshop, notes, model, types=["q4_0"])
    assert made.facts["files"]["model-Q4_0.gguf"]["fell_back"] == {f"blk.{n}.ffn_down.weight": "f16" for n in (0, 1)}
    assert "q4_0: rows of no whole blocks become f16: blk.*.ffn_down.weight (2)" in notes
    assert any("posttrain[llama]" in note for note in notes)


def told(workshop: Any, notes: list[str], model: Model, **options: Any) -> Any:
    """The same as a run of the workshop, with what it notes."""
    from posttrain.engine.job import Job

    folder, scratch = workshop.folder / "made", workshop.folder / "scratch"
    folder.mkdir()
    scratch.mkdir()
    job = Job(folder, scratch, emit=lambda kind, **said: notes.append(said["text"]))
    return workshop.stage("gguf", **options).run(job, model=model)


def test_embeddings_have_a_type_of_their_own(workshop):
    model = model_in(workshop)
    usual, half, four = (
        workshop.run("gguf", model, types=["q4_0"], **option).bytes
        for option in ({}, {"embedding": "f16"}, {"embedding": "q4_0"})
    )
    assert four < usual < half


def test_a_model_of_another_kind_is_refused_before_anything_is_written(workshop):
    model = workshop.model(family="gpt_neox")
    with pytest.raises(ModelError, match=r"gpt_neox model cannot be written here"):
        workshop.run("gguf", model)
    with pytest.raises(ValueError, match=r"a type stands there twice"):
        workshop.stage("gguf", types=["q4_0", "q4_0"])
    assert workshop.stage("gguf").accepts == {"dense"}
    assert workshop.stage("gguf").makes_form("dense") == "gguf"


def test_a_file_that_reads_back_as_another_model_is_not_kept(workshop, monkeypatch):
    real = method.weights_of

    def wrong(*arguments: Any) -> dict[str, torch.Tensor]:
        return {name: tensor.roll(1, 0) for name, tensor in real(*arguments).items()}

    monkeypatch.setattr(method, "weights_of", wrong)
    with pytest.raises(ModelError, match=r"model-Q8_0.gguf read back is .* nats from the model.*not called good"):
        workshop.run("gguf", model_in(workshop))
    assert not list(workshop.store.root.glob("gguf-*"))


def test_a_full_disk_is_put_into_the_projects_words(workshop, monkeypatch):
    """numpy's own error has no number that says why."""
    from gguf import GGUFWriter

    def full(*_: Any) -> None:
        raise OSError("4096 requested and 512 written")

    monkeypatch.setattr(GGUFWriter, "write_tensor_data", full)
    with pytest.raises(DiskFull, match=r"The disk is full: `gguf` needs") as caught:
        workshop.run("gguf", model_in(workshop))
    assert isinstance(caught.value.__cause__, OSError) and caught.value.__cause__.errno == errno.ENOSPC
    assert not list(Store(workshop.store.root).root.glob("gguf-*"))


def test_without_the_package_it_is_named(workshop, monkeypatch):
    monkeypatch.setitem(sys.modules, "gguf", None)
    with pytest.raises(MissingExtra, match=r"pip install 'posttrain\[gguf\]'"):
        workshop.run("gguf", model_in(workshop))


def test_whether_llama_cpp_is_asked(workshop, monkeypatch):
    with pytest.raises(MissingExtra, match=r"`compare: always` needs the package 'llama_cpp'.*posttrain\[llama\]"):
        workshop.run("gguf", model_in(workshop), compare="always")
    monkeypatch.setattr(llama_cpp, "installed", lambda: True)
    monkeypatch.setattr(llama_cpp, "compare", lambda *_: pytest.fail("it was asked"))
    made = workshop.run("gguf", model_in(workshop), compare="never")
    assert made.facts["verified"] == "tokenizer rules, read back"


def test_a_tokenizer_that_transformers_replaces_is_told(workshop, monkeypatch):
    """For some architectures it puts its own tokenizer in the place of the file's."""
    notes: list[str] = []
    told(workshop, notes, model_in(workshop))
    assert not [note for note in notes if "transformers reads" in note]
    monkeypatch.setattr(method, "load_tokenizer", lambda _: tiny.tokenizer())
    for folder in ("made", "scratch"):
        shutil.rmtree(workshop.folder / folder)
    told(workshop, notes, model_in(workshop))
    assert [
        note for note in notes if note.startswith("transformers reads 5") and "The files follow tokenizer.json" in note
    ]


def test_what_llama_cpp_finds_decides(workshop, monkeypatch):
    monkeypatch.setattr(llama_cpp, "installed", lambda: True)
    monkeypatch.setattr(llama_cpp, "compare", lambda *_: {"texts": 560, "logits_largest": 1e-6})
    made = workshop.run("gguf", model_in(workshop))
    assert (made.facts["verified"], made.facts["parity"]["texts"]) == ("llama.cpp", 560)

    def disagrees(path: Any, *_: Any) -> None:
        raise llama_cpp._bad(path, "it writes another text")

    monkeypatch.setattr(llama_cpp, "compare", disagrees)
    with pytest.raises(ModelError, match=r"do not agree on exact.gguf: it writes another text.*not called good"):
        workshop.run("gguf", model_in(workshop), types=["f32"])
