"""Methods that judge a model."""
