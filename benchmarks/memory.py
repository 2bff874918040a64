"""Memory of preference learning: DPO with LoRA beside SFT with LoRA, in each step the same answer tokens.

    python benchmarks/memory.py
    python benchmarks/memory.py --batch 16 --dtype bfloat16

The reference is the model without its adapter, so it costs no weights, and it is asked before there is a graph to keep.
Either side is a process of its own and computes all of a step at once. Its peak is the most that was resident in a
training, less what was resident before: with everything imported and a first small training done. Linux only.
"""

import argparse
import gc
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

SIDES = ("sft", "dpo")
MOST = 1.3  # times what SFT needs
LEARNING_RATE = 1e-4
GIVEN_BACK_AT_ONCE = {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536", "MALLOC_ARENA_MAX": "1"}


def options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, help="default: what torch takes on this machine")
    parser.add_argument("--steps", type=int, default=2, help="optimizer steps")
    parser.add_argument("--batch", type=int, default=8, help="pairs in a step of DPO; of SFT twice as many rows")
    parser.add_argument("--shorter", type=int, default=1, help="divide the length of every prompt and answer by this")
    parser.add_argument("--rank", type=int, default=16, help="of LoRA, on all linear layers")
    parser.add_argument("--dtype", choices=["float32", "bfloat16"], default="float32")
    parser.add_argument("--micro-tokens", type=int, default=1 << 20, help="tokens computed at once")
    parser.add_argument("--quick", action="store_true", help="a tiny model, not judged: does it run at all?")
    parser.add_argument("--side", choices=SIDES, help=argparse.SUPPRESS)
    return parser.parse_args()


def measured(args: argparse.Namespace) -> dict[str, float]:
    """MiB before and at the peak of one side's training, and the answer tokens of a step."""
    from workload import rows, settle

    settle(args)
    models, objective = _models(args)
    small = argparse.Namespace(**{**vars(args), "shorter": 10 * args.shorter, "steps": 1, "batch": 1})
    _train(small, models, objective, rows(small, 2))
    gc.collect()
    before = resident("VmRSS")
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    trained = rows(args, 2)
    _train(args, models, objective, trained)
    n_learnt = sum(row.answer_tokens() for row in trained) / args.steps
    return {"before": before, "peak": resident("VmHWM") - before, "answer_tokens": n_learnt}


def _models(args: argparse.Namespace) -> tuple[Any, Any]:
    from workload import BETA, causal_lm, tokenizer

    from posttrain.methods.objectives.dpo import DPO
    from posttrain.methods.objectives.sft import SFT
    from posttrain.models import attention
    from posttrain.models.adapters import NAME, Adapter, attach
    from posttrain.models.policy import Models, Policy

    words = tokenizer(args)
    base = causal_lm(args)
    base.set_attn_implementation(attention.register())
    adapted = attach(base, Adapter.model_validate({"lora": {"rank": args.rank}}), words, seed=0)
    told = {"dtype": args.dtype, "micro_tokens": args.micro_tokens}
    policy = Policy(adapted, words, adapter=NAME, **told)
    if args.side == "sft":
        return Models(policy), SFT()
    return Models(policy, Policy(adapted, words, adapter=None, layout=policy.layout, **told)), DPO(beta=BETA)


def _train(args: argparse.Namespace, models: Any, objective: Any, pairs: list[Any]) -> None:
    """An epoch; SFT learns the answers of the pairs one by one."""
    from ours import source_of, train
    from workload import Row

    if args.side == "sft":
        pairs = [Row(row.prompt, [answer], [1.0]) for row in pairs for answer in row.answers]
        args = argparse.Namespace(**{**vars(args), "batch": 2 * args.batch})
    train(args, objective, models, source_of(args, pairs), LEARNING_RATE)


def resident(name: str) -> float:
    """VmRSS now, or VmHWM, the most since it was forgotten; in MiB."""
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith(name))


def main() -> int:
    args = options()
    if args.quick:
        args.batch, args.shorter = 4, 8
    if args.side:
        print(json.dumps(measured(args)))
        return 0
    found = {}
    for side in SIDES:
        command = [sys.executable, __file__, *sys.argv[1:], "--side", side]
        done = subprocess.run(
            command, check=True, stdout=subprocess.PIPE, text=True, env={**os.environ, **GIVEN_BACK_AT_ONCE}
        )
        found[side] = json.loads(done.stdout.splitlines()[-1])
    print("| side | answer tokens a step | MiB before | MiB more at the peak | times SFT |\n|---|---|---|---|---|")
    for side, of in found.items():
        times = of["peak"] / found["sft"]["peak"]
        print(f"| {side} | {of['answer_tokens']:.0f} | {of['before']:.0f} | {of['peak']:.0f} | {times:.2f} |")
    return 0 if args.quick or found["dpo"]["peak"] <= MOST * found["sft"]["peak"] else 1


if __name__ == "__main__":
    sys.exit(main())
