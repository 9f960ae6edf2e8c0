"""Small tokenizers that are not built in, trained on an address to Congress."""

from __future__ import annotations

import functools
import io

import sentencepiece
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

from harness.config.run import DataConfig
from harness.data import load_corpus


@functools.cache
def text_of_1820() -> str:
    return load_corpus(DataConfig(corpus="sotu-1820")).text


@functools.cache
def byte_level_json(special: str = "<|endoftext|>", size: int = 500) -> str:
    """As GPT-2's: nothing of a text is lost."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=size, special_tokens=[special], initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator([text_of_1820()], trainer)
    return str(tokenizer.to_str())


@functools.cache
def lower_case_json() -> str:
    """As BERT's: lower case, without accents and white space, and an id for the unknown."""
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    trainer = trainers.WordPieceTrainer(vocab_size=400, special_tokens=["[UNK]", "[SEP]"], show_progress=False)
    tokenizer.train_from_iterator([text_of_1820()], trainer)
    return str(tokenizer.to_str())


@functools.cache
def sentencepiece_model(kind: str = "unigram", byte_fallback: bool = True) -> bytes:
    stream = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(text_of_1820().splitlines()),
        model_writer=stream,
        model_type=kind,
        vocab_size=600,
        byte_fallback=byte_fallback,
        minloglevel=2,
    )
    return stream.getvalue()
