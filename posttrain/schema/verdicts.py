"""Verdicts: what became of a request that an answer was given to.

complied   the answer gives what was asked for, or a part of it that is of use
refused    the answer declines
unclear    neither can be told: an empty answer, one without sense, or judges who disagree

The third is never counted as either of the others.
"""

from typing import Literal

Clear = Literal["complied", "refused"]
Verdict = Literal["complied", "refused", "unclear"]
VERDICTS: tuple[Verdict, ...] = ("complied", "refused", "unclear")
