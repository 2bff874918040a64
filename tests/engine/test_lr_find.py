"""The range test: on a bowl the answer is known, on the lab model the suggestion is a good rate."""

import json
import math
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from posttrain.cli import main
from posttrain.engine.job import Job
from posttrain.engine.loop import Steps, fit
from posttrain.engine.lr_find import ENOUGH, Curve, Rising, range_test
from posttrain.engine.method import stage_class
from posttrain.engine.source import FromRows
from posttrain.engine.store import Store
from posttrain.engine.watch import Patience
from posttrain.pipeline.rates import find_rate
from posttrain.schema.errors import DataError, UsageError
from posttrain.schema.settings import Rows

GROWS = 10 ** (1 / 10)  # ten rates a decade


def bowl(curvature: float, n: int = 120) -> Curve:
    """Plain descent on c w^2 / 2 from w = 1, at rates that grow from 1e-7, up to where it explodes."""
    curve, w = Curve(curvature / 2), 1.0
    for i in range(n):
        rate = 1e-7 * GROWS**i
        w -= rate * curvature * w
        curve.rates.append(rate)
        curve.losses.append(curvature * w**2 / 2)
        if curve.exploded:
            break
    return curve


@pytest.mark.parametrize("curvature", [0.3, 1.0, 40.0, 5000.0])
def test_on_a_bowl_the_answer_is_known(curvature: float):
    found = bowl(curvature)
    assert found.exploded
    assert found.rates[-1] > 2 / curvature, "it explodes beyond 2 / c and not before"
    by_hand = -math.log(1 - ENOUGH) * (GROWS - 1) / (2 * GROWS * curvature)
    assert found.suggested is not None
    assert 1 / GROWS < found.suggested / by_hand < GROWS, "within one rate of the test"
    assert found.suggested < 1 / curvature


def test_a_loss_that_never_falls_suggests_nothing():
    assert Curve(1.0, [0.1, 0.2], [1.0, 1.2]).suggested is None
    assert Curve(1.0, [0.1], [math.nan]).suggested is None
    assert Curve(1.0, [0.1], [math.nan]).exploded


def test_rates_rise_by_one_factor():
    rates = [Rising(5, 1.0, lowest=1e-4).rate(step) for step in range(5)]
    assert rates == pytest.approx([1e-4, 1e-3, 1e-2, 1e-1, 1])


def rows(folder: Path, name: str) -> tuple[Any, ...]:
    return (Store(folder / "store").dataset(Rows(path=name)),)


@pytest.mark.slow
def test_it_leaves_the_model_and_the_folder_as_they_were(tmp_path: Path):
    store = Store(tmp_path / "store")
    model, data = store.model("lab"), rows(tmp_path, "lab:style/train")
    before = sorted(path for path in tmp_path.rglob("*") if path.is_file())
    stage = stage_class("sft")(data="lab:style/train", batch_size=4)
    told: list[int] = []
    curve = range_test(stage, model, data, steps=6, watch=lambda step, rate, loss: told.append(step))
    assert told == list(range(1, len(curve.rates) + 1))
    assert sorted(path for path in tmp_path.rglob("*") if path.is_file()) == before
    again = range_test(stage, model, data, steps=6)
    assert again.losses == curve.losses


def test_too_few_rows_are_refused(tmp_path: Path):
    path = tmp_path / "rows.jsonl"
    path.write_text('{"prompt": "a", "completion": "b"}\n' * 3, encoding="utf-8")
    stage = stage_class("sft")(data=str(path))
    with pytest.raises(DataError, match="3 rows are too few"):
        range_test(stage, Store(tmp_path / "store").model("lab"), rows(tmp_path, str(path)), steps=2)


RECIPE = """\
name: two
model: lab
measure: [size]
stages:
  - sft: {data: lab:style/train, steps: 2}
  - dpo: {data: lab:pairs/train}
  - merge: {from: base}
"""


def test_a_stage_is_chosen_by_name(tmp_path: Path):
    text = RECIPE.replace("  - merge: {from: base}\n", "")
    with pytest.raises(UsageError, match=r"Several stages train: sft, dpo. Name one"):
        find_rate(text, out=tmp_path)
    with pytest.raises(UsageError, match=r"no stage 'stf' that trains. Did you mean 'sft'"):
        find_rate(text, stage="stf", out=tmp_path)
    with pytest.raises(UsageError, match=r"'dpo' reads what 'sft' makes.*--until sft"):
        find_rate(text, stage="dpo", out=tmp_path)
    with pytest.raises(UsageError, match="No stage of this recipe trains"):
        find_rate(
            "name: none\nmodel: lab\nmeasure: [size]\nstages: [few_shot: {data: lab:style/train}]\n", out=tmp_path
        )


@pytest.mark.slow
def test_the_command_answers_in_json_and_keeps_nothing(tmp_path: Path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    words = [
        "lr-find",
        "lab",
        "sft",
        "data=lab:style/train",
        "batch_size=4",
        "--steps",
        "12",
        "--from",
        "1e-6",
        "--json",
    ]
    assert main(words) == 0
    told = capsys.readouterr()
    answer = json.loads(told.out)
    assert answer["stage"] == "sft"
    assert 1e-6 < answer["suggested"] < 1
    assert answer["suggested"] in [point["rate"] for point in answer["curve"]]
    assert "learning_rate=" in told.err
    assert not list(tmp_path.glob("runs/store/*/posttrain.json")), "no artifact is made"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "Name a recipe and a stage, or a model and a method"),
        (["lab", "merge"], "'merge' is no method that trains"),
        (["quickstart", "sft", "--from", "2"], "Rates rise from 2 to 1 in 70 steps"),
        (["quickstart", "stf"], "Did you mean 'sft'?"),
    ],
)
def test_a_mistake_is_one_line_with_its_cure(words: list[str], message: str, tmp_path: Path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["lr-find", *words]) == 2
    assert message in capsys.readouterr().err


def test_its_help_needs_no_torch():
    code = (
        "import sys; from posttrain.cli import main\n"
        "try: main(['lr-find', '--help'])\nexcept SystemExit: pass\nassert 'torch' not in sys.modules"
    )
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    done = subprocess.run([sys.executable, "-c", code], check=False, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
def test_the_suggested_rate_is_as_good_as_half_of_a_grid_around_it(tmp_path: Path):
    """Three times and ten times as high and as low, trained for as many steps; judged on rows of another split."""
    store, n = Store(tmp_path / "store"), 50
    model, data, held_out = store.model("lab"), rows(tmp_path, "lab:chat/train"), rows(tmp_path, "lab:chat/dev")
    stage = stage_class("sft")(data="lab:chat/train", batch_size=16)
    suggested = range_test(stage, model, data, steps=n).suggested
    assert suggested is not None

    def loss(rate: float) -> float:
        models, planted = stage.begin(model, data, Job(tmp_path, tmp_path))
        aside = stage.begin(model, held_out, Job(tmp_path, tmp_path))[1].trees[:64]
        source = FromRows(planted.trees, 16, seed=1)
        fit(models, stage.make_objective(), source, Steps(n, rate, checkpoint_seconds=1e6), Job(tmp_path, tmp_path))
        return Patience(aside, stage.make_objective(), 1, 1).look(models)

    found = loss(suggested)
    around = [loss(suggested * times) for times in (0.1, 0.3, 3, 10)]
    assert sum(found <= other for other in around) >= 2, (found, around)
    assert found < 0.6 * max(around)
