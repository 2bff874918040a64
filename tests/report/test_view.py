"""The tree, the table and the choice of samples that all reports share."""

from posttrain.report.html import html
from posttrain.report.markdown import markdown
from posttrain.report.view import samples, view
from posttrain.schema.findings import Findings, Graded, Metric
from posttrain.schema.record import ModelRecord, RunRecord, StageRecord


def stage(name: str, source: str, kind: str = "objective") -> StageRecord:
    return StageRecord(name, name, kind, source, None if kind == "generator" else name, "made")


def tree(*stages: StageRecord) -> RunRecord:
    names = ["base", *(s.model for s in stages if s.model)]
    return RunRecord("r", "", stages, tuple(ModelRecord(name, "", "", "dense", 1) for name in names))


def lanes(record: RunRecord) -> dict[str, int]:
    return {part.stage.name: part.lane for part in view(record).stages}


def test_the_longest_line_is_the_trunk_wherever_it_stands():
    record = tree(stage("few_shot", "base"), stage("sft", "base"), stage("dpo", "sft"), stage("merge", "sft"))
    assert lanes(record) == {"few_shot": 1, "sft": 0, "dpo": 0, "merge": 1}
    assert view(record).trunk == ("base", "sft", "dpo")


def test_data_is_a_side_line_and_never_the_trunk():
    record = tree(stage("sample", "base", "generator"), stage("sft", "base"), stage("score", "sft", "generator"))
    assert lanes(record) == {"sample": 1, "sft": 0, "score": 1}
    assert view(record).trunk == ("base", "sft")


def test_a_stage_that_was_not_reached_ends_the_trunk():
    record = tree(stage("sft", "base"), stage("dpo", "sft"))
    cut = RunRecord(record.name, "", record.stages, record.models[:2])
    assert view(cut).trunk == ("base", "sft")


def test_a_source_nobody_knows_does_no_harm():
    assert lanes(tree(stage("sft", "elsewhere"))) == {"sft": 0}
    assert view(tree(stage("sft", "sft"))).stages[0].comparison is None


def test_each_model_is_compared_with_the_one_it_came_from(run):
    table = view(run).table
    assert [(line.model, line.source) for line in table.lines] == [
        ("base", ""), ("sft", "base"), ("dpo", "sft"), ("few_shot", "base"),
    ]  # fmt: skip
    assert table.columns[0] == ("chat", "exact_match")
    assert table.lines[0].cells[0].change is None
    assert table.lines[1].cells[0].change.verdict == "better"
    assert table.lines[2].cells[0].change.before == table.lines[1].cells[0].metric


def test_a_measure_that_some_models_lack_leaves_a_hole():
    found = Findings("m", "size", {"x": Metric(1.0)})
    record = tree(stage("sft", "base"))
    record = RunRecord("r", "", record.stages, (record.models[0], ModelRecord("sft", "", "", "dense", 1, {"m": found})))
    assert view(record).table.lines[0].cells == (None,)


def test_problems_name_failed_gates_and_stages(run):
    assert view(run).problems == ("dpo fails its gate chat.exact_match: drop_at_most 0.05 (found 0.060)",)
    failed = tree(StageRecord("sft", "sft", "objective", "base", None, "failed"))
    assert view(failed).problems == ("sft failed while running",)


def answers(name: str, scores: list[float], outputs: list[str]) -> Findings:
    rows = tuple(Graded(str(i), s, "q", "e", o) for i, (s, o) in enumerate(zip(scores, outputs, strict=True)))
    return Findings(name, "benchmark", {"m": Metric(0.5)}, rows)


def test_flips_come_first_then_changed_answers():
    before = answers("m", [1, 1, 0, 1, 0], ["same", "old", "bad", "ok", "x"])
    after = answers("m", [1, 1, 1, 0, 0], ["same", "new", "good", "oops", "x"])
    pair = [ModelRecord(name, "", "", "dense", 1, {"m": found}) for name, found in (("a", before), ("b", after))]
    record = RunRecord("r", "", (StageRecord("b", "sft", "objective", "a", "b", "made"),), tuple(pair))
    shown = view(record).stages[0].samples
    assert [sample.pair[0].id for sample in shown] == ["2", "3", "1", "0", "4"]
    assert [sample.what for sample in shown][:3] == ["wrong → right", "right → wrong", "right both times"]


def test_at_most_eight_samples_and_none_without_answers(run):
    shown = view(run).stages[1]
    assert len(shown.samples) == 8
    assert {sample.measure for sample in shown.samples} == {"chat", "style"}
    silent = answers("m", [0.0, 1.0], ["", ""])
    pair = [ModelRecord(name, "", "", "dense", 1, {"m": silent}) for name in "ab"]
    record = RunRecord("r", "", (StageRecord("b", "sft", "objective", "a", "b", "made"),), tuple(pair))
    assert view(record).stages[0].samples == ()
    assert samples(None) == ()


def test_what_became_worse_stands_beside_what_was_won():
    def found(**values: float) -> dict[str, Findings]:
        return {
            name: Findings(name, "benchmark", {"exact_match": Metric(value, 200, value - 0.05, value + 0.05)})
            for name, value in values.items()
        }

    before, after = found(domain=0.1, old_facts=0.9, chat=0.5), found(domain=0.9, old_facts=0.2, chat=0.49)
    models = (ModelRecord("base", "", "", "dense", 1, before), ModelRecord("cpt", "", "", "dense", 1, after))
    record = RunRecord("r", "", (stage("cpt", "base"),), models)
    assert [(cost.change.name, cost.by) for cost in view(record).costs] == [("old_facts.exact_match", "")]
    assert "Worse: `old_facts.exact_match` 90.0 % → 20.0 %." in markdown(record)
    assert "old_facts.exact_match from 90.0 % to 20.0 %." in " ".join(html(record).split())
