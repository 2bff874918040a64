"""What a stage bought that learnt from its own answers: reward over KL, in all reports; what it lost stands in the first lines."""

import re
from dataclasses import replace
from math import inf, nan

import pytest

from posttrain.engine.diagnosis import WINDOW, Diagnosis
from posttrain.pipeline.record import history
from posttrain.report.charts import POINTS, trail
from posttrain.report.html import html, more, traded
from posttrain.report.markdown import markdown
from posttrain.report.terminal import summary
from posttrain.report.trade import MAIN, trade
from posttrain.report.view import view
from posttrain.schema.events import Event
from posttrain.schema.findings import Findings, Metric
from posttrain.schema.record import ModelRecord, Point, RunRecord, StageRecord

N = 40


def step(n: int, **changes: float) -> Point:
    told = {"reward": n / 10, "kl": n / 20, "entropy": 1 - n / 100, "answer_tokens": 10.0 + n, "clipped": n / 1000}
    return Point(n, 0.5, told={**told, "kl_coefficient": 0.1, **changes})


CURVE = tuple(step(n) for n in range(1, N + 1))


def events(*fields: dict, stage: str = "ppo") -> list[Event]:
    kinds = {True: "progress", False: "alert"}
    return [
        Event("stage_started", 0.0, {"stage": stage}),
        *(Event(kinds["step" in f], float(n), {"stage": stage, **f}) for n, f in enumerate(fields, 1)),
    ]


def test_the_log_of_a_run_keeps_what_the_method_told():
    point = {"step": 1, "of": 2, "loss": 1.0, "lr": 1e-4, "tokens_per_s": 9.0, "left_s": 1.0, "reward": 0.5, "kl": None}
    odd = {"kl_coefficient": True, "text": "<b>", "huge": 10**400, "grad_norm": 2}
    (found,) = history(events({**point, **odd}), "ppo").curve
    assert found == Point(1, 1.0, 1e-4, 9.0, {"reward": 0.5, "grad_norm": 2.0})


def test_the_beginning_the_middle_and_the_end_are_means_of_a_tenth():
    found = trade(CURVE)
    assert [(part.first, part.last) for part in found.parts()] == [(1, 4), (19, 22), (37, 40)]
    reward, kl, entropy, tokens = found.parts()[0].means
    assert (reward, kl, entropy, tokens) == pytest.approx((0.25, 0.125, 0.975, 12.5))
    assert [part.first for part in trade(CURVE[:2]).parts()] == [1, 2]


@pytest.mark.parametrize("missing", ["reward", "kl", "answer_tokens"])
def test_a_stage_on_rows_has_no_trade(missing):
    """KTO tells of a KL, and a reward model of rewards; neither learns from its own answers."""
    curve = tuple(
        replace(point, told={name: value for name, value in point.told.items() if name != missing}) for point in CURVE
    )
    assert trade(curve) is None and trade(()) is None and trade(CURVE[:1]) is None


def test_steps_that_are_not_finite_are_passed_over():
    found = trade((step(1), step(2, reward=nan), step(3, kl=inf), step(4, entropy=nan), step(5)))
    assert [point.step for point in found.points] == [1, 4, 5]
    assert [x for x, _ in found.over_steps("entropy")] == [1, 5]
    assert found.over_steps("of nothing") == []


def circles(svg: str) -> list[tuple[float, float]]:
    return [(float(x), float(y)) for x, y in re.findall(r'<circle class="age-[0-3]" cx="([^"]*)" cy="([^"]*)"', svg)]


def test_reward_is_drawn_over_kl():
    """The first step stands below on the left, the last above on the right, wherever the others are."""
    svg = trail([(0.0, -1.0), (3.0, 1.0), (2.0, 2.0), (4.0, 3.0)], ("step 1", "step 4"), "t", "i")
    assert circles(svg) == [(46.0, 166.0), (274.0, 88.0), (198.0, 49.0), (350.0, 10.0)]
    assert "step 1" in svg and "step 4" in svg


@pytest.mark.slow
@pytest.mark.parametrize("n", [1, 2, 21, 600, 5000])
def test_a_trail_has_at_most_600_points(n):
    svg = trail([(i % 7, i % 5) for i in range(n)], ("a", "b"), "t", "i")
    line = re.search(r'<path class="smooth" d="([^"]*)"', svg)[1].count("L") + 1
    assert 0 < len(circles(svg)) + line <= POINTS + 2


def test_a_trail_of_nothing_finite_is_empty():
    assert trail([], ("a", "b"), "t", "i") == "" and trail([(nan, 1), (1, inf)], ("a", "b"), "t", "i") == ""
    assert len(circles(trail([(nan, 1), (1, 1), (2, 2)], ("a", "b"), "t", "i"))) == 2


def test_titles_and_ends_are_escaped():
    svg = trail([(0, 1), (1, 2)], ("<b>", "&"), "<script>", 'a"b')
    assert "<script>" not in svg and "<b>" not in svg and 'a"b' not in svg and "&lt;b&gt;" in svg


def test_charts_of_all_that_was_told():
    drawn = traded(trade(CURVE), "<ppo>", "stage-3")
    assert [(curve.title, curve.across) for curve in drawn] == [
        ("reward", "KL"), *((series.title, "step") for series in MAIN),
    ]  # fmt: skip
    assert drawn[0].rows[0] == ("0.050", "0.100")
    assert not any("<ppo>" in curve.drawing for curve in drawn)
    ids = [
        re.search(r'<title id="([^"]*)"', curve.drawing)[1] for curve in (*drawn, *more(trade(CURVE), "p", "stage-3"))
    ]
    assert len(ids) == len(set(ids))


def test_what_never_changes_is_not_drawn():
    assert [curve.title for curve in more(trade(CURVE), "ppo", "i")] == ["clipped"]
    held = tuple(step(n, kl_coefficient=n / 9) for n in range(1, 5))
    assert [curve.title for curve in more(trade(held), "ppo", "i")] == ["clipped", "price of KL"]


def test_a_number_that_was_never_told_has_no_chart_and_a_dash():
    silent = tuple(step(n, entropy=nan) for n in range(1, 5))
    assert "entropy" not in [curve.title for curve in traded(trade(silent), "ppo", "i") if curve.drawing]
    assert "| 1 | 0.100 | 0.050 | – | 11" in markdown(with_stage(silent))


def with_stage(curve: tuple[Point, ...], alerts: tuple[str, ...] = ()) -> RunRecord:
    stage = StageRecord("ppo", "ppo", "objective", "base", "ppo", "made", curve=curve, alerts=alerts)
    return RunRecord("r", "", (stage,), tuple(ModelRecord(name, "", "", "dense", 1) for name in ("base", "ppo")))


def test_all_reports_show_it():
    record = with_stage(CURVE)
    page, text = html(record), markdown(record)
    assert "over KL in nats an answer" in page and page.count('<circle class="age-') == N
    assert "| steps | reward | KL, nats an answer | entropy, nats a token | answer length, tokens |" in text
    assert "| 1 – 4 | 0.250 | 0.125 | 0.975 | 12.5 |" in text and "| 37 – 40 |" in text


def test_a_hostile_stage_shows_it_too(attack):
    assert "over KL in nats an answer" in html(attack)
    assert "| 1 | 1 | −0.500 | – | 7 |" in markdown(attack)


def test_what_the_diagnosis_says_stands_among_the_warnings():
    sick = {"kl": 30.0, "clipped": 0.0, "entropy": 1.0, "answer_tokens": 9.0, "finished": 1.0}
    diagnosis = Diagnosis()
    told = [sign for n in range(1, WINDOW + 1) for sign in diagnosis.of(n, sick)]
    assert len(told) == 1
    logged = [{"step": 1, "of": 1, "loss": 0.0, **sick}, *({"title": title, "cure": cure} for title, cure in told)]
    record = with_stage((), tuple(history(events(*logged), "ppo").alerts))
    sentence = "ppo: KL to the reference is 30.0 nats an answer, the policy runs away from it"
    assert view(record).warnings == (sentence,)
    assert sentence in html(record) and sentence in markdown(record)
    assert any(sentence[:80] in line for line in summary(record))


def model(name: str, chat: float, style: float, form: str = "dense") -> ModelRecord:
    found = {
        measure: Findings(measure, "benchmark", {"score": Metric(value, 400, value - 0.02, value + 0.02)})
        for measure, value in (("chat", chat), ("style", style))
    }
    return ModelRecord(name, "", "", form, 1, {} if form == "reward" else found)


def stage(name: str, source: str) -> StageRecord:
    return StageRecord(name, name, "objective", source, name, "made")


def costs(*parts: tuple[StageRecord, ModelRecord]) -> list[tuple[str, str]]:
    stages, models = zip(*parts, strict=True)
    record = RunRecord("r", "", stages, (model("base", 0.02, 0.1), *models))
    return [(cost.change.name, cost.by) for cost in view(record).costs]


SFT = (stage("sft", "base"), model("sft", 0.7, 0.4))
PPO = (stage("ppo", "sft"), model("ppo", 0.6, 0.9))


def test_aligned_but_dumber_is_told_although_the_base_was_dumber_still():
    assert costs(SFT, PPO) == [("chat.score", "ppo")]
    record = RunRecord("r", "", (SFT[0], PPO[0]), (model("base", 0.02, 0.1), SFT[1], PPO[1]))
    assert "Worse: `chat.score` 70.0 % → 60.0 % by `ppo`." in markdown(record).split("\n\n")[1]
    head = re.sub(r"<[^>]*>", "", html(record).partition("</header>")[0])
    assert "Worse: chat.score from 70.0 % to 60.0 % by ppo." in " ".join(head.split())


def test_what_was_won_back_is_no_cost():
    again = (stage("again", "ppo"), model("again", 0.7, 0.9))
    assert costs(SFT, PPO, again) == []
    branch = (stage("again", "sft"), model("again", 0.9, 0.9))
    assert costs(SFT, PPO, branch) == [("chat.score", "ppo")]


def test_a_cost_of_the_whole_run_is_told_once():
    worse = (stage("sft", "base"), model("sft", 0.7, 0.05))
    worst = (stage("ppo", "sft"), model("ppo", 0.7, 0.0))
    assert costs(worse, worst) == [("style.score", "")]


def test_a_reward_model_is_no_end_of_the_trunk():
    reward = (stage("reward", "sft"), model("reward", 0, 0, form="reward"))
    stages, models = zip(SFT, reward, PPO, strict=True)
    record = RunRecord("r", "", stages, (model("base", 0.02, 0.1), *models))
    assert view(record).trunk == ("base", "sft", "ppo")
    assert {part.stage.name: part.lane for part in view(record).stages} == {"sft": 0, "reward": 1, "ppo": 0}
