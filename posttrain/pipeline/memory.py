"""How much memory each training stage of a plan will take: `engine.estimate` on what a plan knows before it is run.

Tokens at once are those of the first batches of the stage's own rows, where the rows are there already, and the most
that its settings allow where an earlier stage makes them.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields, replace
from itertools import chain, cycle, islice
from pathlib import Path

from posttrain.data.batch import Batch
from posttrain.data.planting import shape_of
from posttrain.data.read import read
from posttrain.data.trees import plant
from posttrain.engine.environment import memory as memory_of_machine
from posttrain.engine.estimate import Load, Memory, Way, estimate
from posttrain.engine.files import readable
from posttrain.engine.online import Online
from posttrain.engine.taught import Taught
from posttrain.engine.train import Training
from posttrain.functional.layout import Tree, packed
from posttrain.models.adapters import LoRA
from posttrain.models.adapters.carried import Carried, carried, carried_in
from posttrain.models.anatomy import Anatomy, read_anatomy
from posttrain.models.precision import computes_in, device
from posttrain.schema.artifacts import Dataset, Model
from posttrain.schema.errors import PosttrainError
from posttrain.schema.rows import Pair, Ranked

from .plan import Plan
from .step import Step
from .work import Outside, base_of

SAMPLED = 4  # batches whose rows are laid out to see how large a micro-batch becomes
MOST_ROWS = 2048
FEW_TOKENS = 512  # at once: fewer gain little memory and lose much speed


@dataclass(frozen=True)
class Forecast:
    """The memory of a stage's largest micro-batch of `tokens`, of which `room` is the machine's or its GPU's. `known`
    is False where the rows are not there yet; `untold` says why nothing can be told."""

    tokens: int = 0
    known: bool = True
    memory: Memory | None = None
    room: int = 0
    cure: str = ""
    untold: str = ""

    @property
    def too_large(self) -> bool:
        return self.memory is not None and 0 < self.room < self.memory.total

    def as_dict(self) -> dict[str, object]:
        if self.memory is None:
            return {"untold": self.untold}
        told: dict[str, object] = {
            **self.memory.as_dict(),
            "tokens": self.tokens,
            "rows_known": self.known,
            "machine": self.room,
        }
        return {**told, "warning": self.warning} if self.too_large else told

    @property
    def warning(self) -> str:
        assert self.memory is not None
        return f"{readable(self.memory.total)} are needed, and this machine has {readable(self.room)}. {self.cure}"


def forecasts(plan: Plan, outside: Outside, states: Mapping[str, str]) -> dict[str, Forecast]:
    """What is expected of every training stage that is to be made, by its name."""
    found = {}
    for step in plan.steps:
        if isinstance(step.stage, Training) and states.get(step.name) != "kept":
            try:
                found[step.name] = _forecast(plan, step, step.stage, outside)
            except PosttrainError as error:
                found[step.name] = Forecast(untold=str(error))
    return found


def as_table(found: Mapping[str, Forecast]) -> Iterator[str]:
    """One aligned line for each stage: bytes by what they are for, and at which number of tokens."""
    parts = [part.name for part in fields(Memory)]
    told = {name: forecast for name, forecast in found.items() if forecast.memory}
    shown = [part for part in parts if any(getattr(forecast.memory, part) for forecast in told.values())]
    rows = [["memory", *shown, "total", ""]] if told else []
    for name, forecast in told.items():
        numbers = [getattr(forecast.memory, part) for part in (*shown, "total")]
        sizes = [readable(n) if n else "-" for n in numbers]
        rows.append([name, *sizes, f"{'' if forecast.known else 'at most '}{forecast.tokens:,} tokens at once"])
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for first, *middle, last in rows:
        cells = (cell.rjust(width) for cell, width in zip(middle, widths[1:-1], strict=True))
        yield "  ".join([first.ljust(widths[0]), *cells, last]).rstrip()
    yield from (f"memory of {name}: {forecast.untold}" for name, forecast in found.items() if forecast.untold)


def _forecast(plan: Plan, step: Step, stage: Training, outside: Outside) -> Forecast:
    base = outside[base_of(plan).identity]
    assert isinstance(base, Model)
    model = read_anatomy(Path(base.base or base.path))
    data = [outside[source.identity] for source in step.inputs.get("data", ()) if source.step is None]
    known = len(data) == len(step.inputs.get("data", ()))
    known = known and not _draws(stage)  # answers are not there yet
    load = _load(stage, base, model, [d for d in data if isinstance(d, Dataset)]) if known else _most(stage)
    on_cpu, room = _room()
    adapter, teacher = _carried(plan, step, base, model), _teacher(plan, step, outside)
    if isinstance(stage, Taught) and stage.cache:  # it is gone before gradients and moments come
        teacher = max(0, teacher - 3 * (adapter.weights if adapter else model.weights))
    way = Way(
        narrow=computes_in(stage.dtype, device()) == "bfloat16",
        checkpointing=stage.gradient_checkpointing,
        offloading=stage.offload_activations,
        eight_bits=stage.optimizer == "adamw_8bit",
        own_reference=_own_reference(step, stage),
        own_reward="reward.model" in step.inputs,
        own_critic="critic" in stage.make_objective().needed() and step.form != "adapter",
        divergence=stage.keep.kl > 0 or isinstance(stage, Taught),
        scores=stage.objective.scores,
        teacher=teacher,
        anchors=bool(stage.keep.l2 or stage.keep.ewc) + bool(stage.keep.ewc),
        rules=sum(rule is not None for rule in (stage.forget, stage.stop_early)),
        on_cpu=on_cpu,
        adapter=adapter,
    )
    memory = estimate(model, way, load)
    return Forecast(load.tokens, known, memory, room, _cure(model, way, load, room))


def _room() -> tuple[bool, int]:
    """Whether a CPU computes, and the bytes that there are to compute in."""
    import torch

    if torch.cuda.is_available():
        return False, torch.cuda.get_device_properties(0).total_memory
    return True, memory_of_machine()


def _before(plan: Plan, step: Step) -> Iterator[Step]:
    """The steps that made what a step begins with, the last one first."""
    steps = {each.name: each for each in plan.steps}
    while (source := step.inputs["model"][0].step) in steps:
        step = steps[source]
        yield step


def _carried(plan: Plan, step: Step, base: Model, model: Anatomy) -> Carried | None:
    """The adapter that a step trains, None where it trains all weights."""
    if step.form != "adapter":
        return None
    for each in (step, *_before(plan, step)):
        if isinstance(each.stage, Training) and each.stage.adapter:
            return carried(each.stage.adapter.family, model)
    return carried_in(Path(base.path))


def _draws(stage: Training) -> bool:
    """Whether it learns from answers that it draws itself."""
    return isinstance(stage, Online) or (isinstance(stage, Taught) and stage.on_policy > 0)


def _teacher(plan: Plan, step: Step, outside: Outside) -> int:
    """The weights of the teacher, 0 where there is none. One that an earlier step makes has those of the recipe's model, or
    fewer."""
    if "teacher" not in step.inputs:
        return 0
    (source,) = step.inputs["teacher"]
    found = outside[(base_of(plan) if source.step else source).identity]
    assert isinstance(found, Model)
    return read_anatomy(Path(found.base or found.path)).weights


def _own_reference(step: Step, stage: Training) -> bool:
    """Whether a second copy of all weights is held: not where an adapter can be taken off, or changed."""
    if "reference" not in stage.make_objective().needed() and not stage.keep.kl:
        return False
    fresh = stage.adapter
    return step.form != "adapter" or (fresh is not None and getattr(fresh.family, "init", "") == "pissa")


def _load(stage: Training, base: Model, model: Anatomy, data: list[Dataset]) -> Load:
    from posttrain.models.load import load_format, load_tokenizer

    n, batch_size = min(SAMPLED * stage.batch_size, MOST_ROWS), _batch_size(stage)
    rows = [row for each in data for row in read(each, shape_of(each, stage.shapes()), limit=n).rows]
    form = load_format(base, load_tokenizer(base))
    trees = plant(rows, form, min(stage.max_length, model.context))
    if len(trees) < batch_size and len(rows) >= n:  # a batch of more rows than were looked at
        trees = tuple(islice(cycle(trees), batch_size))
    batches = [Batch(trees[i : i + batch_size]).split(stage.micro_tokens) for i in range(0, len(trees), batch_size)]
    largest = max(chain.from_iterable(batches), key=Batch.n_tokens)
    return Load(largest.n_tokens(), largest.counts().tokens, _pairs(largest.trees), max(map(len, batches)) == 1)


def _batch_size(stage: Training) -> int:
    """Rows of a batch, the replayed ones with them."""
    replay = stage.keep.replay
    return stage.batch_size + (max(1, round(stage.batch_size * replay.share / (1 - replay.share))) if replay else 0)


def _pairs(trees: tuple[Tree, ...]) -> int:
    """Pairs of a query and a key that packed attention computes."""
    from posttrain.models.attention import plan_of

    return sum(block.bias.numel() for block in plan_of(packed(trees).segments).blocks)


def _most(stage: Training) -> Load:
    """The most that the settings allow, where no row is there to look at."""
    row = stage.max_length * (2 if stage.objective.reads in (Pair, Ranked) else 1)
    whole = _batch_size(stage) * row * (stage.answers if isinstance(stage, Online) else 1)
    tokens = min(max(stage.micro_tokens, row), whole)
    return replace(Load.of_rows(tokens, stage.max_length), alone=tokens == whole)


def _cure(model: Anatomy, way: Way, load: Load, room: int) -> str:
    """The first change that makes it fit, the cheapest first."""
    small = load.scaled(FEW_TOKENS / max(load.tokens, FEW_TOKENS))
    again = replace(way, checkpointing=True)
    bytes_only = replace(again, eight_bits=True)
    lora = replace(again, adapter=carried(LoRA(), model), own_reference=False)
    changes = (
        (f"`micro_tokens: {FEW_TOKENS}`", way, small),
        ("`gradient_checkpointing: true`", again, load),
        (f"`gradient_checkpointing: true` and `micro_tokens: {FEW_TOKENS}`", again, small),
        (
            f"`gradient_checkpointing: true`, `micro_tokens: {FEW_TOKENS}` and `optimizer: adamw_8bit`",
            bytes_only,
            small,
        ),
        (f"`adapter: lora`, `gradient_checkpointing: true` and `micro_tokens: {FEW_TOKENS}`", lora, small),
    )
    fitting = (words for words, other, less in changes if estimate(model, other, less).total <= room)
    return f"Set {found}." if (found := next(fitting, None)) else "Take a smaller model, or a larger machine."
