"""One file of weights that holds no code and says in its header what they are."""

import json

from keepaug.export.output import whole_file
from keepaug.export.source import Source
from keepaug.export.timm_folder import save_weights, timm_config
from keepaug.files.checkpoints import CONFIG_KEY

SUFFIX = '.safetensors'


def export(source: Source, output: str, labels: list[str] | None = None) -> str:
    """Writes all weights under timm's names; the header holds architecture, classes and preprocessing.

    Args:
        source: Trained model.
        output: File to write, `*.safetensors`.
        labels: Names of the classes, by index.

    Returns:
        What was written and how to use it.

    Raises:
        ValueError: The model's arguments cannot be written as JSON.
    """
    config = timm_config(source, labels)
    metadata = {
        'architecture': source.architecture,
        'num_classes': str(source.model.num_classes),
        'averaged': str(source.averaged).lower(),
        **{name: json.dumps(source.data_config[name]) for name in ('input_size', 'mean', 'std')},
        CONFIG_KEY: json.dumps(config),
    }
    arguments = {'num_classes': source.model.num_classes, **config.get('model_args', {}), 'checkpoint_path': output}
    with whole_file(output) as path:
        save_weights(source, path, metadata)
    return (
        f'{output}: {source.architecture} with {source.model.num_classes} classes.\n'
        f'In timm{source.prerequisite}: timm.create_model({source.architecture!r}, '
        f'{", ".join(f"{name}={value!r}" for name, value in arguments.items())})'
    )
