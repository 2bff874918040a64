"""Seeds for things that are drawn apart: a row, an epoch, a round."""

from hashlib import blake2b


def seed_of(*parts: int) -> int:
    """32 bits that differ wherever any part does. torch's CPU generator looks at no more bits than these, so adding or
    shifting numbers together would give different parts the same draws."""
    return int.from_bytes(blake2b(repr(parts).encode(), digest_size=4).digest())
