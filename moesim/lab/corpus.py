"""The shipped training text: eight domains, split by document into training and held-out tokens.

A miniature trained anywhere sees the same bytes: the text and its byte-pair vocabulary lie in ``moesim/lab/text``
(sources and licences in its ``LICENSES.md``), so nothing depends on what is installed.
"""

from __future__ import annotations

import gzip
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

TEXT = Path(__file__).parent / "text"
DOMAINS = ("api", "cpp", "disassembly", "docstrings", "javascript", "licences", "prose", "python")
DOCUMENT_SEPARATOR = "\x1e"  # ASCII "record separator": occurs in no document
HELD_OUT_SHARE = 8  # one document in eight


@dataclass(frozen=True, slots=True, eq=False)
class Corpus:
    """Tokenised text. train, held_out: one uint16 token array a domain. digest: SHA-256 of text and vocabulary."""

    train: Mapping[str, np.ndarray]
    held_out: Mapping[str, np.ndarray]
    vocabulary: int
    digest: str


def documents(domain: str) -> tuple[list[str], list[str]]:
    """(training documents, held-out documents) of a domain.

    The order is that of the documents' SHA-256, so the split depends on the text alone and one in eight is held out.
    """
    text = gzip.decompress((TEXT / f"{domain}.txt.gz").read_bytes()).decode()
    ordered = sorted(text.split(DOCUMENT_SEPARATOR), key=lambda document: hashlib.sha256(document.encode()).digest())
    cut = len(ordered) // HELD_OUT_SHARE
    return ordered[cut:], ordered[:cut]


def load_corpus() -> Corpus:
    """Read, split and tokenise the shipped text (1.2 M tokens, about 2 s)."""
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_str(gzip.decompress((TEXT / "tokenizer.json.gz").read_bytes()).decode())
    train, held_out = {}, {}
    for domain in DOMAINS:
        train[domain], held_out[domain] = (_encode(tokenizer, part) for part in documents(domain))
    return Corpus(train, held_out, tokenizer.get_vocab_size(), text_digest())


def text_digest() -> str:
    """SHA-256 over the uncompressed domains and vocabulary: what a trace header names as its training text."""
    digest = hashlib.sha256()
    for name in (*(f"{domain}.txt.gz" for domain in DOMAINS), "tokenizer.json.gz"):
        digest.update(gzip.decompress((TEXT / name).read_bytes()))
    return digest.hexdigest()


def train_tokenizer(vocabulary: int = 2048) -> str:
    """JSON of a byte-level BPE vocabulary of the training documents; made ``tokenizer.json.gz``."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
    )
    # The first 6 kB of a document keep long files from owning the vocabulary.
    tokenizer.train_from_iterator((text[:6000] for domain in DOMAINS for text in documents(domain)[0]), trainer)
    return tokenizer.to_str()


def _encode(tokenizer, texts: list[str]) -> np.ndarray:
    return np.concatenate([np.asarray(encoded.ids, np.uint16) for encoded in tokenizer.encode_batch(texts)])


def training_batch(
    corpus: Corpus,
    *,
    sequences: int,
    length: int,
    rng: np.random.Generator,
    shares: Mapping[str, float] | None = None,
) -> np.ndarray:
    """[sequence, length + 1] int64 tokens; each sequence a random window of one domain, drawn by `shares` or evenly."""
    names = sorted(corpus.train)
    rows = np.empty((sequences, length + 1), np.int64)
    if shares is None:
        choices = rng.integers(len(names), size=sequences)
    else:
        choices = rng.choice(len(names), size=sequences, p=[shares[name] for name in names])
    for row, choice in zip(rows, choices, strict=True):
        stream = corpus.train[names[choice]]
        start = rng.integers(len(stream) - length)
        row[:] = stream[start : start + length + 1]
    return rows


def held_out_sequences(corpus: Corpus, *, length: int, tokens_per_domain: int) -> tuple[np.ndarray, tuple[str, ...]]:
    """Consecutive held-out windows: (tokens [sequence, length + 1] int64, domain of each sequence).

    Every domain gives ``tokens_per_domain // length`` sequences, or all it has when that is less. Domains take turns,
    so any stretch of the trace holds all of them; each round starts one domain later, so every other sequence does too.
    """
    windows = {}
    for name, stream in corpus.held_out.items():
        count = min(tokens_per_domain // length, (len(stream) - 1) // length)
        windows[name] = [stream[i * length : (i + 1) * length + 1].astype(np.int64) for i in range(count)]
    most = max(map(len, windows.values()))
    names = list(windows)
    rounds = [names[i % len(names) :] + names[: i % len(names)] for i in range(most)]
    turns = [(name, i) for i, order in enumerate(rounds) for name in order if i < len(windows[name])]
    return np.stack([windows[name][i] for name, i in turns]), tuple(name for name, _ in turns)
