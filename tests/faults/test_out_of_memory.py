"""Out of memory halves what is computed at once and goes on, to the weights that small portions would have made."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from posttrain.engine.environment import is_out_of_memory
from posttrain.engine.job import Job
from posttrain.engine.loop import Steps, fit
from posttrain.engine.portion import Portion
from posttrain.engine.source import FromRows
from posttrain.methods.objectives.dpo import DPO
from posttrain.methods.objectives.ppo import PPO
from posttrain.methods.objectives.sft import SFT
from posttrain.models.policy import Models, Policy
from posttrain.models.scorer import Scorer
from posttrain.schema.errors import MachineError
from tests import tiny
from tests.rolled import Again, rolled

WORDS = {
    "cuda": torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."),
    "linux": RuntimeError("[enforce fail at alloc_cpu.cpp:124] DefaultCPUAllocator: can't allocate memory: you tried"),
    "windows": RuntimeError("DefaultCPUAllocator: not enough memory: you tried to allocate 8589934592 bytes."),
    "python": MemoryError(),
}
ROOM = 60  # tokens that the pretended machine can compute at once


class Small(SFT):
    """SFT on a machine with little memory: part of a gradient is there already when it runs out."""

    def loss(self, models: Models, micro: Any, total: Any) -> Any:
        share = super().loss(models, micro, total)
        if micro.n_tokens() > ROOM:
            share[0].backward()
            raise FAILS[0]
        return share


class SmallPairs(DPO):
    """DPO whose reference has no room for many answers at once: it fails before the first gradient."""

    def prepare(self, batch: Any, models: Models) -> Any:
        if models.reference.micro_tokens > ROOM:
            raise FAILS[0]
        return super().prepare(batch, models)


class SmallWithCritic(PPO):
    """PPO on a machine with little memory."""

    def loss(self, models: Models, micro: Any, total: Any) -> Any:
        share = super().loss(models, micro, total)
        if micro.n_tokens() > ROOM:
            share[0].backward()
            raise FAILS[0]
        return share


FAILS: list[Exception] = []


def models() -> Models:
    return Models(*(Policy(tiny.model(seed=seed), tiny.tokenizer(), layout="packed") for seed in (1, 2)))


def trained(objective: Any, n_branches: int, micro_tokens: int, tmp_path: Path) -> tuple[bytes, list[dict[str, Any]]]:
    """The bytes of the weights after some steps, and the alerts on the way."""
    scratch = tmp_path / str(micro_tokens)
    scratch.mkdir()
    alerts: list[dict[str, Any]] = []
    job = Job(tmp_path, scratch, emit=lambda kind, **fields: alerts.append(fields) if kind == "alert" else None)
    both = models()
    fit(both, objective, FromRows(tiny.trees(8, n_branches), 4, seed=0), Steps(4, 1e-3, micro_tokens=micro_tokens), job)
    return b"".join(p.detach().numpy().tobytes() for p in both.policy.trainable()), alerts


@pytest.mark.slow
@pytest.mark.parametrize("words", WORDS)
def test_the_weights_are_those_of_small_portions_from_the_start(words: str, tmp_path: Path):
    FAILS[:] = [WORDS[words]]
    halved, alerts = trained(Small(), 1, 4096, tmp_path)
    (first, *_) = alerts
    assert "the step is begun again with" in first["title"]
    assert first["level"] == "warning"
    found = int(alerts[-1]["cure"].split("micro_tokens: ")[1].split("`")[0])
    assert 0 < found <= ROOM
    small, none = trained(SFT(), 1, found, tmp_path)
    assert not none
    assert halved == small, "nothing of the steps that failed is left in a gradient"


def test_a_reference_that_has_no_room_halves_as_well(tmp_path: Path):
    FAILS[:] = [WORDS["cuda"]]
    halved, alerts = trained(SmallPairs(), 2, 4096, tmp_path)
    assert alerts
    assert len(halved) == len(trained(DPO(), 2, 64, tmp_path)[0])


@pytest.mark.slow
def test_a_critic_keeps_nothing_of_a_step_that_failed(tmp_path: Path):
    FAILS[:] = [WORDS["cuda"]]
    ends = []
    for objective, micro_tokens in ((SmallWithCritic(), 4096), (PPO(), ROOM)):
        of = models()
        of.critic = Scorer(tiny.reward_model(seed=3), tiny.tokenizer(), layout="packed")
        steps, source = Steps(3, 1e-3, micro_tokens=micro_tokens), Again(rolled(tiny.trees(8, 2), seed=0))
        fit(of, objective, source, steps, Job(tmp_path, tmp_path))
        ends.append({name: p.detach().clone() for name, p in of.trained().items()})
        assert of.critic.micro_tokens <= ROOM or micro_tokens == ROOM
    for name, value in ends[0].items():
        assert torch.allclose(value, ends[1][name], atol=1e-5), name


@pytest.mark.slow
def test_below_one_row_the_cure_is_told(tmp_path: Path):
    class Smaller(SFT):
        """There is room for nothing."""

        def loss(self, models: Models, micro: Any, total: Any) -> Any:
            raise WORDS["cuda"]

    with pytest.raises(
        MachineError, match=r"Out of memory with one row of \d+ tokens at once.* Lower `max_length`"
    ) as told:
        trained(Smaller(), 1, 4096, tmp_path)
    assert told.value.exit_code == 4


def test_other_errors_are_no_lack_of_memory(tmp_path: Path):
    FAILS[:] = [RuntimeError("mat1 and mat2 shapes cannot be multiplied (3x4 and 5x6)")]
    with pytest.raises(RuntimeError, match="cannot be multiplied"):
        trained(Small(), 1, 4096, tmp_path)
    assert all(is_out_of_memory(error) for error in WORDS.values())


@pytest.mark.slow
def test_half_is_of_what_was_computed_and_no_less_than_a_row():
    """1000 allowed, 7 rows of 10 computed: half of it is 35. That allows 30, whose half is 15: one row at a time."""
    from posttrain.data.batch import Batch
    from posttrain.functional.layout import Branch, Tree

    batch = Batch(tuple(Tree((1, 2, 3), (Branch((4,) * 7, (True,) * 7),)) for _ in range(7)))
    both, tried = models(), []

    def work(tokens: int) -> None:
        tried.append(tokens)
        raise MemoryError

    with pytest.raises(MachineError):
        Portion(1000).within_memory(batch, both, Job(Path(), Path()), work)
    assert tried == [1000, 35, 15]
    assert both.policy.micro_tokens == both.reference.micro_tokens == 15


LIMITED = """
import json, resource, sys
from pathlib import Path
from posttrain.engine.job import Job
from posttrain.engine.loop import Steps, fit
from posttrain.engine.source import FromRows
from posttrain.methods.objectives.sft import SFT
from posttrain.models.policy import Models, Policy
from tests import tiny

def train(n_steps, micro_tokens, told):
    model = tiny.model(hidden_size=128, intermediate_size=512, num_hidden_layers=4, num_attention_heads=4)
    policy = Policy(model, tiny.tokenizer(), layout="packed", micro_tokens=micro_tokens)
    job = Job(Path(), Path(), emit=lambda kind, **fields: told.append(fields) if kind == "alert" else None)
    steps = Steps(n_steps, 1e-3, micro_tokens=micro_tokens)
    fit(Models(policy), SFT(), FromRows(tiny.trees(64, 1, longest=200), 64, seed=0), steps, job)
    return sum(float(p.double().sum()) for p in policy.trainable())

train(1, 600, [])
status = Path("/proc/self/status").read_text().splitlines()
used = next(int(line.split()[1]) << 10 for line in status if line.startswith("VmSize"))
resource.setrlimit(resource.RLIMIT_AS, (used + (120 << 20), resource.RLIM_INFINITY))
alerts = []
limited = train(2, 1 << 20, alerts)
print(json.dumps({"alerts": [alert["title"] for alert in alerts], "limited": limited, "small": train(2, 600, [])}))
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="needs a limit on the memory of a process")
def test_a_process_that_truly_runs_out_goes_on(tmp_path: Path):
    """12,800 tokens at once need about 400 MB, and 120 MB may be taken."""
    environment = {
        **os.environ,
        "OMP_NUM_THREADS": "1",
        "HF_HUB_OFFLINE": "1",
        "PYTHONPATH": str(Path(__file__).parents[2]),
    }
    done = subprocess.run(
        [sys.executable, "-c", LIMITED], check=False, capture_output=True, text=True, env=environment, cwd=tmp_path, timeout=300
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout.splitlines()[-1])
    assert told["alerts"], "the limit was too wide for this test"
    assert told["limited"] == pytest.approx(told["small"], rel=1e-5)
