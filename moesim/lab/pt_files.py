"""Read PyTorch files as plain Python and numpy values, without ever unpickling what they name."""

from __future__ import annotations

import pickle
from pathlib import Path

import torch

from moesim.errors import InvalidInput, Problem


def read_pt(path: str | Path) -> object:
    """The content of a file, tensors as numpy arrays (bfloat16 as float32).

    Only tensors and plain containers are loaded (``weights_only``): a pickle may run any code. Raises InvalidInput for
    files that hold anything else.
    """
    try:
        return _plain(torch.load(path, map_location="cpu", weights_only=True))
    except (pickle.UnpicklingError, RuntimeError, EOFError, KeyError) as error:
        reason = str(error).strip().split("\n")[0]
        raise InvalidInput(
            Problem(
                f"not a PyTorch file of tensors and plain values, and nothing else is loaded ({reason}); "
                "save it again as tensors, or as .npz",
                file=str(path),
            )
        ) from None
    except OSError as error:
        raise InvalidInput(Problem(f"cannot be read: {error.strerror}", file=str(path))) from None


def _plain(value: object) -> object:
    if isinstance(value, torch.Tensor):
        return (value.float() if value.dtype == torch.bfloat16 else value).numpy()
    if isinstance(value, dict):
        return {key: _plain(each) for key, each in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(_plain(each) for each in value)
    return value
