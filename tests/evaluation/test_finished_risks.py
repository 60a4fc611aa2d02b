"""The two risks of a finished run: right losses, of the images and the augmentation of the run."""

import csv

import pytest
import torch
import torch.nn.functional as F

from keepaug.evaluation.risk import measure_losses, risk
from tests.evaluation.subjects import make_batches, make_subject
from tests.functional.toys import small_cnn
from tests.scripts import TINY, refuse_validate, run_train, run_validate

COMMON = '--model test_resnet --img-size 32 --num-classes 3 --device cpu -j 0 --evaluate risk'


def risks_of(run) -> dict[str, float]:
    """The last row of a run's summary."""
    with open(run / 'summary.csv') as file:
        return {name: float(value) for name, value in list(csv.DictReader(file))[-1].items() if 'risk' in name}


def test_losses_image_by_image():
    torch.manual_seed(0)
    x, target = torch.randn(7, 3, 8, 8), torch.randint(5, (7,))
    subject = make_subject(small_cnn())
    with torch.no_grad():
        losses = [F.cross_entropy(subject.model(image[None]), label[None]).item() for image, label in zip(x, target)]
    for size in (1, 3, 7):
        assert measure_losses(subject, make_batches(x, target, size)).tolist() == pytest.approx(losses)


def test_report_of_mixed_labels():
    torch.manual_seed(0)
    x, target = torch.randn(6, 3, 8, 8), torch.randint(5, (6,))
    mixed = (torch.randn(12, 3, 8, 8), torch.rand(12, 5).softmax(1))
    subject = make_subject(small_cnn(), classes=list(range(5)))
    report = risk(subject, make_batches(x, target), [mixed])
    with torch.no_grad():
        clean = F.cross_entropy(subject.model(x), target).item()
        augmented = -(subject.model(mixed[0]).log_softmax(1) * mixed[1]).sum(1).mean().item()
    assert report.values == pytest.approx(dict(clean=clean, augmented=augmented, gap=augmented - clean), rel=1e-4)
    assert report.settings == dict(images=6, augmented_images=12)
    places, losses = report.panels[0].curves['augmented']
    of_images = -(subject.model(mixed[0]).log_softmax(1) * mixed[1]).sum(1)
    assert (places[0], places[-1], len(places)) == (0, 100, len(losses))
    assert (losses[0], losses[-1]) == pytest.approx((of_images.min().item(), of_images.max().item()))


def test_losses_that_are_no_numbers_are_refused():
    images = make_batches(torch.full((3, 3, 8, 8), torch.nan), torch.zeros(3).long())
    with pytest.raises(ValueError, match='3 of 3 images .*--amp'):
        risk(make_subject(small_cnn()), images, [])


def test_as_the_run_measured_itself(data, tmp_path, capsys):
    """All 24 training images, of which `--no-aug` changes none."""
    run = run_train(f'{data} {TINY} --no-aug --risk-samples 24', tmp_path)
    found = run_validate(f'{data} {COMMON} -b 7 --checkpoint {run}/last.pth.tar', capsys)
    wanted = risks_of(run)
    assert found['risk_clean'] == pytest.approx(wanted['risk_clean'], abs=1e-4)
    assert found['risk_augmented'] == pytest.approx(wanted['risk_augmented'], abs=1e-4)


def test_mixing_costs_as_much_as_in_training(data, tmp_path, capsys):
    """Halves of two images, of other pairs than in the run's own measurement, cost as much more than clean ones."""
    run = run_train(f'{data} {TINY} --no-aug --mixup 1000 --smoothing 0.1 --epochs 6 --risk-samples 24', tmp_path)
    found = [run_validate(f'{data} {COMMON} -b {size} --checkpoint {run}/last.pth.tar', capsys) for size in (5, 24)]
    assert found[0]['risk_augmented'] == pytest.approx(found[1]['risk_augmented'], abs=2e-4), 'whatever the batches'
    wanted = risks_of(run)
    assert found[0]['risk_clean'] == pytest.approx(wanted['risk_clean'], abs=1e-4)
    assert found[0]['risk_gap'] == pytest.approx(wanted['risk_augmented'] - wanted['risk_clean'], rel=0.3)
    assert found[0]['risk_gap'] > 0.05


@pytest.mark.parametrize(
    'flags',
    [
        '--keep-cut --keep-saliency early --keep-size 8 --model-ema',
        '--keep-paste --keep-paste-size 8 --aa rand-m9 --joint-occlusion --augment-copies 2',
        '--train-crop-mode pad4 --keep-cut cutmix --cutmix 1',
        '--train-img-sizes 32 48 --train-batch-sizes 8 4 --aa original --reprob 0.5',
        '--no-aug --cutmix-variant scheduled',
        '--attentive-cutmix 2 --attentive-teacher self --attentive-grid 4 --attentive-teacher-size 96',
    ],
)
def test_every_kind_of_augmentation_is_drawn_again(flags, data, tmp_path, capsys):
    run = run_train(f'{data} {TINY} {flags} --epochs 1', tmp_path)
    found = [
        run_validate(f'{data} {COMMON} -b 8 -j {workers} --checkpoint {run}/last.pth.tar', capsys) for workers in (0, 2)
    ]
    assert found[0] == found[1], 'whichever worker draws'
    assert found[0]['risk_gap'] == pytest.approx(found[0]['risk_augmented'] - found[0]['risk_clean'], abs=2e-4)
    assert found[0]['risk_augmented'] != found[0]['risk_clean']


@pytest.mark.parametrize('flags', ['', 'mixup: 1.\n', 'train_img_sizes: [32, 48]\ntrain_batch_sizes: [128, 64]\n'])
def test_batches_of_the_run_may_be_larger_than_the_training_set(flags, data, tmp_path, capsys, caplog):
    run = run_train(f'{data} {TINY} --epochs 1', tmp_path)
    caplog.set_level('INFO')
    (tmp_path / 'args.yaml').write_text(f'batch_size: 128\n{flags}')
    found = run_validate(
        f'{data} {COMMON} -b 8 --checkpoint {run}/last.pth.tar --risk-args {tmp_path}/args.yaml', capsys
    )
    assert found['risk_gap'] and 'batches of 24 images' in caplog.text


def test_arguments_from_elsewhere(data, tmp_path, capsys):
    """A checkpoint of weights alone is of the run whose args.yaml lies beside it, or is named."""
    run = run_train(f'{data} {TINY} --no-aug --risk-samples 24', tmp_path)
    weights = torch.load(run / 'last.pth.tar', weights_only=False)['state_dict']
    torch.save({'state_dict': weights}, run / 'weights.pth')
    torch.save({'state_dict': weights}, tmp_path / 'weights.pth')
    whole, beside, named = (
        run_validate(f'{data} {COMMON} -b 8 --checkpoint {path}', capsys)
        for path in (f'{run}/last.pth.tar', f'{run}/weights.pth', f'{tmp_path}/weights.pth --risk-args {run}/args.yaml')
    )
    assert whole == beside == named
    assert 'no arguments' in refuse_validate(f'{data} {COMMON} --checkpoint {tmp_path}/weights.pth', capsys)


def test_label_smoothing_is_no_augmentation(data, tmp_path, capsys):
    run = run_train(f'{data} {TINY} --mixup 1 --epochs 1', tmp_path)
    found = []
    for smoothing in (0.0, 0.5):
        (tmp_path / 'args.yaml').write_text(f'mixup: 1.\nbatch_size: 8\nsmoothing: {smoothing}\n')
        found.append(
            run_validate(
                f'{data} {COMMON} -b 8 --checkpoint {run}/last.pth.tar --risk-args {tmp_path}/args.yaml', capsys
            )
        )
    assert found[0] == pytest.approx(found[1], abs=2e-4)


def test_what_cannot_be_drawn_again_is_refused(data, tmp_path, capsys):
    run = run_train(f'{data} {TINY} --manifold-mixup --epochs 1', tmp_path)
    said = refuse_validate(f'{data} {COMMON} --checkpoint {run}/last.pth.tar', capsys)
    assert '--manifold-mixup' in said and '--evaluate risk' in said
    said = refuse_validate(f'{data} {COMMON} --checkpoint {run}/last.pth.tar --early-exit', capsys)
    assert '--early-exit' in said
    said = refuse_validate(f'{data} {COMMON} --checkpoint {run}/last.pth.tar --risk-args {tmp_path}/none.yaml', capsys)
    assert '--risk-args' in said


def test_a_folder_without_training_images(data, tmp_path, capsys):
    """timm would take the validation images for the training images."""
    run = run_train(f'{data} {TINY} --epochs 1', tmp_path)
    said = refuse_validate(f'{data}/val {COMMON} --checkpoint {run}/last.pth.tar', capsys)
    assert 'no training images' in said
