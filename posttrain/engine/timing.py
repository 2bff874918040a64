"""How quickly a model reads and writes, and what memory that takes, in a process of its own: nothing else counts then.

    dense, adapter    our own engine on transformers; so are integers of any layout, as the numbers that they stand for
    gguf              llama.cpp where it is installed, one text at a time; else as dense numbers

`python -m posttrain.engine.timing` reads what is asked as JSON and prints what was found.
"""

import json
import os
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from posttrain.schema.artifacts import Model

from .apart import run_apart
from .environment import cores
from .method import WEIGHTS


@dataclass(frozen=True)
class Asked:
    """What is timed: `prompts` made-up texts of `prompt_tokens`, answers of `new_tokens`, so many passes after a first one."""

    path: str
    form: str
    base: str | None
    seed: int
    prompts: int
    prompt_tokens: int
    new_tokens: int
    passes: int


@dataclass(frozen=True)
class Timed:
    """Seconds of each pass over all prompts, those of writing with the reading before it; `memory` is the peak less what the
    program took before the model was loaded, in bytes, on the `device`; `at_once` are the prompts that are answered together."""

    engine: str
    device: str
    threads: int
    at_once: int
    reading: list[float]
    writing: list[float]
    memory: int


def timed(model: Model, *, seed: int, **sizes: int) -> Timed:
    """What a process of its own found. Raises MachineError where it ran out of memory, PosttrainError where it failed."""
    asked = Asked(str(model.path), model.form, model.base, seed, **sizes)
    smaller = "Time fewer `prompts` at once, or shorter ones."
    said = run_apart(["-m", __name__, json.dumps(asdict(asked))], "timing the model", smaller)
    return Timed(**json.loads(said.splitlines()[-1]))


def _passes(asked: Asked, work: Callable[[], object]) -> list[float]:
    work()
    seconds = []
    for _ in range(asked.passes):
        start = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - start)
    return seconds


def _resident(name: str) -> int:
    """VmRSS now, or VmHWM, the most since it was forgotten, in bytes; where the system has no /proc the most ever."""
    status = Path("/proc/self/status")
    if not status.is_file():
        import resource

        most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return most if sys.platform == "darwin" else most << 10
    return next(int(line.split()[1]) << 10 for line in status.read_text().splitlines() if line.startswith(name))


def _forget_the_peak() -> int:
    """From here on the peak is counted; what is resident now."""
    with suppress(OSError):  # where it cannot be forgotten, what the imports took at most counts as well
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    return _resident("VmRSS")


def _in_own_engine(asked: Asked) -> Timed:
    import torch

    from posttrain.data.batch import Batch
    from posttrain.functional.layout import Branch, Tree
    from posttrain.models.load import load_policy, load_tokenizer, skeleton
    from posttrain.models.sampler import Sampling, TransformersSampler
    from posttrain.models.vocabulary import n_rows

    model = Model(Path(asked.path), "", form=asked.form, base=asked.base)
    load_tokenizer(model)
    with torch.device("meta"):  # imports all that the model's kind needs, which is none of its memory
        skeleton(Path(model.base or model.path), scores=False)
    before = _forget_the_peak()
    policy = load_policy(model)
    sampler = TransformersSampler(policy, frozenset())
    prompts = _prompts(asked, n_rows(policy.model))
    trees = tuple(Tree(tuple(p[:-1]), (Branch(tuple(p[-1:]), (True,)),)) for p in prompts)
    reading = _passes(asked, lambda: policy.score(Batch(trees)))
    writing = _passes(asked, lambda: sampler.sample(prompts, Sampling(max_new_tokens=asked.new_tokens)))
    on_gpu = policy.device.type == "cuda"
    memory = torch.cuda.max_memory_allocated() if on_gpu else _resident("VmHWM") - before
    as_numbers = "" if asked.form in WEIGHTS else " (as dense numbers)"
    engine, threads = f"transformers{as_numbers}", torch.get_num_threads()
    return Timed(engine, policy.device.type, threads, asked.prompts, reading, writing, memory)


def _prompts(asked: Asked, words: int) -> list[list[int]]:
    import torch

    draw = torch.Generator().manual_seed(asked.seed)
    found: list[list[int]] = torch.randint(words, (asked.prompts, asked.prompt_tokens), generator=draw).tolist()
    return found


def _in_llama_cpp(asked: Asked) -> Timed:
    from posttrain.models import llama_cpp
    from posttrain.models.gguf_file import file_in

    threads = int(os.environ.get("OMP_NUM_THREADS") or cores())
    llama_cpp.package()
    before = _forget_the_peak()
    llama = llama_cpp.at_speed(file_in(Path(asked.path)), asked.prompt_tokens + asked.new_tokens, threads)
    prompts = _prompts(asked, llama.n_vocab())

    def read(new_tokens: int = 0) -> None:
        for prompt in prompts:
            llama.reset()
            llama.eval(prompt)
            for _ in range(new_tokens):
                llama.eval([llama.sample(temp=0.0)])

    reading, writing = _passes(asked, read), _passes(asked, lambda: read(asked.new_tokens))
    return Timed("llama.cpp", "cpu", threads, 1, reading, writing, _resident("VmHWM") - before)


def main(words: list[str]) -> None:
    """The program."""
    from posttrain.models import llama_cpp

    asked = Asked(**json.loads(words[0]))
    own = asked.form != "gguf" or not llama_cpp.installed()
    found: dict[str, Any] = asdict(_in_own_engine(asked) if own else _in_llama_cpp(asked))
    print(json.dumps(found))


if __name__ == "__main__":
    main(sys.argv[1:])
