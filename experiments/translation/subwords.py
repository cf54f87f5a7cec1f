"""Subwords: frequent words whole, rare ones in parts, found by byte-pair encoding.

Beginning with single characters, the most frequent pair of neighbours within words becomes a new subword, until there
are as many as were asked for. Spaces belong to the words behind them, so that decoding gives the text back as it was.

Source: Sennrich et al., Neural Machine Translation of Rare Words with Subword Units, arXiv 1508.07909. Computed by the
`tokenizers` library.
"""

from collections.abc import Iterable

from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

PADDING, BEGIN, END, UNKNOWN = range(4)
SPECIAL = ["<padding>", "<begin>", "<end>", "<unknown>"]


def learn_subwords(texts: Iterable[str], size: int) -> Tokenizer:
    """A tokenizer with at most `size` subwords, the four special ones included."""
    tokenizer = Tokenizer(models.BPE(unk_token=SPECIAL[UNKNOWN]))
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Strip()])
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Metaspace(), pre_tokenizers.Punctuation()])
    tokenizer.decoder = decoders.Metaspace()
    trainer = trainers.BpeTrainer(vocab_size=size, special_tokens=SPECIAL, show_progress=False)
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer


def encode(tokenizer: Tokenizer, texts: list[str]) -> list[list[int]]:
    """Each text as numbers, without begin and end."""
    return [encoding.ids for encoding in tokenizer.encode_batch(texts, add_special_tokens=False)]
