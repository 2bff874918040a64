"""Methods that make data with a model."""
