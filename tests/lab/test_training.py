"""Training: it learns, it repeats, it resumes, and it refuses what is not its own."""

from itertools import pairwise

import numpy as np
import pytest
import torch

from moesim.errors import InvalidInput
from moesim.lab.capture import capture_sequences
from moesim.lab.corpus import held_out_sequences
from moesim.lab.reference import ReferenceModel
from moesim.lab.training import Schedule, train

SHORT = Schedule(steps=6, sequences=2, length=16, warm_up=2)


def trained(config, corpus, schedule=SHORT, **options):
    model = ReferenceModel(config, torch.Generator().manual_seed(0))
    train(model, corpus, schedule, seed=0, **options)
    return model


def test_the_miniature_learns_its_languages(corpus, small_config):
    schedule = Schedule(steps=60, sequences=8, length=32, learning_rate=1e-2, warm_up=10)
    rows, _ = held_out_sequences(corpus, length=32, tokens_per_domain=256)
    before = capture_sequences(trained(small_config(), corpus, Schedule(steps=0)), rows)
    after = capture_sequences(trained(small_config(), corpus, schedule), rows)
    assert before.loss == pytest.approx(np.log(32), abs=0.3)
    assert after.loss < 0.5
    assert after.arrays["ids"].shape == (512, 2, 2)


def test_an_interrupted_run_ends_where_an_uninterrupted_one_does(corpus, small_config, tmp_path):
    whole = trained(small_config(), corpus).state_dict()
    checkpoint = tmp_path / "run.checkpoint"

    def interrupt(stage, done, total):
        if done == 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        trained(small_config(), corpus, checkpoint=checkpoint, checkpoint_every=3, progress=interrupt)
    seen = []
    resumed = trained(
        small_config(), corpus, checkpoint=checkpoint, progress=lambda stage, done, total: seen.append(done)
    ).state_dict()
    assert seen == [4, 5, 6]
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)


def test_foreign_and_damaged_checkpoints_are_refused(corpus, small_config, tmp_path):
    checkpoint = tmp_path / "run.checkpoint"
    trained(small_config(), corpus, checkpoint=checkpoint, checkpoint_every=3, fingerprint="this run")
    with pytest.raises(InvalidInput, match="checkpoint of another run"):
        trained(small_config(), corpus, checkpoint=checkpoint, fingerprint="that run")
    checkpoint.write_bytes(checkpoint.read_bytes()[:1000])
    with pytest.raises(InvalidInput, match="not a readable checkpoint"):
        trained(small_config(), corpus, checkpoint=checkpoint, fingerprint="this run")


def test_the_number_of_threads_is_given_back(corpus, small_config):
    before = torch.get_num_threads()
    trained(small_config(), corpus)
    assert torch.get_num_threads() == before


def test_the_learning_rate_rises_then_falls_to_its_floor():
    schedule = Schedule(steps=100, learning_rate=1.0, warm_up=10, final=0.05)
    rates = [schedule.rate(step) for step in range(101)]
    assert rates[0] == pytest.approx(0.1)
    assert max(rates) == rates[9] == rates[10] == pytest.approx(1.0)
    assert rates[100] == pytest.approx(0.05)
    assert all(later <= sooner for sooner, later in pairwise(rates[10:]))
