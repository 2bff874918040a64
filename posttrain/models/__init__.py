"""Whatever holds weights: policies, adapters, samplers."""
