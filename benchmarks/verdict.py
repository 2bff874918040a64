"""What the referee makes of the rounds: the table that it prints, and every way in which a side did other work."""

import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

FIRST_LOSS, FINAL_LOSS = 1e-3, 1e-2  # relative differences that still count as the same work
CHECKED = {"float32": 1e-3, "bfloat16": 5e-2}  # of gradients, by what they are computed in


@dataclass
class Round:
    """One epoch of one side. `answer_tokens` are learnt, `tokens` are all that a row holds: padding is in neither.
    `laps` are the seconds that parts of it took, by name."""

    seconds: float
    cpu_seconds: float
    answer_tokens: int
    tokens: int
    losses: list[float]
    laps: dict[str, float] = field(default_factory=dict)

    @property
    def rate(self) -> float:
        """Answer tokens per second of wall clock."""
        return self.answer_tokens / self.seconds

    @property
    def cpu_rate(self) -> float:
        return self.answer_tokens / self.cpu_seconds


@dataclass(frozen=True)
class Setting:
    """One way to run the peer. `same_steps`: its optimizer steps hold the same rows as posttrain's; `same_loss`: they
    minimise the same, where the rows are the same, so that losses can be compared."""

    told: str
    same_steps: bool = True
    same_loss: bool = True


@dataclass
class Side:
    """What the referee knows of a side: `posttrain`, or a setting of the peer. `told` is what it said of itself:

    prepared_s, threads, fast_matmul, computes_in, peak_mib      numbers of the table
    held_out                                                     the loss that judges the weights, if there is one
    checked                                                      numbers that are to be alike before anything is trained
    drawn_lengths                                                answers are as long as they happen to be drawn
    """

    name: str
    same_steps: bool = True
    same_loss: bool = True
    told: dict[str, Any] = field(default_factory=dict)
    rounds: list[Round] = field(default_factory=list)

    @property
    def losses(self) -> list[float]:
        return [loss for made in self.rounds for loss in made.losses]


def table(sides: Sequence[Side]) -> Iterator[str]:
    """Medians with the whole range over rounds; the ratio is taken round by round."""
    ours = sides[0]
    laps = list(ours.rounds[0].laps)
    yield f"steps of {ours.rounds[0].answer_tokens / len(ours.rounds[0].losses):.0f} answer tokens, {_machine(ours)}"
    heads = ["side", "answer tokens/s", "real tokens/s", "posttrain is x times", "by CPU time"]
    heads += [head for name in laps for head in (f"s of {name} in a step", f"{name} x times")]
    heads += ["peak MiB", "posttrain needs", "prepared in s", "held-out loss"]
    yield f"| {' | '.join(heads)} |"
    yield "|---" * len(heads) + "|"
    for side in sides:
        cells = [side.name, spread([r.rate for r in side.rounds])]
        cells.append(spread([r.tokens / r.seconds for r in side.rounds]))
        cells += ["", ""] if side is ours else [spread(_ratios(ours, side, r), 2) for r in ("rate", "cpu_rate")]
        for name in laps:
            cells.append(spread([r.laps[name] / len(r.losses) for r in side.rounds], 3))
            cells.append("" if side is ours else spread(_lap_ratios(ours, side, name), 2))
        cells.append(f"{side.told['peak_mib']:.0f}")
        cells.append("" if side is ours else f"{ours.told['peak_mib'] / side.told['peak_mib']:.0%}")
        held_out = side.told["held_out"]
        cells += [f"{side.told['prepared_s']:.1f}", "" if held_out is None else f"{held_out:.5f}"]
        yield f"| {' | '.join(cells)} |"


def faults(sides: Sequence[Side]) -> Iterator[str]:
    """Every way in which a side did other work than posttrain."""
    ours = sides[0]
    for side in sides[1:]:
        yield from _other_losses(ours, side)
        if not ours.told.get("drawn_lengths"):
            yield from _other_tokens(ours, side)
        off = _furthest(side.told.get("checked", []), ours.told.get("checked", []))
        if off > max(CHECKED[each.told["computes_in"]] for each in (ours, side)):
            yield f"{side.name}: what is checked before training differs by {off:.1e}"


def _other_tokens(ours: Side, side: Side) -> Iterator[str]:
    here, there = ours.rounds[0], side.rounds[0]
    if here.answer_tokens != there.answer_tokens:
        yield f"{side.name}: {there.answer_tokens} answer tokens, not {here.answer_tokens}"
    if side.same_steps and here.tokens != there.tokens:
        yield f"{side.name}: {there.tokens} real tokens, not {here.tokens}"


def _other_losses(ours: Side, side: Side) -> Iterator[str]:
    if not side.same_loss:
        return
    off = _furthest([side.told["held_out"]], [ours.told["held_out"]])
    if off > FINAL_LOSS:
        yield f"{side.name}: the held-out loss differs by {off:.1%}"
    off = _furthest(side.losses, ours.losses) if side.same_steps else 0.0
    if off > FIRST_LOSS:
        yield f"{side.name}: losses of the same step differ by {off:.1e}"


def _furthest(theirs: Sequence[float], ours: Sequence[float]) -> float:
    """The largest relative difference."""
    return max((abs(a / b - 1) for a, b in zip(theirs, ours, strict=True)), default=0.0)


def _ratios(ours: Side, theirs: Side, rate: str = "rate") -> list[float]:
    return [getattr(a, rate) / getattr(b, rate) for a, b in zip(ours.rounds, theirs.rounds, strict=True)]


def _lap_ratios(ours: Side, theirs: Side, name: str) -> list[float]:
    """How many times as fast a lap is, by the token, as answers may be drawn longer on one side."""
    return [
        (b.laps[name] / b.answer_tokens) / (a.laps[name] / a.answer_tokens)
        for a, b in zip(ours.rounds, theirs.rounds, strict=True)
    ]


def spread(values: Sequence[float], digits: int = 0) -> str:
    low, mid, high = (f"{v:.{digits}f}" for v in (min(values), statistics.median(values), max(values)))
    return f"{mid} [{low}-{high}]"


def _machine(side: Side) -> str:
    computed = f"computing in {side.told['computes_in']}, fast fp32 products {side.told['fast_matmul']}"
    return f"{side.told['threads']} threads, {computed}"
