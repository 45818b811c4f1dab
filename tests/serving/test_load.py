import json

import numpy as np
import pytest

from moesim.errors import InvalidInput
from moesim.serving.arrivals import ARRIVALS, diurnal, gamma, poisson
from moesim.serving.lengths import LENGTHS, empirical, fixed, lognormal, nominal, uniform
from moesim.serving.loads import drawn_loads
from moesim.serving.requests import closed_loop, open_loop
from moesim.serving.traces import read_requests


@pytest.fixture
def rng():
    return np.random.default_rng(1)


def test_gaps_have_the_rate_and_the_burstiness_asked_for(rng):
    for burstiness in (0.25, 1.0, 4.0):
        gaps = np.diff(gamma(200_000, rng, rate=5, burstiness=burstiness))
        assert gaps.mean() == pytest.approx(0.2, rel=0.02)
        assert gaps.var() / gaps.mean() ** 2 == pytest.approx(1 / burstiness, rel=0.05)
    assert np.diff(poisson(100_000, rng, rate=5)).mean() == pytest.approx(0.2, rel=0.02)


def test_a_day_has_more_requests_at_its_top(rng):
    times = diurnal(100_000, rng, rate=10, swing=0.8, period=1000)
    by_phase = np.histogram(times % 1000, bins=4, range=(0, 1000))[0] / times.size
    # ∫ over a quarter: 1/4 + swing/(2π) at the top half's two quarters, 1/4 − swing/(2π) at the others.
    assert by_phase == pytest.approx(0.25 + np.array([1, 1, -1, -1]) * 0.8 / (2 * np.pi), abs=0.01)
    assert times[-1] == pytest.approx(10_000, rel=0.02)


def test_lengths(rng):
    assert set(fixed(5, rng, tokens=7)) == {7}
    assert set(uniform(1000, rng, low=2, high=4)) == {2, 3, 4}
    drawn = nominal(10_000, rng, tokens=1000)
    assert (drawn.min(), drawn.max()) == (800, 1000)
    assert np.median(lognormal(50_000, rng, median=500, sigma=1.0)) == pytest.approx(500, rel=0.03)
    assert lognormal(1000, rng, median=500, sigma=2.0, longest=600).max() == 600
    assert empirical(10_000, rng, values=[1, 9], weights=[3, 1]).mean() == pytest.approx(3, rel=0.05)


@pytest.mark.parametrize(
    ("call", "field"),
    [
        (lambda rng: LENGTHS["fixed"](1, rng, tokens=0), "tokens"),
        (lambda rng: LENGTHS["uniform"](1, rng, low=5, high=4), "high"),
        (lambda rng: LENGTHS["empirical"](1, rng, values=[1], weights=[1, 2]), "weights"),
        (lambda rng: ARRIVALS["poisson"](1, rng, rate=0), "rate"),
        (lambda rng: ARRIVALS["diurnal"](1, rng, rate=1, swing=2), "swing"),
        (lambda rng: open_loop([1.0, 0.5], [1, 1], [1, 1]), "arrival_s"),
        (lambda rng: open_loop([-1.0], [1], [1]), "arrival_s"),
        (lambda rng: open_loop([0.0], [0], [1]), "input_len"),
        (lambda rng: closed_loop([1], [1], 0), "in_flight"),
    ],
)
def test_mistakes_name_their_field(call, field, rng):
    with pytest.raises(InvalidInput) as error:
        call(rng)
    assert field in {problem.field for problem in error.value.problems}


def test_recorded_requests_in_the_public_layouts(tmp_path):
    azure = tmp_path / "azure.csv"
    azure.write_text(
        "TIMESTAMP,ContextTokens,GeneratedTokens\n"
        "2023-11-16 18:15:46.6805900,374,44\n2023-11-16 18:15:50.9951690,396,109\n"
    )
    requests = read_requests(azure)
    assert requests.arrival_s == pytest.approx([0, 4.314579])
    assert requests.input_len.tolist() == [374, 396]

    burst = tmp_path / "burst.csv"
    burst.write_text(
        "Timestamp,Model,Request tokens,Response tokens,Total tokens,Log Type\n"
        "5,ChatGPT,472,18,490,Conversation log\n45,ChatGPT,1087,0,1087,Conversation log\n"
        "118,GPT-4,417,276,693,Conversation log\n"
    )
    requests = read_requests(burst, speed=2.0)
    assert requests.arrival_s.tolist() == [0, 56.5]
    assert requests.output_len.tolist() == [18, 276]

    mooncake = tmp_path / "mooncake.jsonl"
    rows = [
        {"timestamp": 0, "input_length": 6755, "output_length": 500, "hash_ids": [0, 1, 2]},
        {"timestamp": 3000, "input_length": 7319, "output_length": 490, "hash_ids": [0, 14]},
    ]
    mooncake.write_text("\n".join(map(json.dumps, rows)) + "\n")
    requests = read_requests(mooncake)
    assert requests.arrival_s.tolist() == [0, 3]
    assert requests.prefix == ((0, 1, 2), (0, 14))
    assert requests.block_tokens == 512
    assert len(read_requests(mooncake, most=1)) == 1


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("arrival_s,input_len,output_len\n0,1,1\n3,1,1\n2,1,1\n", "4: arrival_s: 2.0 comes before the line above"),
        ("arrival_s,input_len,output_len\n-1,1,1\n", "2: arrival_s: -1 is negative"),
        ("arrival_s,input_len,output_len\n0,1,1\n1,0,1\n", "3: input_len: 0 is no number of tokens"),
        ("arrival_s,input_len,output_len\n0,1,1\n1,2,many\n", "3: output_len: many is no number of tokens"),
        ("when,in,out\n0,1,1\n", "its columns (when, in, out) are none of"),
        ("arrival_s,input_len,output_len\n", "holds no request"),
    ],
)
def test_a_mistake_in_a_recorded_trace_names_its_line(tmp_path, text, words):
    path = tmp_path / "load.csv"
    path.write_text(text)
    with pytest.raises(InvalidInput) as error:
        read_requests(path)
    assert words.replace("2.0", "2") in str(error.value).replace("2.0", "2")


def test_drawn_loads_route_every_token_k_times():
    for sigma in (0.0, 0.7):
        loads = drawn_loads(np.array([1, 7, 300]), 64, 4, sigma=sigma, windows=5)
        assert loads.sum(axis=2).tolist() == [[4] * 5, [28] * 5, [1200] * 5]
        assert (loads <= np.array([1, 7, 300])[:, None, None]).all()
    skewed, even = (drawn_loads(np.array([4096]), 64, 4, sigma=s) for s in (0.7, 0.0))
    assert skewed.max() > 2 * even.max()
    touched = [(drawn_loads(np.array([32]), 64, 4, sigma=s) > 0).sum() for s in (0.0, 1.0)]
    assert touched[1] < touched[0]
