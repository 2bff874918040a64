"""Every method of preference alignment makes the lab's model more pleasant than its fine-tuned start, and hardly dumber: the
stages of the shipped recipes, all from one start, on test splits that nobody tuned on.

The start is the model of seed 0: the likeliest style of a fine-tuned model is an accident of its seed, and where it is the
pleasant one already there is little left to win. Seeds draw the reward model, the order of rows and all answers.
"""

from pathlib import Path

import pytest
import yaml

import posttrain as pt
from posttrain import recipes
from posttrain.report.compare import compare
from posttrain.schema.record import RunRecord
from tests.behaviour.seeds import SEEDS, at_least

pytestmark = pytest.mark.slow
DIRECT = ("ipo", "kto", "orpo", "simpo", "cpo")
ONLINE = {"ppo": 0.70, "grpo": 0.70, "rloo": 0.60}  # the wins that each must reach


def stage_of(method: str) -> dict[str, object]:
    """A method's stage as its recipe has it, from the recipe's own model, which is fine-tuned already."""
    recipe = yaml.safe_load(recipes.locate(method).read_text(encoding="utf-8"))
    ((found, options),) = next(stage for stage in recipe["stages"] if method in stage).items()
    return {found: {**options, "from": "base"}}


@pytest.fixture(scope="module")
def records(tmp_path_factory: pytest.TempPathFactory) -> list[RunRecord]:
    out: Path = tmp_path_factory.mktemp("runs")
    recipe = yaml.safe_load(recipes.locate("ppo").read_text(encoding="utf-8"))
    tuning, rewarding = recipe["stages"][:2]
    recipe["measure"] = [measure for measure in recipe["measure"] if "drift" not in measure]
    start = pt.run({**recipe, "name": "start", "seed": 0, "stages": [tuning]}, out=out).models["sft"]
    recipe |= {"name": "alignment", "model": str(start.path), "stages": [rewarding, *map(stage_of, (*ONLINE, *DIRECT))]}
    return [pt.run({**recipe, "seed": seed}, out=out).record for seed in SEEDS]


def wins(records: list[RunRecord], method: str) -> list[float]:
    """How often each seed's aligned model beats its start on style, ties half."""
    found = (compare(record.model("base"), record.model(method)) for record in records)
    return [next(c.wins.value for c in each.contrasts if c.measure == "style") for each in found]


def gained(records: list[RunRecord], method: str) -> list[float]:
    """What each seed's exact match on clean tasks gained; a loss is negative."""

    def exact(record: RunRecord, model: str) -> float:
        return record.model(model).findings["chat"].metrics["exact_match"].value

    return [exact(record, method) - exact(record, "base") for record in records]


def test_the_reward_model_knows_held_out_pairs(records: list[RunRecord]) -> None:
    for method in (*ONLINE, *DIRECT):
        print(method, "wins", wins(records, method), "exact match", gained(records, method))
    quality = [record.model("reward").findings["quality"].metrics for record in records]
    assert at_least(0.85, [metrics["accuracy"].value for metrics in quality])


@pytest.mark.parametrize("method", ONLINE)
def test_reinforcement_learning_wins_and_forgets_little(records: list[RunRecord], method: str) -> None:
    assert at_least(ONLINE[method], wins(records, method)), wins(records, method)
    assert at_least(-0.05, gained(records, method)), gained(records, method)


@pytest.mark.parametrize("method", DIRECT)
def test_direct_methods_win_and_forget_little(records: list[RunRecord], method: str) -> None:
    assert at_least(0.60, wins(records, method)), wins(records, method)
    assert at_least(-0.05, gained(records, method)), gained(records, method)
