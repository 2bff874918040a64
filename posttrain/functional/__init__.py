"""Pure functions on tensors and numbers, each tested against values derived by hand."""
