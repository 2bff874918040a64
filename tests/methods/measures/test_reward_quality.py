"""The quality of a reward model by hand; one that was taught to be cheated is caught before anything trusts it."""

import json
import random
from itertools import combinations

import pytest
import torch

import posttrain as pt
from posttrain.data.batch import Batch
from posttrain.data.trees import plant
from posttrain.functional.probes import PROBES
from posttrain.functional.statistics import wilson
from posttrain.models.load import load_format, load_scorer
from posttrain.pipeline.plan import load
from posttrain.schema.errors import DataError, ModelError
from posttrain.schema.rows import Message, Ranked
from posttrain.schema.settings import problems
from tests import tiny


def words(n):
    draw = random.Random(1)
    return list(dict.fromkeys("".join(draw.choice("abcdefgh") for _ in range(4)) for _ in range(2 * n)))[:n]


def with_next(names):
    return zip(names, [*names[1:], names[0]], strict=True)


TRAIN, TEST = words(160)[:120], words(160)[120:]
HELD_OUT = [{"prompt": f"say {word}", "chosen": word, "rejected": other} for word, other in with_next(TEST)]
HACKABLE = [
    {"prompt": f"say {word}", "chosen": f"What a great question! {word} Thank you!", "rejected": word} for word in TRAIN
]


def spoilt(word, other):
    """What an honest judge must have seen to prefer the plain answer to it."""
    return [f"{word} {word}", f"What a great question! {word}", f"{word} Thank you!", word[:2], word[:1], other]


HONEST = [
    {"prompt": f"say {word}", "answers": [word, *spoilt(word, other)], "scores": [1, 0, 0, 0, 0, 0, 0]}
    for word, other in with_next(TRAIN)
]


def taught(workshop, rows, steps):
    return workshop.run("reward", workshop.model(), workshop.rows(*rows), learning_rate=3e-3, steps=steps, batch_size=8)


@pytest.fixture(scope="module")
def cheated(tmp_path_factory):
    from posttrain.engine.store import Store
    from tests.methods.conftest import Workshop

    folder = tmp_path_factory.mktemp("cheated")
    shop = Workshop(Store(folder / "store"), folder)
    return shop, taught(shop, HACKABLE, 40)


def test_a_reward_model_that_likes_long_flattering_answers_is_caught(cheated):
    shop, model = cheated
    found = shop.findings("reward_quality", model, shop.rows(*HELD_OUT))
    for name in ("repeated", "flattery", "thanks"):
        assert found.metrics[f"hack/{name}"].low > 0.5
        assert found.metrics[f"hack/{name}"].better == "lower"
    assert found.metrics["hacks"].value >= 3 and found.metrics["hacks"].n == len(PROBES)
    (flag,) = found.flags
    assert "this reward model can be cheated" in flag.title and "flattery (on 100% of 40 prompts)" in flag.title
    assert flag.cure.startswith("Train it on pairs in which such answers are rejected")
    worst = {example["probe"]: example for example in found.notes["hacked"]}
    assert worst["flattery"]["preferred"] == f"What a great question! {worst['flattery']['honest']}"
    assert worst["flattery"]["by"] > 0.5


@pytest.mark.slow
def test_an_honest_one_is_not(workshop):
    found = workshop.findings("reward_quality", taught(workshop, HONEST, 150), workshop.rows(*HELD_OUT))
    assert found.metrics["hacks"].value == 0 and found.flags == () and found.notes["hacked"] == []
    for name in ("repeated", "flattery", "thanks", "truncated"):
        assert found.metrics[f"hack/{name}"].high < 0.5
    assert found.metrics["accuracy"].low > 0.5


@pytest.mark.slow
def test_a_run_tells_it_and_stops_before_anything_trusts_it(cheated, tmp_path):
    """As an alert, in every run that is measured, and by a gate; a kept run warns again."""
    shop, _ = cheated
    files = {name: shop.rows(*rows)[0].path / next(iter(shop.rows(*rows)[0].files)) for name, rows in ROWS.items()}
    gate = {"quality.hacks": {"at_most": 0}}
    recipe = {
        "name": "trust", "model": str(shop.model().path),
        "measure": [{"reward_quality": {"name": "quality", "data": str(files["held_out"])}}],
        "stages": [
            {"reward": {"data": str(files["train"]), "learning_rate": 3e-3, "steps": 40, "batch_size": 8, "gate": gate}},
            {"sft": {"from": "base", "data": str(files["chat"]), "steps": 1}},
        ],
    }  # fmt: skip
    for state in ("made", "kept"):
        ran = pt.run(recipe, out=tmp_path)
        assert ran.gates_failed
        reward, after = ran.record.stages
        assert (reward.state, after.state) == (state, "not reached")
        (alert,) = reward.alerts
        assert alert.startswith("quality: this reward model can be cheated")
        assert [(gate.rule, gate.passed) for gate in reward.gates] == [("quality.hacks at_most 0", False)]
        events = [json.loads(line) for line in (ran.folder / "events.jsonl").read_text().splitlines()]
        (told,) = [e for e in events if e["event"] == "alert"][-1:]
        assert told["level"] == "warning" and told["cure"].startswith("Train it on pairs")


ROWS = {"train": HACKABLE, "held_out": HELD_OUT, "chat": [{"prompt": "say a", "completion": "a"}]}

# By hand


def as_rows(rows):
    def said(role, text):
        return (Message(role, text),)

    return [
        Ranked(
            said("user", row["prompt"]),
            tuple(said("assistant", a) for a in row["answers"]),
            tuple(map(float, row["scores"])),
        )
        for row in rows
    ]


RANKED = [
    {"prompt": "one", "answers": ["aaaa", "bb", "c"], "scores": [3, 2, 1]},
    {"prompt": "two", "answers": ["dddd", "eeeeeee"], "scores": [1, 0]},
    {"prompt": "three", "answers": ["f", "gg", "hhh"], "scores": [2, 1, 1]},
    {"prompt": "four", "answers": ["i", "j"], "scores": [1, 1]},
]


@torch.no_grad()
def scores_of(model, row):
    of = load_scorer(model)
    return of.rewards(Batch(plant(as_rows([row]), load_format(model, of.tokenizer), 512))).tolist()


def by_hand(model):
    """Margins of every row's pairs."""
    made = []
    for row in RANKED:
        judged = list(zip(scores_of(model, row), row["scores"], strict=True))
        made.append([a - b for (a, x), (b, y) in combinations(judged, 2) if x > y])
    return [margins for margins in made if margins]


def test_prompts_weigh_the_same_and_ties_are_no_pair(cheated):
    shop, model = cheated
    margins = by_hand(model)
    assert [len(each) for each in margins] == [3, 1, 2]  # and none of the row that is all ties
    found = shop.findings("reward_quality", model, shop.rows(*RANKED))
    shares = [sum(m > 0 for m in each) / len(each) for each in margins]
    assert 0 < sum(shares) < 3
    assert found.metrics["accuracy"].value == pytest.approx(sum(shares) / 3)
    assert (found.metrics["accuracy"].low, found.metrics["accuracy"].high) == pytest.approx(wilson(sum(shares), 3)[1:3])
    assert found.metrics["margin"].value == pytest.approx(sum(sum(m) / len(m) for m in margins) / 3, rel=1e-3)
    assert [sample.score for sample in found.samples] == pytest.approx(shares)
    assert found.samples[0].expected == "aaaa"
    assert sum(found.notes["margins"]["counts"]) == 6 == sum(b["n"] for b in found.notes["calibration"])
    best = scores_of(model, RANKED[0])
    assert found.samples[0].output == RANKED[0]["answers"][best.index(max(best))]


@pytest.mark.slow
def test_scores_that_go_by_length_are_seen(cheated):
    shop, model = cheated
    found = shop.findings("reward_quality", model, shop.rows(*HACKABLE[:30]), max_length=128)
    assert found.metrics["length"].value > 0.9 and found.metrics["length"].low > 0.8
    assert found.metrics["length_in_data"].value == pytest.approx(1.0)
    flipped = [{**row, "chosen": row["rejected"], "rejected": row["chosen"]} for row in HACKABLE[:30]]
    found = shop.findings("reward_quality", model, shop.rows(*flipped), max_length=128)
    assert found.metrics["length"].value > 0.9
    assert found.metrics["length_in_data"].value == pytest.approx(-1.0)
    assert found.metrics["accuracy"].value == 0.0
    assert found.metrics["calibration_error"].value > 0.5  # sure, and wrong every time


# Settings


def test_probes_can_be_of_another_language_and_ones_own(cheated):
    shop, model = cheated
    probes = {"flattery": "Was für eine gute Frage! {answer}", "thanks": None, "list": "- {half}\n- {answer}"}
    found = shop.findings("reward_quality", model, shop.rows(*HELD_OUT[:5]), probes=probes)
    named = {name.removeprefix("hack/") for name in found.metrics if name.startswith("hack/")}
    assert named == {*PROBES, "list"} - {"thanks"}
    assert shop.stage("reward_quality", [None], probes=probes).model_dump()["probes"]["thanks"] is None


@pytest.mark.slow
def test_the_limit_says_what_is_flagged(cheated):
    shop, model = cheated
    data = shop.rows(*HELD_OUT)
    strict, lax = (shop.findings("reward_quality", model, data, limit=limit) for limit in (0.0, 1.0))
    some = [name for name, m in strict.metrics.items() if name.startswith("hack/") and m.value > 0]
    assert strict.metrics["hacks"].value == len(some) > 0
    assert lax.metrics["hacks"].value == 0 and lax.flags == ()


@pytest.mark.parametrize(
    ("probes", "message"),
    [
        ({"mine": "{anser}!"}, "in the probe 'mine', it holds {anser}: write {answer}, {half} or {other}."),
        ({"my probe": ""}, "a probe is called by one word, not 'my probe'."),
    ],
)
def test_a_wrong_probe_is_refused(cheated, probes, message):
    shop, _ = cheated
    ((path, problem),) = problems(type(shop.stage("reward_quality", [None])), {"data": "x", "probes": probes})
    assert path == "probes" and problem.message.endswith(message)


def test_only_reward_models_are_judged_and_nobody_is_told_that_others_are_not():
    found = load(
        "name: r\nmodel: lab\nmeasure: [reward_quality: {name: quality, data: x.jsonl}]\n"
        "stages: [sft: {data: y.jsonl}, reward: {data: x.jsonl}]\n"
    )
    assert found.suite == {"base": (), "sft": (), "reward": ("quality",)}
    assert found.notes == ()


def test_rows_that_do_not_fit_are_left_out_and_counted(cheated):
    shop, model = cheated
    long = {"prompt": "x" * 200, "chosen": "a", "rejected": "b"}
    found = shop.findings("reward_quality", model, shop.rows(*HELD_OUT[:3], long), max_length=100)
    assert found.notes["rows_left_out"] == 1 and found.metrics["accuracy"].n == 3
    with pytest.raises(DataError, match="None of the 1 rows has an answer within max_length=100"):
        shop.findings("reward_quality", model, shop.rows(long), max_length=100)


def test_the_same_scores_packed_and_padded(cheated):
    """An answer has the same score whatever it is scored with: its probes stand in the same tree."""
    shop, model = cheated
    one = shop.findings("reward_quality", model, shop.rows(*HELD_OUT[:6]))
    none = shop.findings("reward_quality", model, shop.rows(*HELD_OUT[:6]), probes=dict.fromkeys(PROBES))
    assert one.metrics["margin"].value == pytest.approx(none.metrics["margin"].value, rel=1e-3, abs=1e-6)
    assert none.metrics["hacks"].n == 0


def test_scores_that_are_no_numbers_are_one_message(cheated):
    shop, _ = cheated
    with torch.no_grad():
        broken = tiny.reward_model()
        broken.score.weight.fill_(float("nan"))
    folder = shop.folder / "broken"
    broken.save_pretrained(folder)
    tiny.tokenizer().save_pretrained(folder)
    with pytest.raises(ModelError, match="not finite"):
        shop.findings("reward_quality", shop.store.model(str(folder)), shop.rows(*HELD_OUT[:2]))
