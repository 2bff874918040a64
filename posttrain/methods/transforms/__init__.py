"""Methods that rewrite a model without a loss."""
