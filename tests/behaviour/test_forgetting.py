"""A new domain is learnt; without replay the old facts go, with it they stay. Test splits, steps matched.

On real weights the budget holds general perplexity while the domain's still falls by half.
"""

from pathlib import Path
from typing import Any

import pytest

import posttrain as pt
from posttrain import recipes
from posttrain.schema.record import RunRecord
from tests.behaviour.seeds import SEEDS

pytestmark = pytest.mark.slow
SHARED = Path(__file__).parents[3] / "shared"


def value(record: RunRecord, model: str, measure: str, metric: str) -> float:
    return record.model(model).findings[measure].metrics[metric].value


@pytest.fixture(scope="module")
def records(tmp_path_factory: pytest.TempPathFactory) -> list[RunRecord]:
    out = tmp_path_factory.mktemp("runs")
    assert "cpt" in recipes.shipped()
    return [pt.run("cpt", [f"seed={seed}"], out=out).record for seed in SEEDS]


def mean(records: list[RunRecord], model: str, measure: str) -> float:
    return sum(value(record, model, measure, "exact_match") for record in records) / len(records)


def test_the_base_knows_old_facts_and_nothing_of_the_domain(records: list[RunRecord]) -> None:
    assert mean(records, "base", "domain") < 0.10
    assert mean(records, "base", "old_facts") > 0.90


def test_bare_training_learns_the_domain_and_forgets(records: list[RunRecord]) -> None:
    assert mean(records, "bare", "domain") > 0.60
    assert mean(records, "bare", "old_facts") < 0.70


def test_replay_learns_the_domain_and_remembers(records: list[RunRecord]) -> None:
    assert mean(records, "replayed", "domain") >= 0.60
    assert mean(records, "replayed", "old_facts") >= 0.90
    for record in records:
        assert value(record, "replayed", "domain", "exact_match") >= 0.60
        assert value(record, "replayed", "old_facts", "exact_match") >= 0.87


def part(of: str, name: str, start: int, end: int, out: Path) -> str:
    """A file with some of the characters of a text of the shared data."""
    text = (SHARED / "data" / of).read_text(encoding="utf-8")
    path = out / f"{name}.txt"
    path.write_text(text[start:end], encoding="utf-8")
    return str(path)


def on_real_weights(out: Path, guard: bool) -> dict[str, dict[str, float]]:
    """Perplexity of stories and of plays, before and after a hundred steps on plays; no character is used twice."""
    plays = part("tinyshakespeare/input.txt", "plays", 0, 500_000, out)
    held_plays = part("tinyshakespeare/input.txt", "held_plays", 900_000, 930_000, out)
    stories = part("tinystories-sample/tinystories.txt", "stories", 0, 40_000, out)
    watched = part("tinystories-sample/tinystories.txt", "watched", 40_000, 60_000, out)
    replayed = part("tinystories-sample/tinystories.txt", "replayed", 60_000, 190_000, out)
    options: dict[str, Any] = {"data": plays, "steps": 100, "batch_size": 8, "max_length": 256, "learning_rate": 1e-3}
    if guard:
        options["forget"] = {"on": watched, "at_most": "5%", "every": 10}
        options["keep"] = {"replay": {"data": replayed, "share": 0.5}}
    recipe = {
        "model": str(SHARED / "models" / "stories260K"),
        "measure": [
            {"perplexity": {"name": "stories", "data": stories, "max_length": 256}},
            {"perplexity": {"name": "plays", "data": held_plays, "max_length": 256}},
        ],
        "stages": [{"cpt": options}],
    }
    record = pt.run(recipe, out=out).record
    return {
        name: {model: value(record, model, name, "perplexity") for model in ("base", "cpt")}
        for name in ("stories", "plays")
    }


@pytest.mark.skipif(not (SHARED / "models" / "stories260K").is_dir(), reason="the shared models are not here")
def test_a_budget_holds_general_perplexity_of_real_weights(tmp_path: Path) -> None:
    bare = on_real_weights(tmp_path, guard=False)
    assert bare["stories"]["cpt"] > 2 * bare["stories"]["base"]
    held = on_real_weights(tmp_path, guard=True)
    assert held["stories"]["cpt"] < 1.1 * held["stories"]["base"]
    assert held["plays"]["cpt"] < 0.5 * held["plays"]["base"]
