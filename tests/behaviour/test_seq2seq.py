"""An encoder-decoder goes the way of every model: trained from nothing to a task, adapted, preferred, measured, shipped."""

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers as hf
from peft import PeftModel

import posttrain as pt
from posttrain.schema.artifacts import Model
from posttrain.schema.errors import ModelError
from tests import tiny
from tests.behaviour.seeds import SEEDS

pytestmark = pytest.mark.slow


def words() -> list[str]:
    """Words of two to four letters, every one once."""
    draw = random.Random(0)
    found = {"".join(draw.choice("abcdefgh") for _ in range(draw.randint(2, 4))) for _ in range(4000)}
    return random.Random(1).sample(sorted(found), len(found))


TRAIN, TEST = words()[:-200], words()[-200:]


class Place:
    """A folder with rows and a T5 of random weights in it."""

    def __init__(self, folder: Path):
        self.folder, self.out = folder, folder / "runs"

    def rows(self, name: str, row: Callable[[str], dict[str, str]], chosen: list[str]) -> str:
        path = self.folder / f"{name}.jsonl"
        path.write_text("".join(json.dumps(row(word)) + "\n" for word in chosen), encoding="utf-8")
        return str(path)

    def task(self, name: str, rule: Callable[[str], str]) -> tuple[str, str]:
        """(rows to train on, rows of other words)"""
        both = [("train", TRAIN), ("test", TEST)]
        row = lambda word: {"prompt": word, "completion": rule(word)}  # noqa: E731
        train, test = (self.rows(f"{name}-{part}", row, chosen) for part, chosen in both)
        return train, test

    def base(self) -> str:
        folder = self.folder / "t5"
        if not folder.exists():
            torch.manual_seed(0)
            sizes: dict[str, Any] = {"d_model": 64, "d_kv": 16, "d_ff": 128, "num_layers": 2, "num_heads": 4}
            config = hf.T5Config(vocab_size=tiny.VOCABULARY, decoder_start_token_id=0, **sizes)
            hf.T5ForConditionalGeneration(config).save_pretrained(folder)
            tiny.encoder_tokenizer().save_pretrained(folder)
        return str(folder)

    def exact(self, model: Model | str, test: str) -> float:
        found = pt.measure(model, [pt.Benchmark(data=test, max_new_tokens=8)], out=self.out)
        return found["benchmark"].metrics["exact_match"].value

    def train(self, model: Model | str, method: Any, data: str, **options: Any) -> Model:
        return pt.train(model, method, data, batch_size=64, warmup=0.05, out=self.out, **options)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Place:
    return Place(tmp_path_factory.mktemp("seq2seq"))


@pytest.fixture(scope="module")
def backwards(place: Place) -> tuple[str, str]:
    return place.task("backwards", lambda word: word[::-1])


@pytest.fixture(scope="module")
def tuned(place: Place, backwards: tuple[str, str]) -> Model:
    return place.train(place.base(), pt.SFT(), backwards[0], steps=350, learning_rate=3e-3)


def test_a_t5_learns_to_write_words_backwards(place: Place, backwards: tuple[str, str], tuned: Model) -> None:
    train, test = backwards
    others = [
        place.train(place.base(), pt.SFT(), train, steps=350, learning_rate=3e-3, seed=seed) for seed in SEEDS[1:]
    ]
    assert place.exact(place.base(), test) < 0.05
    assert min(place.exact(model, test) for model in (tuned, *others)) > 0.9


def test_plain_transformers_writes_the_same_answers(place: Place, backwards: tuple[str, str], tuned: Model) -> None:
    plain = hf.AutoModelForSeq2SeqLM.from_pretrained(tuned.path)
    tokenizer = hf.AutoTokenizer.from_pretrained(tuned.path)
    found = pt.measure(tuned, [pt.Benchmark(data=backwards[1], max_new_tokens=8)], out=place.out)["benchmark"]
    for sample in found.samples[:50]:
        written = plain.generate(**tokenizer(sample.prompt, return_tensors="pt"))[0]
        assert tokenizer.decode(written, skip_special_tokens=True) == sample.output


@pytest.mark.parametrize(
    ("adapter", "rate", "steps"), [({"lora": {"rank": 8}}, 3e-3, 150), ({"ia3": {}}, 3e-2, 300)], ids=["lora", "ia3"]
)
def test_adapters_learn_and_load_in_plain_peft(
    place: Place, tuned: Model, adapter: dict[str, Any], rate: float, steps: int
) -> None:
    train, test = place.task("shouted", lambda word: word[::-1] + "!")
    before = place.exact(tuned, test)
    adapted = place.train(tuned, pt.SFT(), train, steps=steps, learning_rate=rate, adapter=adapter)
    assert adapted.form == "adapter"
    assert adapted.facts["trained_share"] < 0.2
    assert before < 0.05
    assert place.exact(adapted, test) > 0.9
    merged = _merged(place, tuned, {"data": train, "steps": steps, "learning_rate": rate, "adapter": adapter})
    base = hf.AutoModelForSeq2SeqLM.from_pretrained(tuned.path)
    plain = PeftModel.from_pretrained(base, str(adapted.path)).eval()
    assert plain.peft_config["default"].task_type == "SEQ_2_SEQ_LM"
    tokenizer = hf.AutoTokenizer.from_pretrained(adapted.path)
    asked, labels = tokenizer(TEST[0], return_tensors="pt"), tokenizer("abc!", return_tensors="pt").input_ids
    with torch.no_grad():
        theirs = plain(**asked, labels=labels).logits.log_softmax(-1)[0]
        ours = _logps(adapted, asked.input_ids[0].tolist(), labels[0].tolist())
        assert (ours - theirs.gather(1, labels[0][:, None])[:, 0]).abs().max() < 1e-5
        alone = hf.AutoModelForSeq2SeqLM.from_pretrained(merged.path)
        assert (alone(**asked, labels=labels).logits.log_softmax(-1)[0] - theirs).abs().max() < 1e-4


def _merged(place: Place, base: Model, sft: dict[str, Any]) -> Model:
    stages = [{"sft": {**sft, "batch_size": 64, "warmup": 0.05}}, "merge"]
    return pt.run({"name": "merged", "model": str(base.path), "stages": stages}, out=place.out).models["merge"]


def _logps(model: Model, question: list[int], answer: list[int]) -> torch.Tensor:
    from posttrain.data.batch import Batch
    from posttrain.functional.layout import Branch, Tree
    from posttrain.models.load import load_policy

    branch = Branch(tuple(answer), (True,) * len(answer))
    return load_policy(model).logps(Batch((Tree(tuple(question), (branch,)),)))


def test_preferences_are_learnt_with_the_reference_of_an_adapter(place: Place, tuned: Model) -> None:
    def pair(word: str) -> dict[str, str]:
        return {"prompt": word, "chosen": word, "rejected": word[::-1]}

    unlike = [word for word in TRAIN + TEST if word != word[::-1]]
    train, test = place.rows("pairs", pair, unlike[:-200]), place.rows("pairs-test", pair, unlike[-200:])
    preferred = place.train(tuned, pt.DPO(), train, steps=60, learning_rate=1e-3, adapter="lora")
    accuracy = [
        pt.measure(model, [pt.PreferenceAccuracy(data=test)], out=place.out)["preference_accuracy"]
        .metrics["accuracy"]
        .value
        for model in (tuned, preferred)
    ]
    assert accuracy[0] < 0.05
    assert accuracy[1] > 0.9


def test_whatever_measures_a_model_measures_this_one(place: Place, backwards: tuple[str, str], tuned: Model) -> None:
    found = pt.measure(tuned, [pt.Speed(prompts=2, prompt_tokens=8, new_tokens=4, passes=1), "size"], out=place.out)
    assert found["speed"].metrics["write"].value > 0
    plain = hf.AutoModelForSeq2SeqLM.from_pretrained(tuned.path)
    assert found["size"].metrics["weights"].value == plain.num_parameters()
    with pytest.raises(ModelError, match=r"gives no probability to a text by itself.*sft"):
        pt.measure(tuned, [pt.Perplexity(data=place.rows("text", lambda word: {"text": word}, TEST))], out=place.out)


def test_sampled_rows_teach_another_model(place: Place, backwards: tuple[str, str], tuned: Model) -> None:
    run = pt.run(
        {
            "name": "taught",
            "model": str(tuned.path),
            "stages": [
                {"sample": {"data": {"path": backwards[1]}, "sampling": {"temperature": 0.3, "max_new_tokens": 8}}},
                {"sft": {"data": "sample", "steps": 2}},
            ],
        },
        out=place.out,
    )
    assert run.models["sft"].facts["rows"] == len(TEST)
