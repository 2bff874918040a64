"""`posttrain export` as a user types it: from a stage of a run to a folder for another program, or one line with the cure."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from posttrain.cli import main
from posttrain.data.modelfile import read_modelfile
from posttrain.data.varied_texts import N_TEXTS
from posttrain.models import llama_cpp
from tests import gguf_models, tiny
from tests.faults.places import Done
from tests.faults.test_disk_full import Disk, disk

assert disk  # the fixture

RECIPE = """\
name: demo
model: ./base
measure: [size]
stages:
  - sft: {data: rows.jsonl, steps: 1, batch_size: 2}
  - few_shot: {data: rows.jsonl, k: 1}
  - sft: {name: lora, from: base, adapter: {lora: {rank: 2}}, data: rows.jsonl, steps: 2, batch_size: 2, learning_rate: 1e-2}
  - sft: {name: virtual, from: base, adapter: {prompt: {tokens: 2}}, data: rows.jsonl, steps: 1, batch_size: 2}
  - reward: {from: base, data: pairs.jsonl, steps: 1, batch_size: 2}
"""


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which a recipe was run."""
    folder = tmp_path_factory.mktemp("export")
    gguf_models.save(folder / "base", gguf_models.model("llama", vocab_size=720), gguf_models.byte_level("gpt-2"))
    rows = [{"prompt": f"{n} + 1?", "answer": f"{n + 1}"} for n in range(4)]
    pairs = [{"prompt": f"{n}?", "chosen": "yes", "rejected": "no"} for n in range(4)]
    for name, said in (("rows.jsonl", rows), ("pairs.jsonl", pairs)):
        (folder / name).write_text("".join(json.dumps(row) + "\n" for row in said))
    (folder / "r.yaml").write_text(RECIPE)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        assert main(["run", "r.yaml", "-q"]) == 0
    return folder


@pytest.fixture
def posttrain(ran: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., Done]:
    """Runs a command there, without llama.cpp; what it exported is gone afterwards."""
    monkeypatch.chdir(ran)
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.setattr(llama_cpp, "installed", lambda: False)

    def call(*words: str) -> Done:
        code = main(words)
        return Done(code, *capsys.readouterr())

    before = set(ran.iterdir())
    yield call
    for path in set(ran.iterdir()) - before:
        shutil.rmtree(path)


@pytest.mark.slow
def test_a_stage_for_ollama(posttrain, ran):
    done = posttrain("export", "few_shot", "--to", "ollama")
    assert done.code == 0, done.err
    assert done.out.splitlines()[0] == "few_shot-ollama  few_shot for ollama: Modelfile, README.md, model-Q8_0.gguf"
    assert (
        f"verified: tokenizer rules, read back  ({N_TEXTS} texts read alike, 6 chats written alike, 1 examples"
        in done.out
    )
    assert done.err.splitlines()[-1] == (
        "Next  ollama create few-shot -f few_shot-ollama/Modelfile   ollama run few-shot"
    )
    made = read_modelfile((ran / "few_shot-ollama" / "Modelfile").read_text(encoding="utf-8"))
    assert [message.role for message in made.messages] == ["user", "assistant"]
    page = (ran / "few_shot-ollama" / "README.md").read_text(encoding="utf-8")
    assert "# `few_shot`" in page and "## For ollama" in page and "ollama create few-shot -f FOLDER/Modelfile" in page
    again = posttrain("export", "few_shot", "--to", "ollama")
    assert again.code == 2
    assert "few_shot-ollama exists already. Name another folder with `--out FOLDER`" in again.err
    other = posttrain("export", "demo-1/few_shot", "--to", "llama.cpp", "--json", "--out", "other")
    told = json.loads(other.out)
    assert told["files"] == ["README.md", "model-Q8_0.gguf"]
    assert told["lost"][-1].startswith("1 examples that stand before every question")
    assert (ran / "other" / "model-Q8_0.gguf").read_bytes() == (
        ran / "few_shot-ollama" / "model-Q8_0.gguf"
    ).read_bytes()
    assert '"content": "QUESTION"' in (ran / "other" / "README.md").read_text(encoding="utf-8")


@pytest.mark.slow
def test_an_adapter_for_transformers_and_merged(posttrain, ran):
    done = posttrain("export", "lora", "--to", "transformers")
    assert done.code == 0, done.err
    said = json.loads((ran / "lora-transformers" / "adapter_config.json").read_text())
    assert said["base_model_name_or_path"] == str(ran / "base")
    assert "not carried over  its base: the adapter looks for it at" in done.out
    merged = posttrain("export", "lora", "--to", "vllm", "--out", "merged")
    assert merged.code == 0, merged.err
    assert "verified: transformers" in merged.out and "`--dtype float32`" in merged.out
    assert (ran / "merged" / "model.safetensors").is_file()
    assert not (ran / "merged" / "adapter_config.json").exists()


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["reward", "--to", "ollama"], "is a reward model, which scores answers and writes none"),
        (["virtual", "--to", "ollama"], "holds virtual tokens, which no weight can hold"),
        (["sfr", "--to", "ollama"], "No run in runs has a model 'sfr'. Did you mean 'sft'?"),
        (["./nothing", "--to", "ollama"], "There is no folder './nothing'"),
        (["sft", "--to", "olama"], "Models are not exported to 'olama'. Did you mean 'ollama'?"),
        (["sft", "--to", "vllm", "--type", "q8_0"], "`--type` is of GGUF files, and vllm gets none"),
        (["sft", "--to", "ollama", "--type", "q99"], "'q99' does not fit"),
        (["sft", "--to", "vllm", "--merge"], "is no adapter but dense"),
        (["sft", "--to", "vllm", "--out", "base"], "base exists already"),
        (["sft"], "the following arguments are required: --to"),
    ],
)
def test_a_mistake_is_one_line_and_leaves_nothing(words, told, posttrain, ran):
    before = sorted(ran.iterdir())
    done = posttrain("export", *words)
    assert (done.code, done.out) == (2, "")
    assert told in done.err and done.err.count("\n") == 1
    assert sorted(ran.iterdir()) == before


def test_what_differs_is_not_called_good(posttrain, ran, monkeypatch):
    from posttrain.engine import exporting
    from posttrain.schema.errors import ModelError

    def differs(*_: object) -> None:
        raise ModelError("its logits are 1.0 nats from the model's. Nothing was exported.")

    monkeypatch.setattr(exporting, "transformers_agrees", differs)
    before = sorted(ran.iterdir())
    done = posttrain("export", "sft", "--to", "transformers")
    assert done.code == 2 and "Nothing was exported" in done.err
    assert sorted(ran.iterdir()) == before


@pytest.mark.parametrize("program", ["transformers", "llama.cpp"])  # seen before the copy, and in the middle of it
def test_a_full_disk_leaves_nothing(program, posttrain, ran, disk: Disk):
    disk.limit("size=65536")
    done = posttrain("export", "sft", "--to", program, "--out", str(disk.folder / "out"))
    assert done.code == 4, done.err
    assert "The disk is full: the export needs" in done.err
    assert not list(disk.folder.iterdir())


@pytest.mark.gguf
@pytest.mark.slow
@pytest.mark.skipif(not llama_cpp.installed(), reason="llama.cpp is not installed: `make test-gguf` compiles it")
@pytest.mark.parametrize("kind", ["q8_0", "q4_0"])
def test_llama_cpp_computes_what_the_exported_file_says(kind, ran, monkeypatch, capsys):
    monkeypatch.chdir(ran)
    assert main(["export", "lora", "--to", "llama.cpp", "--type", kind, "--out", kind, "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["verified"]["verified"] == "llama.cpp"
    assert 0 < told["verified"]["kl"] < 1e-3
    assert tiny.CHAT in (ran / kind / f"model-{kind.upper()}.gguf").read_bytes().decode(errors="replace")
