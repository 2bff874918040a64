"""Recipe to plan to artifacts: the only code with a notion of order."""
