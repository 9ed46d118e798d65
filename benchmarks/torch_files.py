"""Writes the files of `tests/golden/torch` with torch itself.

python benchmarks/torch_files.py [FOLDER]
"""

import argparse
import collections
import sys
from pathlib import Path

import numpy as np
import torch

FOLDER = Path(__file__).parent.parent / "tests" / "golden" / "torch"


def training_state():
    """All kinds of tensors, and what training programs put beside them."""
    table = torch.arange(24.0).reshape(4, 6)
    model = collections.OrderedDict(
        plain=table,
        transposed=table.t(),
        rows=table[1:3],
        window=table[1:3, 2:4],
        steps=table[:, ::2],
        expanded=torch.ones(1).expand(4, 3),
        scalar=torch.tensor(3.5),
        empty=torch.zeros(0, 3),
        parameter=torch.nn.Parameter(table[0].clone()),
        double=table.double(),
        half=table.half(),
        brain=table.bfloat16().t(),
        long=torch.arange(3),
        int=torch.arange(3, dtype=torch.int32),
        short=torch.arange(3, dtype=torch.int16),
        char=torch.arange(-1, 2, dtype=torch.int8),
        byte=torch.arange(3, dtype=torch.uint8),
        bool=torch.arange(3) > 1,
    )
    return {
        "model": model,
        "optimizer": {
            "state": {0: {"exp_avg": table}},
            "param_groups": [{"lr": 0.1, "params": [0]}],
        },
        "args": argparse.Namespace(lr=np.float64(0.1), betas=(0.9, 0.99)),
        "epoch": 3,
        "numpy": np.arange(3),
        "list": [torch.ones(3)],
    }


def other_dtypes():
    """Tensors that are not read, beside one that is."""
    return {
        "model": {
            "x": torch.arange(24.0).reshape(4, 6),
            "q": torch.quantize_per_tensor(torch.ones(3), 0.1, 0, torch.qint8),
            "c": torch.ones(2, dtype=torch.complex64),
            "u": torch.ones(2, dtype=torch.uint16),
        }
    }


def main(folder: Path) -> None:
    """Writes all of them."""
    folder.mkdir(parents=True, exist_ok=True)
    state = training_state()
    torch.save(state, folder / "training.pth")
    torch.save(state, folder / "training_protocol5.pth", pickle_protocol=5)
    legacy = {"_use_new_zipfile_serialization": False}
    torch.save(state, folder / "training_legacy.pth", **legacy)
    torch.save(other_dtypes(), folder / "other_dtypes.pth")
    linear = torch.nn.Linear(2, 2)
    torch.save(torch.nn.Sequential(linear), folder / "module.pth")
    torch.jit.save(torch.jit.script(linear), folder / "script.pt")


if __name__ == "__main__":
    main(Path(sys.argv[1]) if sys.argv[1:] else FOLDER)
