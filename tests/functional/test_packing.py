"""Streams of bits: by hand, there and back, and as compressed-tensors writes them."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from posttrain.functional.packing import pack, unpack


def test_four_bits_by_hand():
    """-8 is 0, 7 is 15; the first integer is in the lowest bits."""
    assert pack(torch.tensor([[-8, 7, -7]], dtype=torch.int8), 4).tolist() == [[0x1F0]]


def test_three_bits_lie_across_words():
    """Ten integers fill 30 bits; of the eleventh, 7 - 4 = 3 is 111, two bits are in the first word and one in the second."""
    ints = torch.tensor([[-4] * 10 + [3]], dtype=torch.int8)
    assert pack(ints, 3).view(torch.uint32).tolist() == [[0xC0000000, 1]]


@given(bits=st.integers(1, 8), rows=st.integers(1, 4), columns=st.integers(1, 70), seed=st.integers(0, 99))
def test_there_and_back(bits: int, rows: int, columns: int, seed: int):
    draw = torch.Generator().manual_seed(seed)
    ints = torch.randint(-(1 << bits - 1), 1 << bits - 1, (rows, columns), generator=draw).to(torch.int8)
    words = pack(ints, bits)
    assert words.shape == (rows, -(-columns * bits // 32))
    assert unpack(words, bits, columns).equal(ints)


@pytest.mark.parametrize("bits", range(1, 9))
def test_it_is_the_layout_of_compressed_tensors(bits: int):
    helpers = pytest.importorskip("compressed_tensors.compressors.pack_quantized.helpers")
    ints = torch.randint(-(1 << bits - 1), 1 << bits - 1, (5, 77)).to(torch.int8)
    assert pack(ints, bits).equal(helpers.pack_to_int32(ints, bits))
