"""Every kind of adapter as recipes write it, small."""

from typing import Any

from posttrain.schema.artifacts import Model
from tests import tiny

VIRTUAL: dict[str, Any] = {
    "prompt": {"prompt": {"tokens": 5}},
    "p_tuning": {"p_tuning": {"tokens": 5, "hidden": 16}},
    "prefix": {"prefix": {"tokens": 5}},
}
MERGEABLE: dict[str, Any] = {
    "lora": {"lora": {"rank": 3}},
    "rslora": {"lora": {"rank": 3, "rslora": True, "alpha": 5}},
    "dora": {"lora": {"rank": 3, "dora": True}},
    "pissa": {"lora": {"rank": 3, "init": "pissa", "rslora": True}},
    "plus": {"lora": {"rank": 3, "plus": 8}},
    "qlora": {"qlora": {"rank": 3}},
    "ia3": "ia3",
    "osf": {"osf": {"kept": 0.6}},
}
KINDS = MERGEABLE | VIRTUAL


def wide(workshop: Any) -> Model:
    """A model whose rows are whole blocks of 64 weights, so that its layers can be held in four bits."""
    folder = workshop.folder / "wide"
    if not folder.exists():
        tiny.model(hidden_size=64, intermediate_size=128).save_pretrained(folder)
        tiny.tokenizer().save_pretrained(folder)
    found: Model = workshop.store.model(str(folder))
    return found
