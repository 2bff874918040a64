"""Rollouts: posttrain's sampler against transformers' generate, greedy, several answers to each prompt.

    python benchmarks/rollouts.py                       # three kinds of work, generate with sdpa and eager attention
    python benchmarks/rollouts.py --regimes short --threads 1 --dtype bfloat16

mixed: prompts of 20 to 400 tokens (log-normal), short: of 30 to 80, all answers equally long; varied: mixed prompts and
answers of 8 to 128 tokens, whose ends nobody knows beforehand. Lengths are forced on either side, so that all write the
same tokens; in float32 they are compared to the last one. generate decodes batches sorted by length with padding on the
left and its dynamic cache; `sdpa-drawn` and `eager-drawn` leave prompts in the order in which they are drawn, as TRL's
trainers hand them over. Every side is a process of its own, and they take rounds in turn, as in `fair`.
"""

import argparse
import math
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import chain
from typing import Any

from fair import RESULTS, Turns, ask, hear, keep, start
from verdict import Round, Side, spread

SETTINGS = {  # name -> attention, rows at once, weights in the precision that is computed in, batches sorted by length
    "sdpa": ("sdpa", 32, False, True),
    "eager": ("eager", 32, False, True),
    "sdpa-64": ("sdpa", 64, False, True),
    "eager-64": ("eager", 64, False, True),
    "sdpa-128": ("sdpa", 128, False, True),
    "eager-128": ("eager", 128, False, True),
    "sdpa-narrow": ("sdpa", 32, True, True),
    "eager-narrow": ("eager", 32, True, True),
    "sdpa-drawn": ("sdpa", 32, False, False),
    "eager-drawn": ("eager", 32, False, False),
}
REGIMES = ("mixed", "short", "varied")
SCALE = 6  # layers of a random model say little: without it each text is one token over and over
TIE = 1e-3  # two tokens whose logits differ by less are equally likely


@dataclass
class Work:
    """Prompts, one for each answer, and how long the answers are."""

    prompts: list[list[int]]
    lengths: list[int]


def work_of(args: argparse.Namespace) -> Work:
    import numpy as np
    from workload import LARGE, QUICK, SPECIAL

    draw = np.random.default_rng(0)
    n = args.prompts

    def lognormal(median: float, sigma: float, low: int, high: int, n: int) -> list[int]:
        drawn = np.exp(draw.normal(math.log(median), sigma, n)).clip(low, high) // args.shorter
        return [int(length) for length in drawn.clip(2)]

    if args.regime == "short":
        asked = [int(length) // args.shorter for length in draw.integers(30, 81, n)]
    else:
        asked = lognormal(90, 0.8, 20, 400, n)
    n_words = (QUICK if args.quick else LARGE)["vocab_size"]
    prompts = [draw.integers(len(SPECIAL), n_words, length).tolist() for length in asked]
    lengths = [args.new_tokens] * n * args.answers
    if args.regime == "varied":
        lengths = lognormal(48, 0.7, 8, 128, n * args.answers)
    return Work([prompt for prompt in prompts for _ in range(args.answers)], lengths)


def model_of(args: argparse.Namespace) -> Any:
    import torch
    from workload import causal_lm

    model = causal_lm(args).eval()
    model.generation_config.eos_token_id = None  # nothing but its length ends an answer
    with torch.no_grad():
        for weight in model.model.layers.parameters():
            if weight.ndim == 2:
                weight.mul_(SCALE)
    return model


def posttrain_side(args: argparse.Namespace, work: Work) -> tuple[str, Callable[[], list[list[int]]]]:
    from workload import tokenizer

    from posttrain.models import attention
    from posttrain.models.decoding import Answer, Asked, Flight
    from posttrain.models.policy import Policy
    from posttrain.models.sampler import Drawing, Sampling, TransformersSampler

    model = model_of(args)
    model.set_attn_implementation(attention.register())
    policy = Policy(model, tokenizer(args), dtype=args.dtype)
    sampler = TransformersSampler(policy, frozenset())
    sampling = Sampling(max_new_tokens=args.new_tokens)
    prompts = work.prompts[:: args.answers]

    def write() -> list[list[int]]:
        if args.regime != "varied":
            return sampler.sample(prompts, sampling, n=args.answers)
        asked = [Asked(prompt) for prompt in prompts]  # the sampler's engine, told where each answer ends
        answers = [Answer(i, asked[i // args.answers], length) for i, length in enumerate(work.lengths)]
        with policy.precision():
            Flight(policy, Drawing(sampling, 0), frozenset(), sampler.batch).run(answers)
        return [answer.tokens for answer in answers]

    return policy.dtype, write


def generate_side(args: argparse.Namespace, work: Work) -> tuple[str, Callable[[], list[list[int]]]]:
    import torch
    from transformers import GenerationConfig, StoppingCriteria
    from workload import PAD

    from posttrain.models.precision import computes_in

    attention, at_once, narrow, by_length = SETTINGS[args.side]
    model, dtype = model_of(args), computes_in(args.dtype, torch.device("cpu"))
    model.set_attn_implementation(attention)
    if narrow:
        model = model.to(getattr(torch, dtype))

    class AtLength(StoppingCriteria):
        def __init__(self, lengths: list[int], width: int):
            self.ends = torch.tensor(lengths) + width

        def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor, **kwargs: Any) -> torch.Tensor:
            return self.ends <= input_ids.shape[1]

    def batch(rows: list[int]) -> list[list[int]]:
        prompts, lengths = [work.prompts[i] for i in rows], [work.lengths[i] for i in rows]
        width = max(map(len, prompts))
        made = model.generate(
            torch.tensor([[PAD] * (width - len(p)) + p for p in prompts]),
            attention_mask=torch.tensor([[0] * (width - len(p)) + [1] * len(p) for p in prompts]),
            generation_config=GenerationConfig(max_new_tokens=max(lengths), do_sample=False, pad_token_id=PAD),
            stopping_criteria=[AtLength(lengths, width)],
        )
        return [row[width : width + length].tolist() for row, length in zip(made, lengths, strict=True)]

    def write() -> list[list[int]]:
        order = sorted(range(len(work.prompts)), key=lambda i: len(work.prompts[i]) if by_length else i)
        with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, enabled=dtype == "bfloat16" and not narrow):
            groups = [order[i : i + at_once] for i in range(0, len(order), at_once)]
            written = dict(zip(order, chain.from_iterable(map(batch, groups)), strict=True))
        return [written[i] for i in range(len(order))]

    return dtype, write


def side(args: argparse.Namespace) -> None:
    from workload import settle

    turns, told, work = Turns(), settle(args), work_of(args)
    dtype, write = (posttrain_side if args.side == "posttrain" else generate_side)(args, work)
    answers: list[list[int]] = []
    for _ in range(args.repeats + 1):
        turns.wait(**told, computes_in=dtype)
        answers = write()
        turns.count(sum(map(len, answers)), sum(map(len, work.prompts)) + sum(map(len, answers)))
        turns.done()
    turns.end(lambda: answers)


def compare(args: argparse.Namespace, regime: str) -> bool:
    """Lets the sides write in turn, prints what came out; whether all wrote the same."""
    args.regime = regime
    log, sides = RESULTS / "rollouts.log", [Side(name) for name in ("posttrain", *args.settings)]
    RESULTS.mkdir(exist_ok=True)
    with log.open("a", encoding="utf-8") as noise:
        processes = {each.name: start(__file__, each.name, noise, "--regime", regime) for each in sides}
        try:
            for each in sides:
                each.told = hear(processes[each.name], each, log)["ready"]
            for number in range(args.repeats + 1):
                for each in sides:
                    made = Round(**ask(processes[each.name], "go", each, log))
                    each.rounds += [made] if number else []  # the first round is for warming up
                    print(f"{regime} {number} {each.name:12} {made.rate:6.0f} tokens/s", file=sys.stderr, flush=True)
            for each in sides:
                each.told |= ask(processes[each.name], "end", each, log)
        finally:
            for process in processes.values():
                process.kill()
                process.wait()
    written = {each.name: each.told.pop("held_out") for each in sides}
    keep("rollouts.py", args, sides)
    print("\n".join(table(regime, sides)))
    faults = [fault for name in args.settings for fault in differences(args, name, written["posttrain"], written[name])]
    print("\n".join(faults) or "All sides wrote the same tokens.")
    return args.dtype != "float32" or not faults


def table(regime: str, sides: list[Side]) -> Iterator[str]:
    ours = sides[0]
    yield f"{regime}: {ours.rounds[0].answer_tokens} answer tokens a round, {ours.told}"
    yield "| side | answer tokens/s | posttrain is x times | by CPU time | peak MiB |"
    yield "|---|---|---|---|---|"
    for each in sides:
        cells = [each.name, spread([made.rate for made in each.rounds])]
        for rate in ("rate", "cpu_rate"):
            ratios = [getattr(a, rate) / getattr(b, rate) for a, b in zip(ours.rounds, each.rounds, strict=True)]
            cells.append("" if each is ours else spread(ratios, 2))
        cells.append(f"{each.told['peak_mib']:.0f}")
        yield f"| {' | '.join(cells)} |"


def differences(args: argparse.Namespace, name: str, ours: list[list[int]], theirs: list[list[int]]) -> Iterator[str]:
    """Answers that part at another place than a tie, by a forward pass of transformers alone."""
    import torch

    model, work = model_of(args), work_of(args)
    parted = [(i, a, b) for i, (a, b) in enumerate(zip(ours, theirs, strict=True)) if a != b]
    ties = 0
    for i, a, b in parted:
        at = next(k for k, (x, y) in enumerate(zip(a, b, strict=True)) if x != y)
        with torch.no_grad():
            logits = model(torch.tensor([work.prompts[i] + a[:at]]), use_cache=False).logits[0, -1]
        ties += abs(float(logits[a[at]] - logits[b[at]])) < TIE
    if ties:
        print(f"{name}: {ties} answers part where two tokens are equally likely")
    if len(parted) > ties:
        yield f"{name}: {len(parted) - ties} of {len(ours)} answers are others"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--regimes", nargs="+", choices=REGIMES, default=list(REGIMES))
    parser.add_argument("--settings", nargs="+", choices=SETTINGS, default=["sdpa", "eager"])
    parser.add_argument("--threads", type=int, help="default: what torch takes on this machine")
    parser.add_argument("--repeats", type=int, default=5, help="rounds after a warm-up round")
    parser.add_argument("--prompts", type=int, default=16)
    parser.add_argument("--answers", type=int, default=8, help="answers to each prompt")
    parser.add_argument("--new-tokens", type=int, default=64, help="length of an answer where all are equally long")
    parser.add_argument("--shorter", type=int, default=1, help="divide the length of every prompt and answer by this")
    parser.add_argument("--dtype", choices=["float32", "bfloat16"], default="float32")
    parser.add_argument("--quick", action="store_true", help="a tiny model and two rounds: does it run at all?")
    parser.add_argument("--side", help=argparse.SUPPRESS)
    parser.add_argument("--regime", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.quick:
        args.repeats, args.prompts, args.answers, args.new_tokens, args.shorter = 2, 6, 3, 8, 8
    if args.side:
        side(args)
        return 0
    alike = [compare(args, regime) for regime in args.regimes]
    return 0 if all(alike) else 1


if __name__ == "__main__":
    sys.exit(main())
