"""Exporting: which model goes where, a folder that is whole or absent, and what is never called good."""

import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from posttrain.data.program import Example, PromptProgram
from posttrain.data.varied_texts import N_TEXTS
from posttrain.engine.exporting import export_file, export_folder, steps_to
from posttrain.engine.files import whole_folder
from posttrain.engine.for_llama_cpp import file_agrees
from posttrain.engine.parity import transformers_agrees
from posttrain.engine.store import Store
from posttrain.models import llama_cpp
from posttrain.models.gguf_file import write_gguf
from posttrain.schema.artifacts import Model
from posttrain.schema.errors import ModelError, UsageError
from tests import gguf_models, tiny

SIZE = 720


@pytest.fixture(autouse=True)
def no_llama_cpp(monkeypatch: pytest.MonkeyPatch):
    """What is tested here must not hang on whether llama.cpp is installed."""
    monkeypatch.setattr(llama_cpp, "installed", lambda: False)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")


def dense(store: Store, folder: Path, family: str = "llama", template: str = tiny.CHAT, **changes: Any) -> Model:
    gguf_models.save(folder, gguf_models.model(family, vocab_size=SIZE, **changes), gguf_models.byte_level("gpt-2"))
    (folder / "chat_template.jinja").write_text(template, encoding="utf-8")
    return store.model(str(folder))


def files(store: Store, folder: Path, template: str = tiny.CHAT) -> Model:
    """The same as a folder with a GGUF file alone."""
    from posttrain.engine.for_llama_cpp import vocab_of
    from posttrain.models.load import load_weights

    model = dense(store, folder, template=template)
    weights: Any = load_weights(model)
    for kind in ("q8_0", "q4_0"):
        place = folder / f"model-{kind.upper()}.gguf"
        write_gguf(place, weights.state_dict(), weights.config, vocab_of(model, SIZE), kind)
    (folder / "model.safetensors").unlink()
    return store.model(str(folder))


def model_of(form: str, path: Path = Path("x")) -> Model:
    return Model(path, "0", form=form)


def test_the_way_of_every_form():
    assert steps_to("ollama", model_of("dense"), False) == ("gguf",)
    assert steps_to("llama.cpp", model_of("gguf"), False) == ()
    assert steps_to("vllm", model_of("compressed-tensors"), False) == ()
    for target, form, why in (
        ("ollama", "reward", "is a reward model, which scores answers"),
        ("vllm", "gguf", "gguf weights, which are not exported to vllm"),
        ("ollama", "compressed-tensors", "would be rounded twice"),
        ("transformers", "awq", "Export a model of the form dense or adapter or compressed-tensors"),
    ):
        with pytest.raises(ModelError, match=why):
            steps_to(target, model_of(form), False)  # type: ignore[arg-type]
    with pytest.raises(ModelError, match=r"is no adapter but dense.*Leave `--merge` out"):
        steps_to("transformers", model_of("dense"), True)


def test_a_folder_is_whole_or_absent(tmp_path):
    place = tmp_path / "deep" / "out"
    with pytest.raises(RuntimeError), whole_folder(place, "it") as folder:
        (folder / "half").write_text("x")
        raise RuntimeError
    assert list((tmp_path / "deep").iterdir()) == []
    dead = tmp_path / "deep" / ".out.4194305"  # above the largest number that Linux gives a process
    dead.mkdir()
    with whole_folder(place, "it") as folder:
        (folder / "all").write_text("x")
        assert not place.exists() and not dead.exists()
    assert [path.name for path in place.iterdir()] == ["all"]
    with (
        pytest.raises(UsageError, match=r"out exists already. Name another folder with `--out FOLDER`"),
        whole_folder(place, "it"),
    ):
        pytest.fail("it was written over")
    empty = tmp_path / "empty"
    empty.mkdir()
    with whole_folder(empty, "it") as folder:
        (folder / "all").write_text("x")
    assert (empty / "all").is_file() and not list(tmp_path.glob(f".*.{os.getpid()}"))


@pytest.mark.slow
def test_transformers_by_itself_agrees(store, tmp_path):
    model = dense(store, tmp_path / "model")
    (tmp_path / "out").mkdir()
    found = export_folder(model, "vllm", tmp_path / "out", "tiny")
    assert found.verified["verified"] == "transformers"
    assert (found.verified["texts"], found.verified["chats"]) == (N_TEXTS, 6)
    assert found.verified["kl"] < 1e-9
    assert found.commands == ("vllm serve FOLDER --served-model-name tiny",)
    said = json.loads((tmp_path / "out" / "generation_config.json").read_text())
    assert said["eos_token_id"] == [0, 2], "the end of the sequence and that of a turn"
    with torch.no_grad():  # another program reads the copy, so a copy that is damaged is seen
        broken = gguf_models.model("llama", vocab_size=SIZE, seed=1)
        broken.save_pretrained(tmp_path / "out")
    with pytest.raises(ModelError, match=r"its logits are .* nats from the model's.*Nothing was exported"):
        transformers_agrees(model, tmp_path / "out")


@pytest.mark.slow
def test_a_tokenizer_that_transformers_replaces_is_refused(store, tmp_path):
    """It is one of Qwen 2 beside a configuration of Qwen 2, whatever tokenizer.json says."""
    model = dense(store, tmp_path / "model", "qwen2")
    with pytest.raises(
        ModelError, match=rf"reads \d+ of {N_TEXTS} texts otherwise than tokenizer.json.*for qwen2 models"
    ):
        transformers_agrees(model, Path(model.path))
    with pytest.raises(ModelError, match=rf"which the model learnt with, reads \d+ of {N_TEXTS} texts otherwise"):
        file_agrees(model, Path("never read"))


def test_a_file_and_its_modelfile(store, tmp_path):
    model = files(store, tmp_path / "model")
    PromptProgram(examples=(Example("red ->", "rako"), Example("blue ->", "timi")), k=1).save(Path(model.path))
    found = export_file(model, "ollama", tmp_path, "tiny")
    assert found.verified | {"notes": 0} == {
        "texts": N_TEXTS, "verified": "tokenizer rules, read back", "chats": 6, "examples": 1, "notes": 0,
    }  # fmt: skip
    said = (tmp_path / "Modelfile").read_text(encoding="utf-8")
    assert said.splitlines()[0] == "FROM ./model-Q4_0.gguf", "the smallest"
    assert 'MESSAGE user """red ->"""\nMESSAGE assistant """rako"""\n' in said and "blue" not in said
    assert 'PARAMETER stop """<|end|>"""' in said and 'PARAMETER temperature """0"""' in said
    assert (tmp_path / "model-Q4_0.gguf").read_bytes() == (Path(model.path) / "model-Q4_0.gguf").read_bytes()
    export_file(model, "llama.cpp", tmp_path, "tiny", "q8_0")
    assert (tmp_path / "model-Q8_0.gguf").is_file()
    with pytest.raises(UsageError, match=r"no file of the type 'q5_1'. There are: q4_0, q8_0"):
        export_file(model, "llama.cpp", tmp_path, "tiny", "q5_1")


def test_how_it_is_drawn_is_carried_over(store, tmp_path):
    model = files(store, tmp_path / "model")
    said = {"do_sample": True, "temperature": 0.6, "top_p": 0.9, "repetition_penalty": 1.05, "eos_token_id": [2]}
    (Path(model.path) / "generation_config.json").write_text(json.dumps(said))
    export_file(model, "ollama", tmp_path, "tiny")
    lines = (tmp_path / "Modelfile").read_text(encoding="utf-8").splitlines()
    drawn = {line.split()[1]: line.split()[2].strip('"') for line in lines if line.startswith("PARAMETER")}
    assert {name: float(drawn[name]) for name in ("temperature", "top_p", "top_k", "min_p", "repeat_penalty")} == {
        "temperature": 0.6, "top_p": 0.9, "top_k": 50, "min_p": 0, "repeat_penalty": 1.05,
    }  # fmt: skip
    assert drawn["num_ctx"] == "512"


def test_lines_of_plain_text_are_asked_in_lines(store, tmp_path):
    model = files(store, tmp_path / "model")
    PromptProgram("plain", (Example("red ->", "rako"),), k=1).save(Path(model.path))
    found = export_file(model, "ollama", tmp_path, "tiny")
    said = (tmp_path / "Modelfile").read_text(encoding="utf-8")
    assert 'PARAMETER stop """\n"""' in said and "<|user|>" not in said
    assert found.lost[-1].startswith("a chat: the model is asked in lines of plain text")


def test_examples_by_task_are_lost_and_it_is_told(store, tmp_path):
    model = files(store, tmp_path / "model")
    examples = (Example("a", "b", "one"), Example("c", "d", "two"))
    PromptProgram(examples=examples, k=1, by_task=True).save(Path(model.path))
    found = export_file(model, "ollama", tmp_path, "tiny")
    assert "MESSAGE" not in (tmp_path / "Modelfile").read_text(encoding="utf-8")
    assert found.lost[-1].startswith("examples: they are chosen by the task")


def test_a_template_that_go_cannot_write_is_refused(store, tmp_path):
    numbered = "{% for m in messages %}{{ loop.index }}{{ m.content }}<|end|>{% endfor %}"
    model = files(store, tmp_path / "model", numbered)
    with pytest.raises(ModelError, match=r"cannot be carried over to Ollama.*Export it to llama.cpp"):
        export_file(model, "ollama", tmp_path, "tiny")
    assert export_file(model, "llama.cpp", tmp_path, "tiny").commands[0].startswith("llama-server -m FOLDER/")


def test_a_file_of_another_tokenizer_is_refused(store, tmp_path):
    model, other = files(store, tmp_path / "model"), tmp_path / "other"
    shutil.copytree(model.path, other)
    (other / "chat_template.jinja").write_text("{{ messages[0].content }}")
    with pytest.raises(ModelError, match=r"made of another tokenizer.*its tokenizer.chat_template is not"):
        file_agrees(store.model(str(other)), other / "model-Q8_0.gguf")


def test_an_adapter_on_four_bits_has_to_be_merged(store, tmp_path):
    dense(store, tmp_path / "base")
    folder = tmp_path / "adapter"
    shutil.copytree(tmp_path / "base", folder)
    (folder / "base_quantization.json").write_text("{}")
    (folder / "adapter_config.json").write_text("{}")
    model = Model(folder, "0", form="adapter", base=str(tmp_path / "base"))
    (tmp_path / "out").mkdir()
    with pytest.raises(ModelError, match=r"a base in four bits.*Write `--merge`"):
        export_folder(model, "transformers", tmp_path / "out", "x")
