"""How much memory a training step takes, before anything is loaded. Pure: numbers in, bytes out.

    parameters    4 bytes a weight: they stay in fp32                      + 2 for bf16's copies of the matrices
    copies        of the weights as they were: a reference that no adapter shares, what pulls back to the start, the
                  last good weights of a rule that watches and the optimizer's state with them; and a teacher's weights
    gradients     4 bytes a trained weight
    optimizer     8 bytes a trained weight, or 2 and the scales of AdamW in eight bits
    logits        of N trained tokens and V words: the exponentials, N V, while they fit KEEP_BYTES, and what the head's
                  backward pass works with
    activations   of T tokens: what every layer keeps, and what the backward pass of one works with

A layer keeps what its own derivatives ask for. Of width D: a norm its input, and where its weight learns the
normalised input too; a matrix that learns, or carries an adapter, its input, once for matrices that share it; attention
its queries, keys, values and weights; an inner layer of width I what goes into the activation function and, where it
is gated, both factors. Under gradient checkpointing a layer keeps D, and one layer at a time all of this.
"""

from dataclasses import asdict, dataclass, fields

from posttrain.functional.logps import CHUNK_ELEMENTS, CHUNK_ELEMENTS_ON_CPU, KEEP_BYTES, SHORTEST_CHUNK
from posttrain.models.adapters.carried import Carried
from posttrain.models.anatomy import Anatomy

from .optimizer import BITS_FROM

FOUR_BITS = 0.5 + 1 / 64 + 4 / (64 * 256)  # bytes a weight: NF4, its scales, theirs
KEPT_BY = {"gelu_new": 4, "gelu_fast": 5, "gelu_python": 3, "gelu_accurate": 5, "quick_gelu": 2}  # others: 1


@dataclass(frozen=True)
class Load:
    """The largest micro-batch: tokens computed, tokens trained, pairs of a query and a key. `alone` when a step has no
    other, so that no gradient waits while it is computed."""

    tokens: int
    trained: int
    pairs: int
    alone: bool = False

    @classmethod
    def of_rows(cls, tokens: int, length: int) -> "Load":
        """The most that `tokens` can ask for in rows of `length`: every token trained, every row full."""
        return cls(tokens, tokens, tokens * length // 2)

    def scaled(self, share: float) -> "Load":
        """This share of it, with the rest of a step left for other micro-batches."""
        return Load(round(share * self.tokens), round(share * self.trained), round(share * self.pairs))


@dataclass(frozen=True)
class Way:
    """How the step is computed. Without an `adapter` all weights are trained. `anchors` counts tensors kept beside
    each trained one to pull it back, `rules` those that keep good weights to go back to; with a `divergence` from the
    start or a teacher the head is gone through twice, and what `scores` goes through none. A reference, a reward model and a
    critic are each a copy of all weights where they are its `own`, as they share none with the policy; a critic is trained
    as the policy is. `teacher` counts the weights of another model that is asked."""

    narrow: bool = False
    checkpointing: bool = False
    offloading: bool = False
    eight_bits: bool = False
    own_reference: bool = False
    own_reward: bool = False
    own_critic: bool = False
    divergence: bool = False
    scores: bool = False
    teacher: int = 0
    anchors: int = 0
    rules: int = 0
    on_cpu: bool = True
    adapter: Carried | None = None


@dataclass(frozen=True)
class Memory:
    """Bytes by what they are for."""

    parameters: int
    copies: int
    optimizer: int
    gradients: int
    activations: int
    logits: int

    @property
    def total(self) -> int:
        return sum(getattr(self, part.name) for part in fields(self))

    def as_dict(self) -> dict[str, int]:
        return {**asdict(self), "total": self.total}


def estimate(model: Anatomy, way: Way, load: Load) -> Memory:
    """The peak of a training step, by what the bytes are for."""
    trained = way.adapter.weights if way.adapter else model.weights
    kept, works = _layers(model, way, load)
    logits = _logits(model, way, load)
    optimizer = _optimizer(trained, way.eight_bits)
    beside = 4 * way.anchors * trained + way.rules * (4 * trained + optimizer)
    copies = way.own_reference + way.own_reward + way.own_critic
    return Memory(
        parameters=_parameters(model, way),
        copies=beside + 4 * (model.weights * copies + way.teacher),
        optimizer=optimizer * (1 + way.own_critic),
        gradients=4 * trained * (1 + way.own_critic),
        activations=round(kept + max(0, works - logits)),
        logits=round(logits),
    )


def _parameters(model: Anatomy, way: Way) -> int:
    in_matrices = sum(m.n_out * m.n_in for m in model.matrices)
    base = 4 * model.weights
    if way.adapter and way.adapter.four_bits:
        base -= round((4 - FOUR_BITS) * in_matrices)
    beside = 4 * (way.adapter.weights + way.adapter.frozen) if way.adapter else 0
    return base + beside + (2 * in_matrices if way.narrow else 0)


def _optimizer(trained: int, eight_bits: bool) -> int:
    """Two moments; in eight bits with two scales for each block of 256. Small tensors are too few to count."""
    return 2 * trained + 2 * 4 * trained // 256 if eight_bits and trained >= BITS_FROM else 8 * trained


def _layers(model: Anatomy, way: Way, load: Load) -> tuple[float, float]:
    """(bytes kept until the backward pass, bytes that the backward pass of one layer works with)."""
    wide, narrow = 4, 2 if way.narrow else 4
    full = way.adapter is None
    of_norm = 2 if model.root_mean_square and full else 1
    norms = model.norms * of_norm
    heads = model.head_norms * (2 if full else 1)
    inner = model.inner * (KEPT_BY.get(model.activation, 1) + (2 if model.gated else 0))
    a_token = wide * (norms + heads) + narrow * (model.attended + inner + _read(model, way))
    layers = a_token * load.tokens + narrow * model.heads * model.layers * load.pairs
    stream = wide * model.width * load.tokens
    one = layers / model.layers
    work = narrow * load.tokens * (2 * model.inner / model.layers + 2 * model.width)
    if way.checkpointing:
        return stream * (of_norm + (0 if way.offloading else model.layers)), one + work
    return of_norm * stream + (one if way.offloading else layers), work


def _read(model: Anatomy, way: Way) -> float:
    """Summed width of what learning matrices keep of their inputs, and what adapters keep beside."""
    learning = [m for m in model.matrices if way.adapter is None or way.adapter.reads(m)]
    beside = way.adapter.keeps if way.adapter else 0
    if way.narrow:  # what a norm gives is wide: each matrix has a narrow copy of its own
        return beside + sum(m.n_in * m.share for m in learning)
    return beside + sum({m.site: m.n_in * m.share for m in learning}.values())


def _logits(model: Anatomy, way: Way, load: Load) -> float:
    """Bytes at the start of the backward pass: the head's inputs and their gradient, exponentials, chunks at work."""
    if way.scores:
        return 0.0
    size = 2 if way.narrow else 4
    chunk = max(SHORTEST_CHUNK, (CHUNK_ELEMENTS_ON_CPU if way.on_cpu else CHUNK_ELEMENTS) // model.vocabulary)
    whole = size * load.trained * model.vocabulary
    kept = whole if whole <= KEEP_BYTES else 0
    working = 4 * min(chunk, load.trained) * model.vocabulary * (1 if kept else 2)
    head = 4 * model.vocabulary * model.width if way.adapter is None and not load.alone else 0
    once = kept + working + head + 2 * size * load.trained * model.width
    return 2 * once if way.divergence else once
