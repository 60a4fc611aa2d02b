"""A folder that `timm.create_model('local-dir:FOLDER', pretrained=True)` loads, and that may go to the Hub as it is."""

import json
import os
import shlex
import tempfile
from collections.abc import Mapping
from typing import Any

import safetensors.torch
import timm
import torch

from keepaug.console.errors import first_line
from keepaug.datasets import EMBEDDED_DATASETS, EMBEDDED_PREFIX
from keepaug.export.output import whole_folder
from keepaug.export.source import Source
from keepaug.installation import command
from keepaug.private import HF_SAFE_WEIGHTS_NAME, save_config_for_hf

CONFIG = 'config.json'


def export(source: Source, output: str, labels: list[str] | None = None) -> str:
    """Writes `config.json` and `model.safetensors` into a new folder, and loads them again before it appears.

    Args:
        source: Trained model.
        output: Folder to make.
        labels: Names of the classes, by index.

    Returns:
        What was written and how to use it.

    Raises:
        ValueError: The model's arguments cannot be written as JSON, or timm does not load the folder as the same model.
    """
    config = timm_config(source, labels)
    with whole_folder(output) as folder:
        with open(os.path.join(folder, CONFIG), 'w') as file:
            json.dump(config, file, indent=2)
        save_weights(source, os.path.join(folder, HF_SAFE_WEIGHTS_NAME))
        loaded = timm.create_model(f'local-dir:{folder}', pretrained=True).state_dict()
        wanted = source.model.state_dict()
        if loaded.keys() != wanted.keys() or not all(torch.equal(loaded[name], wanted[name]) for name in wanted):
            raise ValueError(
                f'Nothing was written: from the folder timm loads a model that differs from {source.path}.'
            )
    data = [] if source.dataset in EMBEDDED_DATASETS else ['DATA']
    if source.dataset.startswith(EMBEDDED_PREFIX):
        data += ['--dataset', source.dataset]
    name = f'local-dir:{output}'
    return (
        f'{output}: {CONFIG} and {HF_SAFE_WEIGHTS_NAME}.\n'
        f'In timm{source.prerequisite}: timm.create_model({name!r}, pretrained=True)\n'
        f'To validate: {shlex.join([*command("validate"), *data, "--model", name])}'
    )


def timm_config(source: Source, labels: list[str] | None = None) -> dict[str, Any]:
    """What timm needs to build the model and to prepare its images, as its own helper for the Hub writes it.

    Raises:
        ValueError: An argument of the model cannot be written as JSON.
    """
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, CONFIG)
        try:
            save_config_for_hf(
                source.model,
                path,
                model_config=dict(label_names=labels) if labels else None,
                data_config=source.preprocessing,
            )
        except (TypeError, ValueError) as error:
            raise ValueError(f'CHECKPOINT {source.path} cannot be described to timm: {first_line(error)}.') from error
        with open(path) as file:
            config = json.load(file)
    # These describe the published weights of the architecture, which are not the ones written here.
    for name in ('tag', 'license', 'origin_url', 'paper_ids', 'paper_name', 'notes'):
        config['pretrained_cfg'].pop(name, None)
    return config


def save_weights(source: Source, path: str, metadata: Mapping[str, str] | None = None) -> None:
    """Writes all weights as safetensors, with further entries of the header.

    The library's own writer would take the file away from other users, and takes no views.
    """
    tensors = {name: tensor.contiguous().clone() for name, tensor in source.model.state_dict().items()}
    with open(path, 'wb') as file:
        file.write(safetensors.torch.save(tensors, metadata={'format': 'pt', **(metadata or {})}))
