"""Events: the whole interface between a run and whoever watches it. One JSON object a line; unknown kinds are ignored.

run_started       run, recipe (digest), stages, models, pid, host
stage_started     stage, method            stage_kept  stage, artifact        stage_finished  stage, artifact, seconds
progress          stage, step, of, loss, lr, tokens, tokens_per_s, grad_norm, left_s
note              stage, text              alert       level, title, stage, step, cure
measured          model, measure, artifact, kept
stage_not_needed  stage, like (the stage whose model stands for it)
gate              stage, rule, value, limit, passed, changed (prompts), goes_on (another round follows)
stopped           why, stage, step         failed      error (kind), message
run_finished      seconds, report
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

KINDS = frozenset(
    "run_started stage_started stage_kept stage_finished stage_not_needed progress note alert measured gate stopped failed run_finished".split()
)


@dataclass(frozen=True)
class Event:
    """Something that happened, `time` seconds after the epoch."""

    kind: str
    time: float
    fields: Mapping[str, Any] = field(default_factory=dict)

    def line(self) -> str:
        return json.dumps({"event": self.kind, "time": round(self.time, 3), **self.fields}, ensure_ascii=False)


def parse(text: str) -> Iterator[Event]:
    """Events of a file's text. A torn last line and unknown kinds are passed over."""
    for line in text.split("\n"):  # not splitlines: a string may hold U+2028 and its like
        try:
            fields = json.loads(line)
            kind, time = fields.pop("event"), float(fields.pop("time"))
        except (ValueError, KeyError, TypeError, AttributeError):
            continue
        if kind in KINDS:
            yield Event(kind, time, fields)
