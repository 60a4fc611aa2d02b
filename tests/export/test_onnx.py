"""ONNX graphs agree with timm's model, for any batch size."""

import importlib.util
import json

import pytest
import torch

from keepaug.export import onnx
from keepaug.export.source import load_source
from tests.export.checkpoints import create, save


def test_graph(tmp_path):
    for package in onnx.NEEDED:
        pytest.importorskip(package)
    import onnx as library
    import onnxruntime

    model = create('test_efficientnet', num_classes=3)
    path = save(tmp_path / 'last.pth.tar', model, 'test_efficientnet', img_size=64)
    onnx.export(load_source(str(path)), str(tmp_path / 'model.onnx'), labels=['cat', 'dog', 'owl'])
    session = onnxruntime.InferenceSession(tmp_path / 'model.onnx', providers=['CPUExecutionProvider'])
    for batch in (1, 5):
        x = torch.randn(batch, 3, 64, 64)
        with torch.no_grad():
            wanted = model(x)
        torch.testing.assert_close(
            torch.from_numpy(session.run(['logits'], {'images': x.numpy()})[0]), wanted, rtol=1e-4, atol=1e-5
        )
    properties = {entry.key: entry.value for entry in library.load(tmp_path / 'model.onnx').metadata_props}
    assert json.loads(properties['labels']) == ['cat', 'dog', 'owl']
    assert json.loads(properties['mean']) == list(model.pretrained_cfg['mean'])
    assert sorted(path.name for path in tmp_path.iterdir()) == ['last.pth.tar', 'model.onnx']


def test_missing_packages_are_one_sentence(monkeypatch):
    monkeypatch.setattr(importlib.util, 'find_spec', lambda name: None if 'onnx' in name else object())
    with pytest.raises(ValueError, match=r"onnx and onnxscript and onnxruntime: pip install -e '.\[export\]'"):
        onnx.check_installed()


@pytest.mark.parametrize(
    'fault, words',
    [
        (lambda *args, **kwargs: 1 / 0, 'test_resnet cannot be exported'),
        (lambda model, path, **kwargs: save_graph(path), 'onnxruntime computes the logit'),
        (lambda model, path, **kwargs: save_graph(path, batch=2), 'onnxruntime runs test_resnet only'),
    ],
)
def test_faults_are_one_sentence_and_leave_nothing(fault, words, tmp_path, monkeypatch):
    for package in onnx.NEEDED:
        pytest.importorskip(package)
    monkeypatch.setattr('timm.utils.onnx.onnx_export', fault)
    source = load_source(str(save(tmp_path / 'last.pth.tar', create('test_resnet', num_classes=3), 'test_resnet')))
    with pytest.raises(ValueError, match=words):
        onnx.export(source, str(tmp_path / 'model.onnx'))
    assert [path.name for path in tmp_path.iterdir()] == ['last.pth.tar']


def save_graph(path, batch='batch'):
    """A graph that computes something else: the mean of each image, as three logits."""
    from onnx import TensorProto, helper, save

    graph = helper.make_graph(
        [
            helper.make_node('ReduceMean', ['images', 'axes'], ['mean'], keepdims=0),
            helper.make_node('Unsqueeze', ['mean', 'last'], ['column']),
            helper.make_node('Expand', ['column', 'shape'], ['logits']),
        ],
        'other',
        [helper.make_tensor_value_info('images', TensorProto.FLOAT, [batch, 3, 160, 160])],
        [helper.make_tensor_value_info('logits', TensorProto.FLOAT, [batch, 3])],
        [
            helper.make_tensor('axes', TensorProto.INT64, [3], [1, 2, 3]),
            helper.make_tensor('last', TensorProto.INT64, [1], [1]),
            helper.make_tensor('shape', TensorProto.INT64, [2], [1, 3]),
        ],
    )
    save(helper.make_model(graph, opset_imports=[helper.make_opsetid('', 18)], ir_version=8), path)
