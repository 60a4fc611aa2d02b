"""`--dataset torch/cifar100` on a generated miniature of the files that torchvision downloads."""

import pickle

import numpy as np
import pytest
import torchvision

from tests.scripts import run_train, run_validate

FLAGS = '--dataset torch/cifar100 --model cifar_resnet20.cifar100 -b 50 --device cpu --model-kwargs layers=[1,1,1]'


@pytest.fixture
def root(tmp_path, monkeypatch):
    """200 images to train on, 100 to test with, of a hundred classes; the number of the image is its brightness."""
    folder = tmp_path / 'cifar' / 'cifar-100-python'
    folder.mkdir(parents=True)
    for split, images in (('train', 200), ('test', 100)):
        data = np.repeat(np.arange(images, dtype=np.uint8)[:, None], 3072, axis=1)
        content = {'data': data, 'fine_labels': [i % 100 for i in range(images)], 'coarse_labels': [0] * images}
        (folder / split).write_bytes(pickle.dumps(content))
    (folder / 'meta').write_bytes(pickle.dumps({'fine_label_names': [f'class{i}' for i in range(100)]}))
    monkeypatch.setattr(torchvision.datasets.cifar, 'check_integrity', lambda *args: True)
    return folder.parent


def test_training_and_validation(root, tmp_path, capsys, caplog):
    """Both splits are read as such, with the hundred classes, the mean and the deviation of the tag."""
    flags = f'--data-dir {root} {FLAGS}'
    caplog.set_level('INFO')
    run = run_train(f'{flags} --epochs 1 --warmup-epochs 0 --lr 0.01 -j 0 --keep-cut --train-crop-mode pad4', tmp_path)
    result = run_validate(f'{flags} --workers 0 --checkpoint {run}/last.pth.tar', capsys)
    assert 'mean: (0.5071, 0.4865, 0.4409)' in caplog.text and 'std: (0.2673, 0.2564, 0.2762)' in caplog.text
    assert '3/4 (100%)' in caplog.text  # batches of 50
    assert result['top1'] == round(result['top1'])  # of 100 images
    assert result['crop_pct'] == 1.0 and result['img_size'] == 32
