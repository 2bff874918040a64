"""The only code with a notion of order: a recipe becomes a plan, a plan is walked, what happened is recorded."""
