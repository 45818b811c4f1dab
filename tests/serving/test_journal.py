import numpy as np
import pytest

from moesim.serving.journal import COLUMNS, Journal

RUN = (10.0, 14.0, 2, 3, 5, 700.0, 0, 0, 0.0, 0, 4, 2, 23.0, 0.1, 0.25, 1.5)


def test_means_and_shares_of_a_run_are_worked_out():
    journal = Journal(ranks=2)
    journal.add(RUN)
    row = {name: column.item() for name, column in journal.table().items()}
    assert row["seconds"] == 4.0
    # Two requests came at 11 and 12: they waited for 3 and 2 of its 4 seconds, beside the four from its start.
    assert row["waiting"] == pytest.approx(4 + 5 / 4)
    assert row["uneven"] == pytest.approx(3 / 2.5)
    assert (row["context"], row["kv_share"], row["hottest"]) == (700.0, 0.25, 1.5)


def test_a_run_of_no_time_and_one_without_decoding_have_plain_means():
    journal = Journal()
    journal.add((1.0, 1.0, 1, 0, 0, 0.0, 8, 8, 36.0, 1, 2, 0, 0.0, 0.0, 0.5, 1.0))
    table = journal.table()
    assert (table["waiting"].item(), table["uneven"].item()) == (2.0, 1.0)


def test_neighbours_are_joined_by_their_seconds_at_twice_as_many_rows_as_are_kept():
    journal, second = Journal(most=4), 0.0
    for index in range(8):
        assert len(journal) == index
        seconds = 1.0 + index % 2 * 2
        journal.add((second, second + seconds, 5, index, 1, 0.0, 0, 0, 0.0, 0, 0, 0, 0.0, 0.0, 0.0, 1.0))
        second += seconds
    table = journal.table()
    assert len(journal) == 4
    assert list(table) == list(COLUMNS)
    assert table["start_s"].tolist() == [0.0, 4.0, 8.0, 12.0]
    assert table["seconds"].tolist() == [4.0] * 4
    assert table["steps"].tolist() == [10.0] * 4
    np.testing.assert_allclose(table["sequences"], [0.75, 2.75, 4.75, 6.75])


def test_reading_a_journal_does_not_change_it():
    journal = Journal(most=4)
    for _ in range(3):
        journal.add(RUN)
        journal.table()
    assert len(journal) == 3
