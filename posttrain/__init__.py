"""posttrain: one recipe takes a base language model to a measured, shipped one.

    import posttrain as pt

    ran = pt.run("quickstart", ["sft.learning_rate=1e-4"])            # a recipe, with overrides
    tuned = pt.train("lab", pt.SFT(), data="lab:chat/train")          # one stage
    found = pt.measure(tuned, [pt.Benchmark(data="lab:chat/test")])   # one model
    print(pt.compare(ran.models["base"], ran.models["sft"]))          # any two

Every method is a class here, by its own name: `pt.SFT`, `pt.DPO`, `pt.FewShot`. Nothing heavy is imported before it is
used.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from posttrain.pipeline.calls import compare, measure, train
    from posttrain.pipeline.run import run

__all__ = ["compare", "measure", "run", "train"]

_CALLS = {"run": "posttrain.pipeline.run"}


def __getattr__(name: str) -> Any:
    if name in __all__:
        return getattr(import_module(_CALLS.get(name, "posttrain.pipeline.calls")), name)
    if name[:1].isupper():
        from posttrain.schema.find import class_of, methods

        found = [method for method in methods() if method.replace("_", "") == name.lower()]
        if found:
            return class_of(found[0])
    raise AttributeError(f"module 'posttrain' has no attribute {name!r}")


def __dir__() -> list[str]:
    return [*globals(), *__all__]
