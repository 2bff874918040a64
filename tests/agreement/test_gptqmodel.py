"""GPTQ's own layout beside GPTQModel, where it is installed in a Python of its own: both read what either wrote.

python -m venv FOLDER && FOLDER/bin/pip install torch==2.13.0 transformers==5.23.0 accelerate threadpoolctl device-smi logbar
FOLDER/bin/pip install --no-deps gptqmodel==7.7.0 optimum==2.3.0 pypcre tokenicer defuser torchao
GPTQMODEL_PYTHON=FOLDER/bin/python python -m pytest tests/agreement/test_gptqmodel.py
"""

import os
import subprocess
from pathlib import Path

import pytest
import torch

from posttrain.models.load import load_weights
from posttrain.schema.artifacts import Model
from tests import tiny
from tests.methods.conftest import workshop  # noqa: F401, a fixture

PYTHON = os.environ.get("GPTQMODEL_PYTHON")
SCRIPT = Path(__file__).parent / "beside_gptqmodel.py"
IDS = torch.randint(6, tiny.VOCABULARY, (4, 32), generator=torch.Generator().manual_seed(0))
OURS = {
    f"{bits}{'' if symmetric else '-asymmetric'}-{group}": {"bits": bits, "symmetric": symmetric, "group": group}
    for bits, symmetric, group in [(2, True, 32), (3, True, None), (4, True, 32), (4, False, 32), (8, False, None)]
}
HALF = 2**-10  # of a weight: it multiplies in float16

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not PYTHON, reason="GPTQMODEL_PYTHON names no Python that has gptqmodel"),
]


def theirs(where: Path, *words: object) -> None:
    done = subprocess.run(
        [str(PYTHON), str(SCRIPT), *map(str, words)], capture_output=True, text=True, timeout=1200, check=False,
        cwd=where, env={**os.environ, "PYTHONPATH": "", "HF_HUB_OFFLINE": "1", "GPTQMODEL_CPU_WORKERS": "2"},
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]


def agrees(folder: Path, model: Model) -> None:
    """That what we compute with what a folder holds is what they do."""
    ours = load_weights(model)
    dense, logits = torch.load(f"{folder}.dense"), torch.load(f"{folder}.logits")
    assert len(dense) == 14
    for name, weight in dense.items():
        mine = ours.get_parameter(f"{name}.weight")
        assert ((mine - weight).abs() <= HALF * mine.abs() + 1e-6).all(), (folder.name, name)
    with torch.no_grad():
        p, q = (x.log_softmax(-1) for x in (ours(input_ids=IDS).logits, logits))
    assert float((p.exp() * (p - q)).sum(-1).mean()) < 3e-5, folder.name  # their CPU kernels multiply in half precision


def source(folder: Path) -> Path:
    tiny.model(hidden_size=64, intermediate_size=96).save_pretrained(folder / "source")
    tiny.tokenizer().save_pretrained(folder / "source")
    torch.save(IDS, folder / "ids")
    return folder / "source"


def test_it_computes_what_we_do_with_what_we_wrote(workshop, tmp_path):  # noqa: F811
    model = workshop.store.model(str(source(tmp_path)))
    made = {name: workshop.run("rtn", model, layout="gptq", **options) for name, options in OURS.items()}
    for name, each in made.items():
        (tmp_path / name).symlink_to(each.path)
    theirs(tmp_path, "read", tmp_path / "ids", *(tmp_path / name for name in made))
    for name, each in made.items():
        agrees(tmp_path / name, each)


def test_we_compute_what_it_does_with_what_it_wrote(workshop, tmp_path):  # noqa: F811
    """In the order of the columns or of their inputs, with zeros anywhere, in both versions, and with bits of some matrices."""
    theirs(tmp_path, "make", source(tmp_path), tmp_path / "theirs")
    folders = sorted((tmp_path / "theirs").iterdir())
    assert len(folders) == 7
    readable = [
        folder for folder in folders if folder.name != "dynamic"
    ]  # transformers gives all matrices the same bits
    theirs(tmp_path, "read", tmp_path / "ids", *readable)
    for folder in readable:
        model = workshop.store.model(str(folder))
        assert model.form == "gptq"
        agrees(folder, model)
    dynamic = load_weights(workshop.store.model(str(tmp_path / "theirs" / "dynamic")))
    plain = load_weights(workshop.store.model(str(tmp_path / "source")))
    off = {
        name: float((x - plain.get_parameter(name)).detach().norm() / x.detach().norm())
        for name, x in dynamic.named_parameters()
        if "_proj" in name
    }
    for name, error in off.items():
        assert (error < 0.01) == ("down_proj" in name), (name, error)
