"""TRL's settings that the benchmarks of preferences share."""

from typing import Any

from fair import Setting

PADDED = {
    "padding": Setting("without gradient checkpointing"),
    "checkpointing": Setting("with it, as TRL does by default"),
    "eager": Setting("padding, with attention that writes all its weights down instead of torch's own"),
    "float32": Setting("padding, whatever --dtype says"),
}
FUSED = PADDED | {  # those of trainers with a head that computes metrics beside log-probabilities
    "metrics": Setting("padding, with the entropy, logits and accuracy that TRL logs by default"),
    "defaults": Setting("with both gradient checkpointing and these metrics, as TRL does by default"),
}
REFERRING = FUSED | {
    "precomputed": Setting("padding, the reference computed once beforehand: its time stands under `prepared`"),
}
CHANGES: dict[str, dict[str, Any]] = {
    "checkpointing": {"gradient_checkpointing": True},
    "defaults": {"gradient_checkpointing": True},
    "float32": {"bf16": False},
    "precomputed": {"precompute_ref_log_probs": True},
}
WITH_METRICS = ("metrics", "defaults")
REFERENCE_SEED = 1  # the reference is another random model, so that the first loss is not simply log 2
