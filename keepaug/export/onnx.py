"""A graph for ONNX runtimes, for batches of any size."""

import importlib.util
import json

import torch

from keepaug.console.errors import first_line
from keepaug.export.compare import check_same
from keepaug.export.output import whole_file
from keepaug.export.source import Source
from keepaug.installation import install_extra

SUFFIX = '.onnx'
NEEDED = ('onnx', 'onnxscript', 'onnxruntime')


def check_installed() -> None:
    """Raises:
    ValueError: A package is missing.
    """
    missing = [name for name in NEEDED if importlib.util.find_spec(name) is None]
    if missing:
        raise ValueError(f'ONNX export needs {" and ".join(missing)}: {install_extra("export")}.')


def export(source: Source, output: str, labels: list[str] | None = None) -> str:
    """Writes logits (B, K) of normalised images (B, C, H, W), and runs the file once with another batch size.

    Args:
        source: Trained model.
        output: File to write, `*.onnx`.
        labels: Names of the classes, by index; they go into the file's metadata, as mean and deviation do.

    Returns:
        What was written.

    Raises:
        ValueError: A package is missing, the model cannot be expressed in ONNX, or computes something else there.
    """
    check_installed()
    import onnx
    from timm.utils.onnx import onnx_export

    with whole_file(output) as path:
        try:
            onnx_export(
                source.model,
                path,
                input_size=tuple(source.data_config['input_size']),
                batch_size=2,
                use_dynamo=True,
                input_names=['images'],
                output_names=['logits'],
                external_data=False,
            )
        except Exception as error:  # torch raises of many kinds for what it cannot trace
            if isinstance(error, OSError):
                raise
            raise ValueError(f'{source.architecture} cannot be exported to ONNX: {first_line(error)}.') from error
        graph = onnx.load(path)
        onnx.helper.set_model_props(
            graph,
            {
                'architecture': source.architecture,
                **{name: json.dumps(source.data_config[name]) for name in ('mean', 'std', 'interpolation', 'crop_pct')},
                **({'labels': json.dumps(labels)} if labels else {}),
            },
        )
        onnx.save(graph, path)
        difference = _compare(source, path)
    return (
        f'{output}: images (B, {", ".join(map(str, source.data_config["input_size"]))}), normalised with mean '
        f'{list(source.data_config["mean"])} and std {list(source.data_config["std"])}, to logits '
        f'(B, {source.model.num_classes}); onnxruntime agrees (largest relative difference {difference:.0e}).'
    )


@torch.inference_mode()
def _compare(source: Source, path: str) -> float:
    """Runs the file in onnxruntime: the largest difference of logits, relative to the largest logit."""
    import onnxruntime

    images = torch.randn(3, *source.data_config['input_size'], generator=torch.Generator().manual_seed(0))
    try:
        session = onnxruntime.InferenceSession(path, providers=['CPUExecutionProvider'])
        logits = torch.from_numpy(session.run(None, {'images': images.numpy()})[0])
    except Exception as error:  # its errors have no common class; a batch size fixed in the graph is among them
        raise ValueError(
            f'Nothing was written: onnxruntime runs {source.architecture} only on the batch size of the export '
            f'({first_line(error)}).'
        ) from error
    return check_same({'the logit': logits}, [source.model(images)], 'onnxruntime')
