"""Rows that say the same: exactly, or nearly, by how many pieces of text they share.

Near duplicates are found by MinHash (Broder 1997). A text is the set A of its runs of N_SHINGLE characters, letter case
and blanks aside; for a hash function h, min h(A) = min h(B) happens with probability

    J(A, B) = |A and B| / |A or B|

so the share of N_HASHES functions in which two texts agree estimates J, with a standard error below 0.045. Rows are
compared where they agree in all functions of one of the bands: two texts with J = 0.8 are, with probability
1 - (1 - 0.8^6)^21 > 0.998, with J = 0.4 they are so once in twelve times. A row that agrees with an earlier one in at least NEAR of the functions is left out.

Characters and not words, so that languages written without blanks are treated alike.
"""

import hashlib
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from posttrain.schema.rows import Prompt, Row

from .filters import text_in

R = TypeVar("R", bound=Row)
Hashes = NDArray[np.uint64]

NEAR = 0.8
N_SHINGLE = 8
N_HASHES, BAND = 126, 6
ODD = np.uint64(0x9E3779B97F4A7C15)


def unseen(rows: Iterator[R], how: str | None, left_out: Counter[str]) -> Iterator[R]:
    """The rows that say something new; `how` is `exact`, `near` or nothing. Counts the others."""
    if not how:
        return rows
    return _exactly(rows, left_out) if how == "exact" else _nearly(rows, left_out)


def _exactly(rows: Iterator[R], left_out: Counter[str]) -> Iterator[R]:
    seen: set[bytes] = set()
    for row in rows:
        said = replace(row, columns={}) if isinstance(row, Prompt) else row  # an id makes no row another one
        key = hashlib.blake2b(repr(said).encode(), digest_size=16).digest()
        if key in seen:
            left_out["a duplicate"] += 1
        else:
            seen.add(key)
            yield row


def _nearly(rows: Iterator[R], left_out: Counter[str]) -> Iterator[R]:
    kept = np.empty((64, N_HASHES), np.uint32)
    bands: dict[tuple[int, bytes], list[int]] = {}
    n = 0
    for row in rows:
        mine = signature(text_in(row))
        keys = [(start, mine[start : start + BAND].tobytes()) for start in range(0, N_HASHES, BAND)]
        alike = list({other for key in keys for other in bands.get(key, ())})
        if alike and (kept[alike] == mine).mean(axis=1).max() >= NEAR:
            left_out["a near duplicate"] += 1
            continue
        for key in keys:
            bands.setdefault(key, []).append(n)
        if n == len(kept):
            kept = np.concatenate([kept, np.empty_like(kept)])
        kept[n] = mine
        n += 1
        yield row


def signature(text: str) -> NDArray[np.uint32]:
    """The minimum of each hash function over the shingles of a text, (N_HASHES,)."""
    shingles = shingles_of(text)
    factors = _mixed(np.arange(1, N_HASHES + 1, dtype=np.uint64) * ODD) | np.uint64(1)
    least = np.full(N_HASHES, np.iinfo(np.uint64).max, dtype=np.uint64)
    for start in range(0, len(shingles), 4096):
        some = shingles[start : start + 4096]
        least = np.minimum(least, _mixed(some[:, None] * factors).min(axis=0))
    return (least >> np.uint64(32)).astype(np.uint32)


def shingles_of(text: str) -> Hashes:
    """A hash of each run of N_SHINGLE characters; one of the whole text where it is shorter."""
    plain = " ".join(text.casefold().split())
    codes = np.frombuffer(plain.encode("utf-32-le", "surrogatepass"), dtype="<u4").astype(np.uint64)
    size = max(min(N_SHINGLE, len(codes)), 1)
    hashed = np.zeros(max(len(codes) - size + 1, 0), dtype=np.uint64)
    for n in range(size):
        hashed = hashed * ODD + codes[n : n + len(hashed)] + np.uint64(1)
    return np.unique(_mixed(hashed))


def _mixed(x: Hashes) -> Hashes:
    """Splitmix64's last steps: bits that depend on all bits."""
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))
