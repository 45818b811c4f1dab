"""What the shell offers on Tab."""

import pytest


@pytest.fixture
def offered(moesim, monkeypatch):
    """The words offered for the last word of a line, as bash asks for them."""

    def ask(line):
        monkeypatch.setenv("_MOESIM_COMPLETE", "complete_bash")
        monkeypatch.setenv("COMP_WORDS", line)
        monkeypatch.setenv("COMP_CWORD", str(len(line.split(" ")) - 1))
        _, out, _ = moesim()
        return out.split()

    return ask


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("moesim run quick", {"quickstart"}),
        ("moesim sweep serving-qwen3", {"serving-qwen3-h100-bursty"}),
        ("moesim compare quickstart mixtral-8x7b-h", {"mixtral-8x7b-h100"}),
        ("moesim profiles gb200", {"gb200_nvl72"}),
        ("moesim models gpt-oss", {"gpt-oss-120b", "gpt-oss-20b"}),
        ("moesim trace mixtral", {"mixtral-miniature"}),
        ("moesim schema prof", {"profile"}),
        ("moesim run quickstart --set workload.c", {"workload.context="}),
        ("moesim sweep quickstart --over placement.s", {"placement.slots_per_rank="}),
        ("moesim run nowhere.yaml --set workload.c", set()),
        ("moesim swe", {"sweep"}),
    ],
)
def test_names_are_offered(offered, line, words):
    assert set(offered(line)) == words


def test_completion_can_be_installed(moesim):
    assert "--install-completion" in moesim("--help")[1]
