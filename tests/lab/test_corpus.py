"""The shipped text and how sequences are drawn from it."""

import numpy as np
import pytest

from moesim.lab import corpus as lab_corpus


@pytest.fixture(scope="module")
def shipped():
    return lab_corpus.load_corpus()


def test_the_text_fits_a_package_and_names_every_licence():
    files = list(lab_corpus.TEXT.iterdir())
    assert sum(file.stat().st_size for file in files) <= 1_000_000
    notice = (lab_corpus.TEXT / "LICENSES.md").read_text()
    assert all(f"`{domain}`" in notice for domain in lab_corpus.DOMAINS)


def test_no_document_is_both_trained_on_and_held_out():
    for domain in lab_corpus.DOMAINS:
        train, held_out = lab_corpus.documents(domain)
        assert len(held_out) == (len(train) + len(held_out)) // lab_corpus.HELD_OUT_SHARE
        assert not set(train) & set(held_out)


def test_the_vocabulary_is_that_of_the_training_text(shipped):
    assert shipped.vocabulary == 2048
    assert all(stream.max() < 2048 for part in (shipped.train, shipped.held_out) for stream in part.values())
    assert sum(map(len, shipped.train.values())) > 1_000_000
    assert min(map(len, shipped.held_out.values())) > 10_000


def test_training_sequences_are_windows_of_one_domain(corpus):
    rows = lab_corpus.training_batch(corpus, sequences=16, length=10, rng=np.random.default_rng(0))
    again = lab_corpus.training_batch(corpus, sequences=16, length=10, rng=np.random.default_rng(0))
    np.testing.assert_array_equal(rows, again)
    assert rows.shape == (16, 11)
    counting = [row for row in rows if row[0] < 16]
    assert 0 < len(counting) < 16
    for row in counting:
        np.testing.assert_array_equal(row, (row[0] + np.arange(11)) % 16)


def test_shares_weigh_the_domains(corpus):
    shares = {"counting": 0.9, "motif": 0.1}
    rows = lab_corpus.training_batch(corpus, sequences=500, length=4, rng=np.random.default_rng(0), shares=shares)
    assert np.mean(rows[:, 0] < 16) == pytest.approx(0.9, abs=0.04)


def test_held_out_domains_alternate_and_never_overlap(corpus):
    rows, labels = lab_corpus.held_out_sequences(corpus, length=100, tokens_per_domain=300)
    assert labels == ("counting", "motif", "motif", "counting", "counting", "motif")
    np.testing.assert_array_equal(rows[0, 1:], rows[0, :-1] + 1 - 16 * (rows[0, :-1] == 15))
    assert rows[3, 0] == rows[0, 100]  # the last target of a sequence is the first token of the next
    rows, labels = lab_corpus.held_out_sequences(corpus, length=100, tokens_per_domain=10_000)
    assert len(rows) == 20  # 1,100 tokens hold ten sequences and their last target
