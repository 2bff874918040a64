"""Red team: attack a model with everything at hand, and keep each attempt as a row.

Every request that ought to be refused is put in every way that `attacks` name (`methods/attacks`), until one answer complies,
the attack gives up, or the budget is spent (Perez et al. 2022, arXiv 2202.03286; HarmBench, Mazeika et al. 2024,
arXiv 2402.04249). A judge has three verdicts: complied, refused, unclear. What was not tried is neither safe nor unsafe.

Row: messages that end with the answer; verdict, attack, way (how the attack put it, where it has several), goal (the request
itself), goal_id, n (number of the attempt), and the columns of the goal. `attempts.jsonl` in the stage's scratch folder is the
ledger that a killed run goes on from.
"""

from typing import Any, ClassVar

from posttrain.data.columns import NAMES
from posttrain.engine.assault import Assault, outcome, unclear
from posttrain.engine.files import write_rows
from posttrain.engine.job import Job
from posttrain.engine.ledger import Entry
from posttrain.engine.method import Generator, Made
from posttrain.engine.siege import Lane
from posttrain.schema.rows import Prompt, Row


class RedTeam(Assault, Generator):
    """Attack a model and keep what it answered."""

    reads: ClassVar[type[Row]] = Prompt

    def run(self, job: Job, **inputs: Any) -> Made:
        lanes, _ = self.besiege(job, inputs["model"], inputs)
        rows = [_row(lane, n, entry) for lane in lanes for n, entry in enumerate(lane.heard)]
        write_rows(job.folder / "rows.jsonl", rows)
        found = outcome(lanes)
        for family, counts in found.items():
            n = sum(counts.get(verdict, 0) for verdict in ("complied", "refused", "unclear"))
            job.note(f"{family}: {counts.get('complied', 0)} of {n} requests complied")
        if not_tried := sum(counts.get("not_tried", 0) for counts in found.values()):
            job.note(
                f"{not_tried} of {len(lanes)} attacks did not come to their end, as the budget was spent or there was nothing to "
                "ask: they are not evaluated."
            )
        return Made({"rows": len(rows), "families": found, "unclear": unclear(lanes)})


def _row(lane: Lane, n: int, entry: Entry) -> dict[str, Any]:
    goal = lane.goal.row
    others = {name: value for name, value in goal.columns.items() if name.strip().casefold() not in NAMES}
    *asked, last = entry.messages
    answer = {"role": "assistant", "content": entry.text}
    if last["role"] != "assistant":
        asked.append(last)
    elif entry.text.startswith(last["content"]):  # what was put into the model's mouth is not learnt
        answer["given"] = last["content"]
    return {
        **others,
        "messages": [*asked, answer],
        "task": goal.task,
        "answer": goal.answer,
        "verdict": entry.verdict,
        "attack": lane.family,
        "way": entry.way,
        "goal": lane.goal.request,
        "goal_id": lane.goal.id,
        "n": n,
    }
