"""Risks on training images: the right losses, of a model and a run that are as before afterwards."""

import random
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from timm.data import create_dataset, create_loader
from timm.task import ClassificationTask

from keepaug.augment import Compose, create_augment
from keepaug.data.mixing import SharedSwitchCollate
from keepaug.data.seeding import preserved_streams
from keepaug.data.wrapped import Selection
from keepaug.measuring.risks import NoRisks, TrainingRisks, build_risks
from keepaug.options import create_parser, prepare
from keepaug.training.augmented_task import AugmentedTask
from keepaug.training.forward import Forward
from tests.functional.backbones import assert_untouched, everything
from tests.functional.toys import small_cnn
from tests.scripts import TINY, run_train

FORWARD = Forward()
SAMPLES = [5, 1, 22, 13, 7, 8]


def loaders(data: Path, **settings):
    """Training batches without augmentation, and the same samples clean."""
    common = dict(batch_size=4, num_workers=0, device=torch.device('cpu'), crop_pct=1.0, interpolation='bilinear')
    train = create_loader(
        create_dataset('', root=data, split='train'), (3, 32, 32), is_training=True, no_aug=True, **common, **settings
    )
    clean = create_loader(Selection(create_dataset('', root=data, split='train'), SAMPLES), (3, 32, 32), **common)
    return train, clean


def images_of(data: Path) -> tuple[torch.Tensor, torch.Tensor]:
    _, clean = loaders(data)
    batches = list(clean)
    return torch.cat([x for x, _ in batches]), torch.cat([target for _, target in batches])


def task(*augments) -> ClassificationTask:
    inner = ClassificationTask(small_cnn(classes=3), verbose=False)
    return AugmentedTask(inner, Compose(list(augments))) if augments else inner


def test_loss_image_by_image(data):
    train, clean = loaders(data)
    subject = task()
    risks = TrainingRisks(train, clean, SAMPLES, FORWARD).measure(subject.train())
    x, target = images_of(data)
    model = small_cnn(classes=3).eval()
    losses = [F.cross_entropy(model(image[None]), label[None]).item() for image, label in zip(x, target)]
    assert risks['risk_clean'] == pytest.approx(np.mean(losses))
    assert risks['risk_augmented'] == pytest.approx(np.mean(losses)), 'of the same samples, the smaller last batch too'
    assert list(risks) == ['risk_augmented', 'risk_clean']


def test_mixed_labels_count_without_smoothing(data):
    """Stock's collate function, whose targets are smoothed, with nothing mixed in: the clean loss."""
    collate = SharedSwitchCollate(mixup_alpha=1.0, num_classes=3, label_smoothing=0.2)
    train, clean = loaders(data, collate_fn=collate)
    collate.mixup_enabled = False
    risks = TrainingRisks(train, clean, SAMPLES[:4], FORWARD, smoothing=0.2)
    plain = TrainingRisks(loaders(data)[0], clean, SAMPLES[:4], FORWARD)
    assert risks.measure(task())['risk_augmented'] == pytest.approx(plain.measure(task())['risk_augmented'], rel=1e-6)
    collate.mixup_enabled = True
    mixed = risks.measure(task())['risk_augmented']
    assert mixed != pytest.approx(plain.measure(task())['risk_augmented'], rel=1e-3)


def test_augmented_as_in_training(data):
    train, clean = loaders(data)
    occlusion = create_augment('joint-occlusion', keep_patch=0.0)
    risk = TrainingRisks(train, clean, SAMPLES[:4], FORWARD).measure(task(occlusion))['risk_augmented']
    x, target = images_of(data)
    model = small_cnn(classes=3).eval()
    x, target = torch.cat([x[:4], torch.zeros(4, 3, 32, 32)]), target[:4].repeat(2)
    assert risk == pytest.approx(F.cross_entropy(model(x), target).item())


@pytest.mark.parametrize('training', [True, False])
def test_nothing_is_touched(training, data):
    train, clean = loaders(data, re_prob=0.5)
    subject = task(create_augment('keep-cut', model=None, tau=None, size=8), create_augment('mixup', num_classes=3))
    model = subject.get_trainable_module()
    subject.train(training)
    before = everything(model)
    risks = TrainingRisks(train, clean, SAMPLES, FORWARD)
    first = risks.measure(subject)
    assert_untouched(before, model)
    assert risks.measure(subject) == first, 'the same draws each time'


def test_streams_come_back_after_an_error():
    before = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].tolist()
    with pytest.raises(RuntimeError), preserved_streams(torch.device('cpu'), 3):
        drawn = torch.rand(()).item(), random.random(), np.random.rand()
        raise RuntimeError
    assert torch.equal(torch.get_rng_state(), before[0]) and random.getstate() == before[1]
    assert np.random.get_state()[1].tolist() == before[2]
    with preserved_streams(torch.device('cpu'), 3):
        assert (torch.rand(()).item(), random.random(), np.random.rand()) == drawn


def test_left_out_where_the_model_in_eval_mode_would_not_mix(data, tmp_path):
    run = run_train(f'{data} {TINY} --epochs 1 --refine-epochs 1 --manifold-mixup', tmp_path)
    assert 'risk' not in (run / 'summary.csv').read_text()


@pytest.mark.parametrize(
    'flags',
    [
        '--mixup 0.5 --reprob 0.3',
        '--mixup 0.5 --no-prefetcher',
        '--keep-cut --keep-size 8 --cutmix 1',
        '--aa original -j 1',
        '--train-img-sizes 32 48 --train-batch-sizes 8 4',
        '--augment-copies 2 --joint-occlusion --amp --amp-dtype bfloat16',
    ],
)
def test_the_run_is_the_same_with_and_without(flags, data, tmp_path):
    weights = []
    for risk in (0, 10):
        run = run_train(f'{data} {TINY} {flags} --epochs 2 --risk-samples {risk}', tmp_path, f'run{risk}')
        weights.append(torch.load(run / 'last.pth.tar', weights_only=False)['state_dict'])
        assert ('risk_clean' in (run / 'summary.csv').read_text()) == bool(risk)
    assert all(torch.equal(weights[0][name], tensor) for name, tensor in weights[1].items())


def test_several_labels_have_no_cross_entropy(caplog):
    """`--refine-epochs` asks for risks by itself; then they are left out, and that is said."""
    args = prepare(create_parser().parse_args(['--refine-epochs', '1', '--task', 'multilabel']))
    with caplog.at_level('INFO'):
        assert isinstance(build_risks(args, SimpleNamespace(dataset=None), {}, None), NoRisks)
    assert 'one label per image' in caplog.text
