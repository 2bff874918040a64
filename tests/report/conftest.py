"""Records to report on: one like a real run, one in which every text is an attack."""

from collections.abc import Sequence
from math import exp
from random import Random

import pytest

from posttrain.functional.statistics import bootstrap_mean, wilson
from posttrain.schema.findings import Findings, Graded, Metric
from posttrain.schema.record import GateResult, ModelRecord, Point, RunRecord, StageRecord

RECIPE = """name: quickstart
model: lab
seed: 0
measure:
  - benchmark: {name: chat, data: lab:chat/test}
  - benchmark: {name: style, data: lab:style/test}
  - perplexity
  - size
  - speed
stages:
  - sft: {data: lab:chat/train, epochs: 2, learning_rate: 6e-4}
  - dpo: {data: lab:pairs/train, gate: {chat.exact_match: {drop_at_most: 0.05}}}
  - few_shot: {from: base, data: lab:word_map/train, k: 4}
"""

HOSTILE = (
    "<script>alert(1)</script><img src=x onerror=alert(2)><svg/onload=alert(3)>",
    '"><a href="javascript:alert(4)">click</a> [click](javascript:alert(5)) <javascript:alert(6)>',
    "\x1b]0;owned\x07\x1b[31mred\x1b[0m \x9b2J \x00 \x7f",
    "safe \u202etxt.exe\u202c \u2066hidden\u2069 \u200b\ufeff \U000e0041\U000e0042 \ud800 lone",
    "`code` ```\n```\n</pre></details></main><h1>out</h1> | cell | \\| https://evil.example www.evil.example a@evil.example",
    "{{ 7 * 7 }} {% raw %} ]]> <!-- --> <![CDATA[ &lt;b&gt; &#x3C;script&#x3E;",
    "# heading\n- list\n| a | b |\n|---|---|\n![x](http://evil.example/x.png)\n<details open ontoggle=alert(7)>",
    "</title></style><style>@import url(//evil.example)</style><base href=//evil.example><meta http-equiv=refresh>",
)

TOLD = {"reward": 1.0, "kl": -0.5, "answer_tokens": 7.0, "clipped": float("nan"), HOSTILE[0]: 1.0}


def rate(scores: Sequence[float]) -> Metric:
    found = wilson(sum(scores), len(scores))
    return Metric(found.value, found.n, found.low, found.high)


def graded(name: str, share: float, seed: int, n: int = 200) -> Findings:
    """A benchmark of right-or-wrong rows. A row is the easier the smaller its number, so that models agree on many."""
    draw, rows = Random(seed), []
    for i in range(n):
        task = ("arithmetic", "facts", "lists", "chains")[i % 4]
        right = draw.random() * 0.35 + i / n * 0.65 < share
        answer = str(17 + i)
        rows.append(
            Graded(
                id=f"{name}/{i}",
                score=float(right),
                prompt=f"What is {i} plus 17? Answer with the number.",
                expected=answer,
                output=answer if right else f"It is about {draw.randrange(90)}, I think.\nMaybe {draw.randrange(90)}.",
                task=task,
            )
        )
    by_task = {task: [r.score for r in rows if r.task == task] for task in ("arithmetic", "facts", "lists")}
    metrics = {"exact_match": rate([r.score for r in rows])}
    metrics |= {f"exact_match.{task}": rate(scores) for task, scores in by_task.items()}
    return Findings(name, "benchmark", metrics, tuple(rows))


def style(mean: float, seed: int) -> Findings:
    """A measure with scores between 0 and 1."""
    draw = Random(seed)
    rows = tuple(
        Graded(
            f"style/{i}",
            round(min(1, max(0, draw.gauss(mean, 0.2))), 3),
            f"How do I oil hinge {i}?",
            "",
            "So. " * seed,
        )
        for i in range(120)
    )
    found = bootstrap_mean([row.score for row in rows])
    return Findings("style", "judge", {"mean": Metric(found.value, found.n, found.low, found.high, "ratio")}, rows)


def model(name: str, chat: float, mean: float, bits: float, seed: int, size: int = 9_640_000) -> ModelRecord:
    found = {
        "chat": graded("chat", chat, seed),
        "style": style(mean, seed),
        "perplexity": Findings(
            "perplexity",
            "perplexity",
            {"bits_per_byte": Metric(bits, 400, bits - 0.02, bits + 0.02, "ratio", "lower")},
        ),
        "size": Findings("size", "size", {"bytes": Metric(size, unit="bytes", better="lower")}),
        "speed": Findings("speed", "speed", {"decode": Metric(2890.0 + seed, 5, 2800.0, 2980.0, "tokens/s")}),
    }
    return ModelRecord(name, f"{seed:x}" * 16, f"runs/store/{name}-3f2a91", "dense", size, found)


def curve(steps: int, start: float, end: float, seed: int) -> tuple[Point, ...]:
    draw = Random(seed)
    return tuple(
        Point(
            step=i + 1,
            loss=end + (start - end) * exp(-5 * i / steps) + draw.gauss(0, 0.04 * start),
            lr=6e-4 * min(1, (i + 1) / 20) * (1 - i / steps),
            tokens_per_s=draw.gauss(3400, 120),
        )
        for i in range(steps)
    )


@pytest.fixture(scope="session")
def run() -> RunRecord:
    """base -> sft -> dpo and base -> few_shot; dpo fails its gate on purpose."""
    sft = StageRecord(
        "sft", "sft", "objective", "base", "sft", "kept", 0.0,
        {"data": "lab:chat/train", "epochs": 2, "learning_rate": 6e-4, "lora": {"rank": 8}, "betas": (0.9, 0.95)},
        {"data": "4000 rows of lab:chat/train: messages", "tokens": 182_340, "optimizer steps": 500},
        curve(500, 4.2, 0.6, 1),
    )  # fmt: skip
    dpo = StageRecord(
        "dpo", "dpo", "objective", "sft", "dpo", "made", 41.2, {"data": "lab:pairs/train", "beta": 0.1}, {},
        curve(120, 0.69, 0.31, 2),
        (GateResult("chat.exact_match: drop_at_most 0.05", 0.06, 0.05, False),
         GateResult("style.mean: at_least 0.6", 0.71, 0.6, True)),
        ("step 88: the margin has been flat for 50 steps",),
    )  # fmt: skip
    few = StageRecord("few_shot", "few_shot", "transform", "base", "few_shot", "made", 0.3, {"k": 4})
    late = StageRecord("sample", "sample", "generator", "dpo", None, "not reached")
    return RunRecord(
        name="quickstart",
        recipe=RECIPE,
        stages=(sft, dpo, few, late),
        models=(
            model("base", 0.03, 0.35, 1.412, 1),
            model("sft", 0.72, 0.55, 0.934, 2),
            model("dpo", 0.69, 0.74, 0.951, 3),
            model("few_shot", 0.31, 0.37, 1.412, 4, 9_640_500),
        ),
        seconds=161.3,
        machine={
            "cpu": "2 cores",
            "memory": "16.8 GB",
            "torch": "2.13.0",
            "transformers": "5.17.0",
            "python": "3.11.9",
        },
        warnings=("12 rows of lab:chat/train are longer than 512 tokens and were cut",),
    )


@pytest.fixture(scope="session")
def attack() -> RunRecord:
    """Every text that a report shows is hostile, one answer is a megabyte long."""
    evil = HOSTILE

    def found(score: int) -> Findings:
        rows = [Graded(text, (i + score) % 2, text, text, text, text) for i, text in enumerate(evil)]
        rows.insert(0, Graded("long", score, "long", "", f"<b>{score}" * 250_000))
        return Findings(
            evil[4], evil[0], {evil[i]: Metric(0.5 + score / 9, 9, unit=evil[i]) for i in (0, 4)}, tuple(rows)
        )

    models = tuple(
        ModelRecord(text, text, text, text, 5, {evil[4]: found(i), evil[1]: found(i)})
        for i, text in enumerate(evil[:2])
    )
    stages = tuple(
        StageRecord(
            text + str(i), text, text, evil[0], evil[1] if i < 2 else None, text, 1.0, {text: {text: text}}, {text: [text]},
            (Point(1, 1.0, told=TOLD), Point(2, float("nan")), Point(3, float("inf"), told=TOLD)), (GateResult(text, 1, 2, False),), evil,
        )
        for i, text in enumerate(evil)
    )  # fmt: skip
    return RunRecord(evil[0], "\n".join(evil), stages, models, 1.0, dict.fromkeys(evil, evil[3]), evil)


@pytest.fixture(scope="session")
def hostile() -> tuple[str, ...]:
    return HOSTILE
