"""From outputs to text: CTC paths and token-by-token generation."""

from jaxbp.decoding.ctc import Decoded, beam_decode, greedy_decode
from jaxbp.decoding.generate import Generated, beam_search, generate

__all__ = [
    "Decoded",
    "Generated",
    "beam_decode",
    "beam_search",
    "generate",
    "greedy_decode",
]
