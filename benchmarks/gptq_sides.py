"""The sides of `gptq.py`: who makes the model, who rounds it, each in the Python that it needs, and who judges what came out."""

import argparse
import json
import time
from collections.abc import Iterator, Mapping
from copy import deepcopy
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

SIZES = {
    "large": {"vocab_size": 8192, "hidden_size": 512, "intermediate_size": 1536, "num_hidden_layers": 8},
    "small": {"vocab_size": 2048, "hidden_size": 256, "intermediate_size": 768, "num_hidden_layers": 4},
}
STEPS, STEP = {"large": 80, "small": 100}, (8, 128)  # of the training, and the texts and tokens of each
OURS: dict[str, dict[str, Any]] = {
    "posttrain": {"correct": 0, "polish": 0, "search": False},
    "search": {"correct": 0, "polish": 0},
    "default": {},
    "rtn": {},
}
AT_ONCE = 4096  # tokens, of peers too: posttrain's own number


def prepare(args: argparse.Namespace) -> None:
    """A tokenizer and a model, trained on texts so briefly that it takes minutes, and the ids that are looked at."""
    import torch
    from tokenizers import ByteLevelBPETokenizer
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    size, files = SIZES[args.size], sorted(args.text)
    words = ByteLevelBPETokenizer()
    words.train(list(map(str, files)), size["vocab_size"], special_tokens=["<eos>"], show_progress=False)
    ids = torch.tensor(words.encode("\n".join(path.read_text(encoding="utf-8") for path in files)).ids)
    learnt, held_out = ids[: -args.held_out * args.length], ids[-args.held_out * args.length :]
    torch.manual_seed(0)
    heads = size["hidden_size"] // 64
    config = LlamaConfig(
        **size, num_attention_heads=heads, num_key_value_heads=heads // 2, bos_token_id=None, eos_token_id=0
    )
    model = LlamaForCausalLM(config)
    _train(model, learnt, STEPS[args.size])
    model.save_pretrained(args.dense)
    PreTrainedTokenizerFast(tokenizer_object=words._tokenizer, eos_token="<eos>").save_pretrained(args.dense)
    looked_at = _cut(learnt, args.sequences, args.length)
    cut = {"calibration": looked_at.tolist(), "held_out": held_out.view(-1, args.length).tolist()}
    (args.dense / "ids.json").write_text(json.dumps(cut), encoding="utf-8")


def _train(model: Any, ids: Any, steps: int) -> None:
    import torch

    optimizer = torch.optim.AdamW(model.parameters(), betas=(0.9, 0.95))
    rate = torch.optim.lr_scheduler.OneCycleLR(optimizer, 2e-3, total_steps=steps, pct_start=0.1)
    for step in range(1, steps + 1):
        batch = _cut(ids, *STEP)
        loss = model(input_ids=batch, labels=batch, use_cache=False).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        rate.step()
        optimizer.zero_grad()
        print(f"step {step}: loss {loss.item():.3f}", flush=True)


def _cut(ids: Any, n: int, length: int) -> Any:
    """(n, length): pieces of a text at drawn places."""
    import torch

    starts = torch.randint(len(ids) - length, (n,)).tolist()
    return torch.stack([ids[start : start + length] for start in starts])


def texts(args: argparse.Namespace, part: str) -> Any:
    """(N, T): token ids."""
    import torch

    return torch.tensor(json.loads((args.dense / "ids.json").read_text(encoding="utf-8"))[part])


def posttrain_side(args: argparse.Namespace) -> float:
    """The stage itself, but for the ids, which are given."""
    from posttrain.engine.job import Job
    from posttrain.methods.transforms import gptq, rtn
    from posttrain.schema.artifacts import Model

    model, seconds = Model(args.dense, ""), [0.0]
    compress = gptq.compress

    def timed(*given: Any) -> Any:
        began = time.perf_counter()
        made = compress(*given)
        seconds[0] = time.perf_counter() - began
        return made

    gptq.calibration, gptq.compress = lambda *_: texts(args, "calibration"), timed  # type: ignore[assignment]
    args.made.mkdir()
    with TemporaryDirectory(dir=args.folder) as scratch:
        job = Job(args.made, Path(scratch))
        if args.side == "rtn":
            rtn.RTN(dtype="float32").run(job, model=model)
        else:
            gptq.GPTQ(data="given", dtype="float32", **OURS[args.side]).run(job, model=model, data=())
    return seconds[0]


def llmcompressor_side(args: argparse.Namespace) -> float:
    import torch
    from llmcompressor import oneshot
    from llmcompressor.modifiers.gptq import GPTQModifier
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(args.dense, dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(args.dense)
    rows = [{"input_ids": row, "attention_mask": torch.ones_like(row)} for row in texts(args, "calibration")]
    loader = torch.utils.data.DataLoader(rows, batch_size=max(1, AT_ONCE // args.length))
    recipe = GPTQModifier(scheme="W4A16", targets="Linear", ignore=["lm_head"], actorder="static", dampening_frac=0.01)
    began = time.perf_counter()
    oneshot(model=model, processor=tokenizer, dataset=loader, recipe=recipe)
    seconds = time.perf_counter() - began
    model.save_pretrained(args.made, save_compressed=True)
    tokenizer.save_pretrained(args.made)
    return seconds


def gptqmodel_side(args: argparse.Namespace) -> float:
    from gptqmodel import GPTQModel, QuantizeConfig

    told = QuantizeConfig(bits=4, group_size=128, sym=True, desc_act=False, act_group_aware=True, damp_percent=0.01)
    model = GPTQModel.load(str(args.dense), told, device="cpu", dtype="float32")
    rows = [{"input_ids": row, "attention_mask": [1] * len(row)} for row in texts(args, "calibration").tolist()]
    began = time.perf_counter()
    model.quantize(rows, batch_size=max(1, AT_ONCE // args.length))
    seconds = time.perf_counter() - began
    model.save(str(args.made))
    return seconds


def judge(args: argparse.Namespace) -> dict[str, Any]:
    """For each side the error of every matrix, the divergence of every text and the share of equal tokens."""
    import torch

    from posttrain.functional.rounding import output_error
    from posttrain.models.load import load_weights
    from posttrain.schema.artifacts import Model

    dense = load_weights(Model(args.dense, ""), at=torch.device("cpu")).eval()
    made = {name: _read(args.folder / name, dense) for name in args.sides}
    matrices = {name: dict(model.named_modules()) for name, model in made.items()}
    found: dict[str, Any] = {name: {"errors": {}, "kl": [], "same": 0.0} for name in made}
    for matrix, weight, gram in _heard(dense, texts(args, "calibration")):
        for name in made:
            found[name]["errors"][matrix] = output_error(weight, matrices[name][matrix].weight, gram)
    held_out = texts(args, "held_out")
    for some in held_out.split(4):
        p = dense(input_ids=some, use_cache=False).logits.log_softmax(-1)
        for name, model in made.items():
            q = model(input_ids=some, use_cache=False).logits.log_softmax(-1)
            found[name]["kl"] += (p.exp() * (p - q)).sum(-1).mean(-1).tolist()
            found[name]["same"] += float((p.argmax(-1) == q.argmax(-1)).sum()) / held_out.numel()
    return found


def _heard(dense: Any, ids: Any) -> Iterator[tuple[str, Any, Any]]:
    """Every matrix of the dense model, its weight and the G of what it reads."""
    import torch

    from posttrain.engine.layerwise import heard
    from posttrain.models.blocks import Blocks
    from posttrain.models.inputs import groups

    blocks = Blocks(dense, ids, torch.device("cpu"))
    for block in blocks:
        inputs = heard(blocks, block, groups(block, blocks.some()))
        yield from ((name, linear.weight, inputs.of(name)[0]) for name, linear in block.linears().items())


def _read(folder: Path, dense: Any) -> Any:
    """What a side saved: by posttrain's own loader, or, of GPTQModel's format, which it has none for, below."""
    from safetensors.torch import load_file

    from posttrain.models.load import load_weights
    from posttrain.schema.artifacts import Model

    if folder.name != "gptqmodel":
        return load_weights(Model(folder, "", form="compressed-tensors")).eval()
    state: dict[str, Any] = {}
    for path in folder.glob("*.safetensors"):
        state |= load_file(path)
    names = [name.removesuffix(".qweight") for name in state if name.endswith(".qweight")]
    whole = {name: x for name, x in state.items() if name.rpartition(".")[0] not in names}
    model = deepcopy(dense)
    model.load_state_dict(whole | {f"{name}.weight": _dequantised(state, name) for name in names})
    return model


def _dequantised(state: Mapping[str, Any], name: str) -> Any:
    """(R, C) of GPTQ's format: eight columns in an integer, zeros less one."""
    import torch

    shifts = torch.arange(0, 32, 4)
    q = (state[f"{name}.qweight"][:, None, :] >> shifts[None, :, None] & 15).flatten(0, 1)  # (C, R)
    zero = (state[f"{name}.qzeros"][:, :, None] >> shifts & 15).flatten(1) + 1  # (K, R)
    of = state[f"{name}.g_idx"].long()
    return (state[f"{name}.scales"].float()[of] * (q - zero[of])).t()


def run(args: argparse.Namespace) -> None:
    """Is one side, and writes what there is to say of it."""
    if args.side == "prepare":
        said: Any = prepare(args)
    elif args.side == "judge":
        import torch

        with torch.no_grad():
            said = judge(args)
    else:
        rounds = {"llmcompressor": llmcompressor_side, "gptqmodel": gptqmodel_side}.get(args.side, posttrain_side)
        said = rounds(args)
    args.said.write_text(json.dumps(said), encoding="utf-8")
