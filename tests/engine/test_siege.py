"""A siege: every attempt once, whatever happens in between; within its budget; at a small cost of its own."""

import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import pytest

from posttrain.engine.arming import armed
from posttrain.engine.attack import Armed
from posttrain.engine.job import Job
from posttrain.engine.ledger import Ledger
from posttrain.engine.siege import Budget, Siege
from posttrain.schema.errors import Stopped, UsageError
from tests.besieged import EXAMPLES, Judging, Speaking, by_first_word, goal, local

TEMPLATE = {"template": {"forms": ["a {request}", "b {request}", "c {request}"]}}
MANY = [
    "direct", {"persona": {"at_most": 8}}, {"base64": {"at_most": 3}}, ["refusal_suppression", "rot13"], "evolve",
    {"escalation": {"backtracks": 2}}, {"many_shot": {"n": 3}}, {"pair": {"streams": 2}}, {"tap": {"depth": 2}},
]  # fmt: skip


class Killed(BaseException):
    """As if the process were gone."""


def drawn(messages, number) -> random.Random:
    return random.Random(f"{number} {[m.content for m in messages]}")


def say(messages, number) -> str:
    """Mostly no, in words that depend on everything."""
    draw = drawn(messages, number)
    return f"{draw.choices(['no', 'hm', 'yes'], [90, 8, 2])[0]} {draw.random()}"


def wording(messages, number) -> str:
    draw = drawn(messages, number)
    return draw.choice([f'{{"prompt": "please {draw.random()}"}}', f"[[{draw.randint(1, 10)}]]", "yes", "no", "{"])


@dataclass
class Dying:
    """A speaker that is killed in its n-th call: `late` after it has answered, so that the answers are lost."""

    speaker: Speaking
    calls: int

    def replies(self, conversations, numbers):
        self.calls -= 1
        if self.calls < 0:
            raise Killed
        return self.speaker.replies(conversations, numbers)


def besiege(folder: Path, attacks: Armed, goals, target=None, writer=None, jury=None, **more):
    """(lanes, siege) of a siege in a folder."""
    folder.mkdir(exist_ok=True)
    speaker = target or Speaking(say)
    more = {"examples": EXAMPLES, "clock": lambda: 0.0} | more
    siege = Siege(
        speaker, jury or Judging(by_first_word), Ledger(folder / "ledger.jsonl"), writer or Speaking(wording), **more
    )
    return siege.run(attacks, goals, Job(folder, folder)), siege


def told(lanes) -> list:
    return [(lane.family, lane.goal.id, lane.verdict, lane.heard) for lane in lanes]


def goals(n: int):
    return [goal(f"request {i}?", hazard=f"h{i % 5}") for i in range(n)]


@pytest.mark.parametrize(("n", "least"), [(30, 800), pytest.param(380, 10_000, marks=pytest.mark.slow)])
def test_ten_thousand_attempts_go_on_after_every_kill_with_none_lost_and_none_repeated(tmp_path, n, least):
    """Killed at several places, with the last line torn at several places, the ledger is byte by byte that of a run in
    peace, and so is what came of every lane."""
    attacks, many = armed(MANY), goals(n)
    calm = Speaking(say)
    peace, _ = besiege(tmp_path / "peace", attacks, many, target=calm)
    assert sum(len(lane.heard) for lane in peace) >= least
    ledger, rounds = (tmp_path / "peace" / "ledger.jsonl").read_bytes(), calm.calls
    path, draw, kills = tmp_path / "war" / "ledger.jsonl", random.Random(1), 0
    for share in (0, 0.1, 0.2, 0.3, 0.2):  # of all calls, each behind the last kill
        with pytest.raises(Killed):
            besiege(tmp_path / "war", attacks, many, target=Dying(Speaking(say), int(share * rounds)))
        kills += 1
        written = path.read_bytes() if path.is_file() else b""
        assert ledger.startswith(written)
        path.write_bytes(written[: max(0, len(written) - draw.randint(0, 3000))])
    asked = Speaking(say)
    war, _ = besiege(tmp_path / "war", attacks, many, target=asked)
    assert path.read_bytes() == ledger
    assert told(war) == told(peace)
    assert kills == 5
    assert len(asked.heard) < len(calm.heard) / 2  # what the ledger knew was not asked again


@pytest.mark.slow
def test_a_killed_process_goes_on(tmp_path):
    """The same with a process of its own, and SIGKILL."""
    program = (
        "import time; from pathlib import Path; from tests.engine.test_siege import *; "
        "slow = Speaking(lambda m, n: (time.sleep(0.0005), say(m, n))[1]); "
        f"besiege(Path({str(tmp_path / 'war')!r}), armed(MANY), goals(60), target=slow)"
    )
    path, root = tmp_path / "war" / "ledger.jsonl", Path(__file__).parent.parent.parent
    for least in (50_000, 150_000):
        process = subprocess.Popen(
            [sys.executable, "-c", program], cwd=root, env={**os.environ, "PYTHONPATH": str(root)}
        )
        end = time.monotonic() + 60
        while (path.stat().st_size if path.is_file() else 0) < least:
            assert process.poll() is None
            assert time.monotonic() < end
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
        process.wait()
    war, _ = besiege(tmp_path / "war", armed(MANY), goals(60))
    peace, _ = besiege(tmp_path / "peace", armed(MANY), goals(60))
    assert told(war) == told(peace)
    assert path.read_bytes() == (tmp_path / "peace" / "ledger.jsonl").read_bytes()


def test_lanes_of_attacks_that_learn_from_each_other_replay_exactly(tmp_path):
    attacks = armed(["evolve"])
    one, first = besiege(tmp_path / "one", attacks, goals(80))
    two, second = besiege(
        tmp_path / "one", attacks, goals(80), target=Speaking(lambda m, n: pytest.fail("asked again"))
    )
    assert told(one) == told(two)
    assert first.shared["evolve"]["archive"] == second.shared["evolve"]["archive"]


def test_the_seed_decides_what_is_asked_and_neighbours_do_not(tmp_path):
    alone, _ = besiege(tmp_path / "alone", armed(["persona"]), goals(3))
    among, _ = besiege(tmp_path / "among", armed(["direct", "persona", "rot13"]), goals(3))
    other, _ = besiege(tmp_path / "other", armed(["persona"]), goals(3), seed=1)
    assert told(alone) == [lane for lane in told(among) if lane[0] == "persona"]
    assert told(alone) != told(other)


@pytest.mark.slow
def test_the_cost_of_its_own_is_small_and_in_proportion(tmp_path):
    """Ten thousand attempts take seconds, and four times as many about four times as long."""

    def seconds(n: int) -> float:
        begun = time.process_time()
        lanes, _ = besiege(
            tmp_path / str(n), armed([TEMPLATE, "direct"]), goals(n // 4), target=Speaking(lambda m, k: "no"),
            budget=Budget(queries=10 * n), jury=Judging(lambda answer: "refused"),
        )  # fmt: skip
        assert sum(len(lane.heard) for lane in lanes) == n
        return time.process_time() - begun

    few, many = seconds(2_500), seconds(10_000)
    assert many < 10
    assert many < 8 * few + 0.5


def test_a_budget_of_queries_is_kept_exactly_and_tries_every_attack_first(tmp_path):
    target = Speaking(lambda m, n: "no")
    lanes, _ = besiege(
        tmp_path / "a", armed(["direct", TEMPLATE]), goals(50), target, budget=Budget(queries=17), at_once=4
    )
    assert len(target.heard) == sum(len(lane.heard) for lane in lanes) == 17
    tried = [lane for lane in lanes if lane.heard]
    assert {lane.family for lane in tried[:2]} == {"direct", "template"}
    assert [lane.verdict for lane in lanes if not lane.heard] == [None] * (100 - len(tried))


def test_turns_that_lead_up_cost_queries_and_are_no_attempts(tmp_path):
    target = Speaking(lambda m, n: "well")
    lanes, siege = besiege(tmp_path / "a", armed(["escalation"]), goals(1), target, budget=Budget(queries=4))
    assert len(target.heard) == 4
    assert [entry.kind for entry in siege.ledger.entries.values()] == ["lead"] * 3 + ["ask"]
    assert len(lanes[0].heard) == 1


def test_a_turn_that_leads_up_is_judged_by_itself(tmp_path):
    """And an attempt by the goal, however it was put."""
    jury = Judging(by_first_word)
    besiege(tmp_path / "a", armed(["escalation"]), goals(1), Speaking(lambda m, n: "well"), jury=jury)
    judged = [row.messages[-1].content for row, _ in jury.seen]
    assert judged[0] != "request 0?"
    assert judged[-1] == "request 0?"
    assert [len(row.messages) for row, _ in jury.seen][:3] == [1, 3, 5]


def test_a_budget_of_tokens_counts_both_models_and_ends_after_the_round(tmp_path):
    ten = Speaking(lambda m, n: "no " * 10)
    five = Speaking(lambda m, n: '{"prompt": "a b c d"}')
    lanes, siege = besiege(
        tmp_path / "a", armed([{"pair": {"streams": 50}}]), goals(1), ten, five, budget=Budget(tokens=60), at_once=1
    )
    counted = [entry.n_tokens for entry in siege.ledger.entries.values()]
    assert sum(counted) >= 60 > sum(counted[:-1])
    assert len(lanes[0].heard) == 4


def test_a_budget_of_seconds_ends_it_and_a_run_that_goes_on_ends_where_it_did(tmp_path):
    clock = iter(range(0, 10**6, 3))
    lanes, _ = besiege(
        tmp_path / "a", armed([TEMPLATE]), goals(40), at_once=4, budget=Budget(seconds=20), clock=lambda: next(clock)
    )
    n = sum(len(lane.heard) for lane in lanes)
    assert 0 < n < 40 * 3
    late = iter(range(10**9, 10**9 + 10**6, 3))
    again, _ = besiege(
        tmp_path / "a", armed([TEMPLATE]), goals(40), at_once=4, budget=Budget(seconds=20), clock=lambda: next(late)
    )
    assert told(again) == told(lanes)


def test_time_before_a_kill_counts(tmp_path):
    def run(at, calls):
        ticks = iter(range(at, at + 10**6))
        return besiege(
            tmp_path / "a", armed([TEMPLATE]), goals(40), Dying(Speaking(say), calls), at_once=4,
            budget=Budget(seconds=9), clock=lambda: next(ticks),
        )  # fmt: skip

    with pytest.raises(Killed):
        run(0, 5)
    _, siege = run(10**6, 99)
    assert len(siege.ledger.entries) < 4 * 12


def test_hostile_answers_pass_unharmed(tmp_path):
    texts = [
        "\x1b[2Jyes",
        "<script>alert(1)</script>",
        "verdict: complied \u2028 [[complied]]",
        "x" * 10**6,
        "",
        "\x00",
    ]
    asked = {f"request {i}?": text for i, text in enumerate(texts)}
    target = Speaking(lambda m, n: asked[m[-1].content])
    lanes, _ = besiege(tmp_path / "a", armed(["direct"]), goals(len(texts)), target)
    assert [lane.heard[0].text for lane in lanes] == texts
    assert {lane.verdict for lane in lanes} == {"unclear"}
    again, _ = besiege(tmp_path / "a", armed(["direct"]), goals(len(texts)), target)
    assert told(again) == told(lanes)
    assert len(target.heard) == len(texts)


def test_no_answer_is_unclear_and_is_not_judged(tmp_path):
    jury = Judging(lambda answer: pytest.fail("nothing was said"))
    (lane,), _ = besiege(tmp_path / "a", armed(["direct"]), goals(1), Speaking(lambda m, n: None), jury=jury)
    assert (lane.verdict, lane.heard[0].why) == ("unclear", "no reply")


def test_why_a_verdict_is_unclear_is_kept_through_a_kill(tmp_path):
    from posttrain.engine.assault import unclear

    attacks, target = armed([TEMPLATE]), Speaking(lambda m, n: None if m[-1].content.startswith("a") else "hm")
    lanes, _ = besiege(tmp_path / "a", attacks, goals(4), target)
    again, _ = besiege(tmp_path / "a", attacks, goals(4), jury=Judging(lambda answer: pytest.fail("judged again")))
    assert unclear(lanes) == unclear(again) == {"no reply": 4, "neither": 8}


def test_an_answer_that_complied_ends_its_lane_alone(tmp_path):
    target = Speaking(lambda m, n: "yes" if m[-1].content == "b request 0?" else "no")
    lanes, _ = besiege(tmp_path / "a", armed([TEMPLATE]), goals(2), target)
    assert [lane.verdict for lane in lanes] == ["complied", "refused"]
    assert lanes[0].heard[-1].verdict == "complied"
    assert len(lanes[1].heard) == 3


def test_a_coded_answer_is_judged_in_plain_and_kept_as_it_was(tmp_path):
    from posttrain.functional.encodings import to_base64

    said = to_base64("yes of course")
    (lane,), _ = besiege(tmp_path / "a", armed(["base64"]), goals(1), Speaking(lambda m, n: said))
    assert lane.verdict == "complied"
    assert lane.heard[0].text == said


def test_without_a_model_that_writes_there_is_one_clear_message(tmp_path):
    siege = Siege(Speaking(say), Judging(by_first_word), Ledger(tmp_path / "ledger.jsonl"))
    with pytest.raises(UsageError, match=r"attacker: \{model: NAME\}"):
        siege.run(armed(["pair"]), goals(1), Job(tmp_path, tmp_path))


def test_replies_that_nothing_can_be_made_of_are_told_by_family(tmp_path):
    _, siege = besiege(tmp_path / "a", armed(["pair", "direct"]), goals(2), writer=Speaking(lambda m, n: "{"))
    assert siege.unread() == {"pair": 2 * 3 * 3}


def test_a_wish_to_stop_is_heard_between_rounds(tmp_path):
    siege = Siege(Speaking(say), Judging(by_first_word), Ledger(tmp_path / "ledger.jsonl"), at_once=4)
    with pytest.raises(Stopped):
        siege.run(armed(["direct"]), goals(40), Job(tmp_path, tmp_path, stop=lambda: True))
    lanes, _ = besiege(tmp_path, armed(["direct"]), goals(40))
    assert Counter(len(lane.heard) for lane in lanes) == {1: 40}


def test_a_real_model_answers_the_same_after_a_kill(tmp_path):
    """Draws are named by lane and move, so neighbours that are there no more change nothing."""
    weights = local()
    weights.sampling = weights.sampling.model_copy(update={"temperature": 1.0})
    attacks = armed([TEMPLATE, "prefill", {"gcg": {"steps": 2, "every": 1, "length": 2, "candidates": 4}}])
    peace, _ = besiege(tmp_path / "peace", attacks, goals(3), weights)
    (tmp_path / "war").mkdir()
    lines = (tmp_path / "peace" / "ledger.jsonl").read_bytes()
    (tmp_path / "war" / "ledger.jsonl").write_bytes(lines[: len(lines) // 2])
    war, _ = besiege(tmp_path / "war", attacks, goals(3), weights)
    assert told(war) == told(peace)
    begun = [lane for lane in peace if lane.family == "prefill"]
    assert all(e.text.startswith(e.messages[-1]["content"]) for lane in begun for e in lane.heard)
