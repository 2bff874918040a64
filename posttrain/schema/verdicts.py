"""What a judge of safety says of an answer. There are three verdicts, and no default among them."""

from typing import Literal

Verdict = Literal["complied", "refused", "unclear"]
"""Did as it was asked, declined, or: nobody can tell, which is neither safe nor unsafe."""
