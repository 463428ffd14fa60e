"""A trained network as a folder that others load: Hugging Face's layout, and ONNX."""

from __future__ import annotations

import json
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import nn

from rsray.errors import UserError, printable
from rsray.storage import Place
from rsray.storage.yaml_files import to_yaml

CONFIG, ONNX, CARD = "config.json", "model.onnx", "README.md"
# What a record says of the machine that the network was trained on.
PRIVATE = ("data_root",)


def write_export(
    out: Place, record: Mapping[str, Any], weights: Mapping[str, bytes], card: str
) -> None:
    """Write config.json, run.yaml, the card and the files of weights into a folder.

    The folder is a RUN, too: `rsray certify` takes it. Where the data lay is left out.
    """
    if out.exists(CONFIG) or out.exists("run.yaml"):
        raise UserError(f"{out} holds a network already: use another --out")
    if out.is_file():
        raise UserError(f"{out} is a file: --out needs a folder")
    if [name for name in out.names() if not name.startswith(".")]:
        raise UserError(f"{out} is not empty: use another --out")
    out.make()
    for name, content in weights.items():
        out.write(name, content)
    public = {key: value for key, value in record.items() if key not in PRIVATE}
    out.write("run.yaml", to_yaml(public))
    out.write(CARD, card.encode())
    out.write(CONFIG, json.dumps(network_config(record), indent=2, ensure_ascii=False).encode())


def network_config(record: Mapping[str, Any]) -> dict[str, Any]:
    """Return config.json: which network, of which images and classes, smoothed with which noise."""
    names = [printable(str(each)) for each in record["classes"]]
    return {
        "library_name": "rsray",
        "architectures": [record["model"]],
        "model_args": record.get("model_args") or {},
        "image_shape": list(record["image_shape"]),
        "normalisation": record["normalisation"],
        "num_labels": len(names),
        "id2label": {str(label): name for label, name in enumerate(names)},
        "label2id": {name: label for label, name in enumerate(names)},
        "sigma": record["sigma"],
        "objective": record["objective"],
    }


def onnx_bytes(network: nn.Module, image_shape: tuple[int, int, int]) -> bytes:
    """Return the network as ONNX: `images` [N, C, H, W] in [0, 1] to `logits` [N, K], any N.

    The file holds the normalisation: noise is added before it, to images in [0, 1]. UserError where
    the packages for it are missing, or the network cannot be written so.
    """
    if not all(find_spec(package) for package in ("onnx", "onnxscript")):
        raise UserError("ONNX needs two more packages: pip install 'rsray[onnx]'")
    example = torch.rand(2, *image_shape)
    try:
        program = torch.onnx.export(
            network.eval(),
            (example,),
            input_names=["images"],
            output_names=["logits"],
            dynamic_shapes=({0: torch.export.Dim("batch", min=1)},),
            verbose=False,
        )
    except torch.onnx.errors.OnnxExporterError as problem:
        reason = str(problem).splitlines()[0]
        raise UserError(f"the network cannot be written as ONNX: {reason}") from problem
    assert program is not None
    with TemporaryDirectory() as folder:
        file = Path(folder, ONNX)
        program.save(file)
        return file.read_bytes()
