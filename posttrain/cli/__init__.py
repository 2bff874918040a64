"""The command line: thin, quick to start, and the same words as a recipe.

stdout holds answers, stderr narration. `posttrain.cli.main` dispatches; each command imports what it needs.
"""

from .main import main

__all__ = ["main"]
