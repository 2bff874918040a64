"""Training on one's own answers as a stage: a stopped run goes on to the same bytes, and what is left out is told."""

import json
from pathlib import Path

import pytest
from safetensors.torch import load_file

from posttrain.engine.job import Job
from posttrain.engine.store import Store
from posttrain.schema.errors import DataError, Stopped
from tests.methods.conftest import Workshop

WORDS = ("ja", "no", "si", "da", "oui", "hai", "yes", "tak")
PROMPTS = [{"prompt": f"say {word}", "answer": word} for word in WORDS]
RANKED = [{"prompt": f"rank {w}", "answers": [w[:4], w[:2]], "scores": [2.0, 1.0]} for w in ("abcd", "wxyz", "mnop")]
FAST = {"batch_size": 3, "answers": 2, "max_new_tokens": 4, "steps": 5, "learning_rate": 1e-3, "warmup": 0.0}
LETTERS = {"functions": ["tests.engine.test_online:letters"]}


def letters(output, row):
    """Something that differs from answer to answer."""
    return float(sum(output.encode()) % 11)


@pytest.fixture(scope="module")
def workshop(tmp_path_factory):
    folder = tmp_path_factory.mktemp("online")
    return Workshop(Store(folder / "store"), folder)


class Attempt:
    """A stage that is run in a folder, and asked to stop after some of its steps."""

    def __init__(self, workshop, method, inputs, **options):
        self.stage = workshop.stage(method, inputs["data"], **options)
        self.inputs, self.steps, self.told = inputs, [], []

    def run(self, place: Path, stop_after: int | None = None) -> None:
        self.steps.clear()
        (place / "made").mkdir(parents=True, exist_ok=True)
        (place / "scratch").mkdir(exist_ok=True)
        job = Job(place / "made", place / "scratch", 0, self._emit, lambda: len(self.steps) == stop_after)
        self.stage.run(job, **self.inputs)

    def _emit(self, kind, **fields):
        self.told.append((kind, fields))
        if kind == "progress":
            self.steps.append({name: value for name, value in fields.items() if name != "tokens_per_s"})


def recipes(workshop):
    model, prompts = workshop.model(), workshop.rows(*PROMPTS)
    told = {"steps": 2, "learning_rate": 1e-2, "batch_size": 2}
    plain = {"model": model, "data": prompts}

    def reward(**options):
        return {"reward.model": workshop.run("reward", model, workshop.rows(*RANKED), **told, **options)}

    mixed = {"mix.data": workshop.rows({"text": "Some words to keep in mind."}, {"text": "And some more."})}
    often = {"passes": 2, "minibatches": 2, "kl_target": 0.5, "kl_horizon": 20}
    return {
        "ppo": ({**plain, **reward(), **mixed}, {**often, "reward": {"model": "given"}, "mix": {"data": "given"}}),
        "ppo, one base": (
            {**plain, **reward(adapter="lora")},
            {**often, "reward": {"model": "given"}, "adapter": "lora"},
        ),
        "grpo": (plain, {**often, "reward": LETTERS, "minibatches": 1}),
        "rloo": (
            {**plain, "forget.on": workshop.rows({"text": "A text to be remembered."})},
            {"reward": LETTERS, "adapter": "lora", "forget": {"on": "given", "every": 2, "at_most": 1e-4}},
        ),
    }


@pytest.mark.slow
@pytest.mark.parametrize("stop_after", [1, pytest.param(4, marks=pytest.mark.slow)])
@pytest.mark.parametrize("name", ["ppo", "ppo, one base", "grpo", "rloo"])
def test_a_stopped_run_goes_on_to_the_same_bytes(workshop, name, stop_after, tmp_path):
    inputs, options = recipes(workshop)[name]
    attempt = Attempt(workshop, name.partition(",")[0], inputs, **FAST, **options)
    attempt.run(tmp_path / "whole")
    whole = list(attempt.steps)
    assert len(whole) == 5
    with pytest.raises(Stopped, match=f"after step {stop_after} of 5"):
        attempt.run(tmp_path / "parts", stop_after)
    before = list(attempt.steps)
    attempt.run(tmp_path / "parts")
    assert before + attempt.steps == whole
    file = "adapter_model.safetensors" if "adapter" in options else "model.safetensors"
    made, again = (tmp_path / place / "made" / file for place in ("whole", "parts"))
    assert made.read_bytes() == again.read_bytes()
    if "forget" in options:
        assert any(
            "back to the last good weights" in fields["title"] for kind, fields in attempt.told if kind == "alert"
        )
    if "kl_target" in options:  # what a checkpoint holds of the price matters
        assert len({step["kl_coefficient"] for step in whole}) > 1


def test_no_step_is_like_another(workshop, tmp_path):
    """So that the bytes above say something: what is drawn and learnt differs, and weights move."""
    inputs, options = recipes(workshop)["grpo"]
    attempt = Attempt(workshop, "grpo", inputs, **FAST, **options)
    attempt.run(tmp_path)
    assert len({step["loss"] for step in attempt.steps}) == 5
    before, after = (load_file(folder / "model.safetensors") for folder in (inputs["model"].path, tmp_path / "made"))
    assert all(not before[name].equal(after[name]) for name in before if "mlp" in name)


def test_prompts_without_room_are_told(workshop):
    made = workshop.run(
        "grpo", workshop.model(), workshop.rows(*PROMPTS, {"prompt": "say " * 40, "answer": "ja"}), reward=LETTERS,
        max_length=60, **FAST,
    )  # fmt: skip
    assert (made.facts["rows"], made.facts["rows_dropped"]) == (8, 1)
    assert json.dumps(made.facts["data"])
    with pytest.raises(DataError, match="None of the 8 prompts leaves room for an answer within 5 tokens"):
        workshop.run("grpo", workshop.model(), workshop.rows(*PROMPTS), reward=LETTERS, max_length=5, **FAST)


def test_the_log_says_what_looks_wrong(workshop, tmp_path):
    """Answers of a few tokens of a random model hardly ever end by themselves."""
    inputs, _ = recipes(workshop)["grpo"]
    attempt = Attempt(workshop, "rloo", inputs, **{**FAST, "steps": 9, "learning_rate": 1e-6}, reward=LETTERS)
    attempt.run(tmp_path)
    alerts = [fields for kind, fields in attempt.told if kind == "alert"]
    assert [alert["title"].partition(":")[0] for alert in alerts if "end by themselves" in alert["title"]] == ["step 8"]
    assert all(alert["cure"] for alert in alerts)
