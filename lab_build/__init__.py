"""The scripts that make what the lab ships: tokenizer and base model. Not part of the package."""
