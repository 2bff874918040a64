"""Speed is tokens by the second, between its slowest and quickest pass, in the engine of the model's form."""

import pytest

from posttrain.models import llama_cpp

SMALL = {"prompts": 2, "prompt_tokens": 16, "new_tokens": 4}


@pytest.mark.slow
def test_rates_lie_between_their_bounds(workshop):
    found = workshop.findings("speed", workshop.model(), **SMALL)
    for metric in (found.metrics["read"], found.metrics["write"]):
        assert 0 < metric.low <= metric.value <= metric.high
        assert (metric.unit, metric.n) == ("tokens/s", 3)
    assert found.metrics["read"].value > found.metrics["write"].value
    assert (found.notes["engine"], found.notes["device"], found.notes["at_once"]) == ("transformers", "cpu", 2)


@pytest.mark.slow
def test_memory_is_that_of_the_model(workshop):
    """Of 60 MB of weights, and not of all that is imported, which is half a gigabyte."""
    from tests import tiny

    folder = workshop.folder / "large"
    tiny.model("llama", hidden_size=512, intermediate_size=4096, vocab_size=2000).save_pretrained(folder)
    tiny.tokenizer().save_pretrained(folder)
    model = workshop.store.model(str(folder))
    weights = (folder / "model.safetensors").stat().st_size
    assert 5e7 < weights < 8e7
    memory = workshop.findings("speed", model, **SMALL).metrics["memory"]
    assert (memory.unit, memory.better) == ("bytes", "lower")
    assert 0.9 * weights < memory.value < 3.5 * weights


@pytest.mark.gguf
@pytest.mark.slow
@pytest.mark.skipif(not llama_cpp.installed(), reason="llama.cpp is not installed: `make test-gguf` compiles it")
def test_a_file_is_timed_in_llama_cpp(workshop):
    lab = workshop.store.model("lab")
    made = workshop.run("gguf", lab, types=["q4_0"], compare="never")
    dense, file = (workshop.findings("speed", model, **SMALL) for model in (lab, made))
    assert (file.notes["engine"], file.notes["at_once"]) == ("llama.cpp", 1)
    assert file.metrics["memory"].value < dense.metrics["memory"].value
