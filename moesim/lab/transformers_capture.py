"""Captures from any Hugging Face transformers MoE model: forward hooks on its router modules."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from moesim.errors import InvalidInput, Problem
from moesim.lab.capture import Recorder
from moesim.lab.routers import Routing
from moesim.lab.training import Progress, silent
from moesim.routing.trace import RouterTrace, write_trace
from moesim.units import format_bytes

ROUTER_CLASS = re.compile(r"(TopK|Topk)Router$|^Llama4Router$")
ROUTER_NAME = re.compile(r"\.mlp\.router$")


def capture_transformers(
    config_or_path: str | Path,
    text_file: str | Path,
    out: str | Path,
    *,
    length: int = 512,
    batch: int = 4,
    max_tokens: int | None = None,
    token_ids: bool = False,
    rng_seed: int = 0,
    progress: Progress = silent,
) -> Path:
    """Forward a text file through a transformers MoE model and write its routing.

    config_or_path: a ``config.json``, or a local directory with a config and perhaps weights and a tokenizer. Without
    weights they are drawn from `rng_seed` and the trace says so: random weights route with skew but without locality.
    Without a tokenizer the bytes of the text are the tokens. length, batch: tokens a sequence, sequences a pass.
    token_ids: record the vocabulary ids too, from which the text can be rebuilt.
    Raises InvalidInput for unreadable files, a text shorter than one sequence, or a model without routers.
    """
    directory = Path(config_or_path)
    model, weights = load_model(directory, rng_seed)
    routers = find_routers(model)
    if not routers:
        raise InvalidInput(
            Problem(
                f"{type(model).__name__} has no router modules (class names ending in TopKRouter or TopkRouter); "
                "give the configuration of a Mixture-of-Experts model",
                file=str(config_or_path),
            )
        )
    tokens = read_tokens(directory, Path(text_file), model.config.get_text_config().vocab_size)[:max_tokens]
    sequences = len(tokens) // length
    if not sequences:
        raise InvalidInput(Problem(f"holds {len(tokens)} tokens; one sequence takes {length}", file=str(text_file)))
    rows = torch.from_numpy(tokens[: sequences * length].reshape(sequences, length))
    recorder = Recorder(routed_experts(routers[0]))
    with hooked(routers) as choices, torch.inference_mode():
        for start in range(0, sequences, batch):
            model(input_ids=rows[start : start + batch], use_cache=False)
            recorder.add(choices)
            choices.clear()
            progress("capturing", min(start + batch, sequences), sequences)
    trace = RouterTrace(
        name=Path(out).stem,
        offsets=length * np.arange(sequences + 1),
        experts=routed_experts(routers[0]),
        groups=getattr(model.config.get_text_config(), "n_group", None) or 1,
        labels=(Path(text_file).stem,) * sequences,
        source=f"forward pass of {type(model).__name__} with {weights} weights",
        metadata={"model": type(model).__name__, "weights": weights, "length": length, "seed": rng_seed},
        token_ids=rows.numpy().ravel() if token_ids else None,
        **recorder.arrays(),
    )
    return write_trace(out, trace)


def load_model(path: Path, rng_seed: int) -> tuple[nn.Module, str]:
    """(model in evaluation mode, "random" or "trained") of a local config or checkpoint; nothing is downloaded."""
    from transformers import AutoConfig, AutoModelForCausalLM

    if not path.exists():
        raise InvalidInput(Problem("no such file or directory; write a config.json or a local model", file=str(path)))
    trained = path.is_dir() and any(path.glob("*.safetensors"))
    try:
        if trained:
            return AutoModelForCausalLM.from_pretrained(path, local_files_only=True).eval(), "trained"
        config = AutoConfig.from_pretrained(path, local_files_only=True)
        check_memory(config, path)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(rng_seed)  # transformers draws its weights from the global generator
            return AutoModelForCausalLM.from_config(config).eval(), "random"
    except (OSError, ValueError, KeyError, TypeError) as error:
        reason = str(error).strip().split("\n")[0]
        raise InvalidInput(Problem(f"transformers cannot build this model: {reason}", file=str(path))) from None


def check_memory(config: object, path: Path) -> None:
    """Refuse a configuration whose weights exceed this machine's memory, before any is allocated."""
    from transformers import AutoModelForCausalLM

    with torch.device("meta"):
        weights = sum(p.numel() * p.element_size() for p in AutoModelForCausalLM.from_config(config).parameters())
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    if weights > memory:
        raise InvalidInput(
            Problem(
                f"the weights take {format_bytes(weights)}, this machine has {format_bytes(memory)}; write fewer "
                "num_hidden_layers or a smaller hidden_size (the router geometry may stay)",
                file=str(path),
            )
        )


def find_routers(model: nn.Module) -> list[nn.Module]:
    """Router modules in layer order: by class name, or as gpt-oss names them, ``mlp.router``."""
    return [
        module
        for name, module in model.named_modules()
        if ROUTER_CLASS.search(type(module).__name__) or ROUTER_NAME.search(name)
    ]


def routed_experts(router: nn.Module) -> int:
    """Number of experts a router chooses from."""
    return int(getattr(router, "num_experts", None) or router.weight.shape[0])


@contextmanager
def hooked(routers: list[nn.Module]) -> Iterator[list[Routing]]:
    """While open, each router call appends its routing, in call order, to the list handed out."""
    choices: list[Routing] = []

    def record(router: nn.Module, _inputs: tuple, outputs: object) -> None:
        choices.append(routing_of(router, outputs))

    handles = [router.register_forward_hook(record) for router in routers]
    try:
        yield choices
    finally:
        for handle in handles:
            handle.remove()


def routing_of(router: nn.Module, outputs: object) -> Routing:
    """The ids and weights in a router's outputs.

    transformers >= 5 returns (logits [token, expert], weights [token, k], ids [token, k]); Llama 4 returns scores
    [token, expert] that are zero for experts not chosen. Raises InvalidInput where neither is found.
    """
    tensors = [tensor for tensor in outputs if isinstance(tensor, Tensor)] if isinstance(outputs, tuple) else []
    integers = [tensor for tensor in tensors if not tensor.is_floating_point() and tensor.ndim >= 2]
    if integers:
        ids = integers[-1]
        gates = [tensor for tensor in tensors if tensor.is_floating_point() and tensor.shape == ids.shape]
        weights = gates[-1].flatten(0, -2).float() if gates else torch.zeros(ids.shape).flatten(0, -2)
        ids = ids.flatten(0, -2)
    elif tensors and hasattr(router, "top_k"):
        weights, ids = tensors[0].flatten(0, -2).float().topk(router.top_k, dim=-1)
    else:
        raise InvalidInput(Problem(f"router {type(router).__name__} returns no expert ids that can be recorded"))
    # Weights may carry a scale (DeepSeek-V3 multiplies by 2.5); the trace stores shares.
    return Routing(ids, weights / weights.sum(-1, keepdim=True).clamp_min(1e-20), weights.new_zeros(()))


def read_tokens(path: Path, text_file: Path, vocabulary: int) -> np.ndarray:
    """[token] int64 of a text file: by the model's tokenizer, or its bytes where the model has none."""
    try:
        data = text_file.read_bytes()
    except OSError as error:
        raise InvalidInput(Problem(f"cannot be read: {error.strerror}", file=str(text_file))) from None
    if path.is_dir() and any((path / name).exists() for name in ("tokenizer.json", "tokenizer_config.json")):
        from transformers import AutoTokenizer

        tokenizer = AutoTokenizer.from_pretrained(path, local_files_only=True)
        return np.asarray(tokenizer(data.decode(errors="replace"), add_special_tokens=False)["input_ids"], np.int64)
    if vocabulary < 256:
        raise InvalidInput(
            Problem(f"a vocabulary of {vocabulary} cannot take bytes as tokens; write 256 or more", "vocab_size")
        )
    return np.frombuffer(data, np.uint8).astype(np.int64)
