"""Out-of-distribution detection: known answers, slow references, the right noise, nothing lost in half precision."""

import json

import pytest
import timm
import torch
from sklearn.metrics import roc_auc_score
from torch import nn
from torchmetrics.classification import MulticlassCalibrationError

from keepaug.evaluation.ood import (
    calibration_error,
    confidence,
    detection,
    draw_noise,
    log_odds,
    name_sets,
    ood,
    score_images,
)
from keepaug.training.forward import Forward
from keepaug.validation.analysis import BINS
from tests.evaluation.subjects import Difference, make_batches, make_subject, network, photographs
from tests.scripts import run_validate, write_images


def metrics_of(inside, outside) -> dict[str, float]:
    return detection(torch.as_tensor(inside, dtype=torch.float64), torch.as_tensor(outside, dtype=torch.float64))[0]


def test_the_same_scores_tell_nothing():
    scores = torch.randn(20)
    assert metrics_of(scores, scores.flip(0)) == pytest.approx(dict(tnr95=5, auroc=50, detection=50), abs=1e-4)
    assert metrics_of(torch.ones(7), torch.ones(9)) == dict(tnr95=0, auroc=50, detection=50)


def test_scores_apart_tell_all():
    perfect = dict(tnr95=100, auroc=100, detection=100)
    assert metrics_of([3, 4, 5], [1, 2]) == perfect
    assert metrics_of([50, 60, 70], [40, 45]) == perfect, 'where a sigmoid gives 1 for each'
    assert metrics_of([1, 2], [3, 4, 5]) == dict(tnr95=0, auroc=0, detection=50)


@pytest.mark.parametrize('images,rejected', [(20, 100), (19, 0)])
def test_the_threshold_lets_no_fewer_than_95_percent_through(images, rejected):
    """One of 20 may be given up, one of 19 may not."""
    assert metrics_of(range(images), [0.5])['tnr95'] == pytest.approx(rejected)


def test_detection_as_a_slow_loop():
    torch.manual_seed(2)
    inside, outside = torch.randn(150).add(1).mul(3).round(), torch.randn(90).mul(3).round()  # many are equal
    tnr95, best = 0.0, 0.0
    for threshold in torch.cat([inside, outside, torch.tensor([99.0])]).tolist():
        tpr, tnr = (inside >= threshold).double().mean().item(), (outside < threshold).double().mean().item()
        best = max(best, (tpr + tnr) / 2)
        tnr95 = max(tnr95, tnr) if tpr >= 0.95 else tnr95
    auroc = roc_auc_score([1] * 150 + [0] * 90, torch.cat([inside, outside]).numpy())
    wanted = dict(tnr95=100 * tnr95, auroc=100 * auroc, detection=100 * best)
    assert metrics_of(inside, outside) == pytest.approx(wanted, abs=1e-4)
    assert 0 < tnr95 < 0.9 and 0.6 < auroc < 0.95


def test_log_odds_of_the_largest_softmax():
    torch.manual_seed(0)
    logits = torch.randn(50, 7) * 4
    for temperature in (1.0, 1000.0):
        p = (logits.double() / temperature).softmax(1).amax(1)
        torch.testing.assert_close(log_odds(logits, temperature), (p / (1 - p)).log())
    sure = log_odds(torch.tensor([[60.0, 0, 0], [61, 0, 0]]))
    assert sure[1] - sure[0] == pytest.approx(1), 'both softmaxes are 1'
    close = log_odds(torch.tensor([[1.0, 0], [1 + 2e-6, 0]]), temperature=1000)
    assert close[1] > close[0], 'both softmaxes are 0.50025 in float32'


def test_no_step_and_temperature_1_is_the_largest_softmax():
    x, _ = photographs()
    subject = network()
    with torch.no_grad():
        p = subject.model(x).double().softmax(1).amax(1)
    logits, scores = score_images(subject, x, temperature=1.0, eps=0.0)
    torch.testing.assert_close(scores[:, 0].sigmoid(), p)
    assert torch.equal(scores[:, 0], scores[:, 1])
    assert torch.equal(score_images(subject, x, 1000.0, 0.0)[1][:, 1], log_odds(logits, 1000.0))


def test_a_step_along_a_mean():
    subject = make_subject(Difference())
    x = torch.full((1, 3, 4, 4), -0.5)  # the first class leads by 1, and by 2 eps / std after the step
    scores = score_images(subject, x, temperature=10.0, eps=0.01)[1][0]
    assert scores.tolist() == pytest.approx([1.0, (1.0 + 2 * 0.01 / 0.25) / 10])


def test_odin_as_one_image_at_a_time_in_pixels():
    x, _ = photographs()
    subject = network()
    scores = score_images(subject, x, 1000.0, 0.0014)[1][:, 1]
    for image, score in zip(x, scores):
        pixels = (image * 0.25 + 0.5)[None].requires_grad_()
        (subject.model((pixels - 0.5) / 0.25).double() / 1000).softmax(1).amax().log().backward()
        moved = pixels - 0.0014 * (-pixels.grad).sign()
        p = (subject.model((moved - 0.5) / 0.25).double() / 1000).softmax(1).amax().item()
        assert p == pytest.approx(score.sigmoid().item(), rel=1e-7)


def test_the_step_does_not_vanish_in_half_precision():
    subject = make_subject(Difference(1e-4).half(), forward=Forward(dtype=torch.float16))
    x = torch.full((1, 3, 64, 64), 0.5, dtype=torch.float16)
    still, moved = (score_images(subject, x, 1000.0, eps)[1][0, 1] for eps in (0.0, 0.25))
    assert (moved / still).item() == pytest.approx(3.0, rel=0.01)  # 0.5 becomes 1.5


def test_a_gradient_that_is_no_number_is_refused():
    subject = make_subject(Difference(1e3).half(), forward=Forward(dtype=torch.float16))
    with pytest.raises(ValueError, match='gradients of 2 images .*--amp'):
        score_images(subject, torch.full((2, 3, 2, 2), 0.1), 1000.0, 0.0014)


def test_weights_are_left_alone():
    x, _ = photographs()
    subject = network()
    score_images(subject, x, 1000.0, 0.0014)
    assert all(parameter.grad is None for parameter in subject.bare.parameters())


def test_noise_of_each_kind():
    noise = draw_noise(torch.empty(4, 3, 64, 64), range(4), seed=0)
    uniform, gaussian = noise['uniform'], noise['gaussian']
    n = uniform.numel()
    assert n > 1e4 and uniform.min() >= 0 and uniform.max() <= 1
    assert uniform.mean().item() == pytest.approx(0.5, abs=5 * (12 * n) ** -0.5)
    assert uniform.var().item() == pytest.approx(1 / 12, rel=0.03)
    assert gaussian.mean().item() == pytest.approx(0.5, abs=0.01)
    for edge in (0, 1):  # beyond half a standard deviation
        assert (gaussian == edge).double().mean().item() == pytest.approx(0.3085, abs=0.01)
    inside = gaussian[(gaussian > 0) & (gaussian < 1)]
    density = torch.distributions.Normal(0.5, 1.0)
    wanted = (density.cdf(torch.tensor(0.75)) - 0.5) / (density.cdf(torch.tensor(1.0)) - 0.5)
    assert (inside[inside > 0.5] < 0.75).double().mean().item() == pytest.approx(wanted.item(), abs=0.02)


def test_noise_goes_by_the_number_of_the_image():
    like = torch.empty(3, 1, 5, 5)
    first, second = draw_noise(like, [7, 8, 9], seed=0), draw_noise(like[:1], [8], seed=0)
    for kind in first:
        assert torch.equal(first[kind][1], second[kind][0])
        assert not torch.equal(first[kind][0], first[kind][1])
        assert not torch.equal(second[kind], draw_noise(like[:1], [8], seed=1)[kind])


def test_independent_of_the_batch_size():
    x, target = photographs()
    subject = network()
    found = [
        ood(subject, make_batches(x, target, size), {'more': make_batches(-x, target, size)}).values
        for size in (1, 4, 10)
    ]
    assert found[0] == pytest.approx(found[1]) and found[1] == pytest.approx(found[2])


def test_images_against_themselves():
    x, target = photographs()
    report = ood(network(), make_batches(x, target), {'twin': make_batches(x, target)})
    values = report.values
    for score in ('softmax', 'odin'):
        assert values[f'twin_{score}_auroc'] == pytest.approx(50, abs=1e-4)
        sets = [values[f'{name}_{score}_auroc'] for name in ('uniform', 'gaussian', 'twin')]
        assert values[f'{score}_auroc'] == pytest.approx(sum(sets) / 3)
    assert [panel.title.split()[-1] for panel in report.panels] == ['uniform', 'gaussian', 'twin']
    for panel in report.panels:
        for places, shares in panel.curves.values():
            assert (places[0], shares[0], places[-1], shares[-1]) == (0, 0, 1, 1)
    assert report.settings['images'] == report.settings['images_uniform'] == report.settings['images_twin'] == 10


def test_calibration_error():
    assert calibration_error(torch.tensor([[0.95, 1], [0.95, 0], [0.55, 1], [0.55, 0]])) == pytest.approx(25)
    torch.manual_seed(0)
    logits, target = torch.randn(300, 6) * 2, torch.randint(6, (300,))
    reference = MulticlassCalibrationError(6, n_bins=BINS, norm='l1')(logits.softmax(1), target).item()
    assert calibration_error(confidence(logits, target)) == pytest.approx(100 * reference, rel=1e-4)


def test_names_of_sets():
    assert name_sets([]) == {}
    assert name_sets(['data/lsun/', '/a/svhn', 'data/lsun']) == {'lsun': 'data/lsun', 'svhn': '/a/svhn'}
    assert name_sets(['data/lsun/', '/a/test', '/b/test', '/c/uniform']) == {
        'data-lsun': 'data/lsun/',
        'a-test': '/a/test',
        'b-test': '/b/test',
        'c-uniform': '/c/uniform',
    }
    assert name_sets(['street=/a/svhn/test', '/b/test', 'data/street']) == {
        'b-test': '/b/test',
        'data-street': 'data/street',
        'street': '/a/svhn/test',
    }


@pytest.mark.parametrize('classes', [1, 3])
def test_answers_without_an_order_are_refused(classes):
    class Broken(nn.Module):
        def forward(self, x):
            return torch.full((len(x), classes), torch.inf if classes > 1 else 0.0)

    x = torch.zeros(4, 3, 4, 4)
    with pytest.raises(ValueError, match='not finite'):
        ood(make_subject(Broken()), make_batches(x, torch.zeros(4).long()), {}, eps=0.0)


def test_folders_of_any_depth_from_the_command_line(tmp_path, capsys):
    data = write_images(tmp_path / 'data')
    common = f'{data} --model test_resnet --checkpoint {tmp_path}/weights.pth --img-size 32 --num-classes 3'
    torch.save(timm.create_model('test_resnet', num_classes=3).state_dict(), tmp_path / 'weights.pth')
    folders = f'{data}/train {data}/train/class1'  # nested, and flat
    found = {}
    for size in (5, 24):
        found[size] = run_validate(
            f'{common} --device cpu -j 0 -b {size} --eval-samples 16 --evaluate ood spectrum '
            f'--ood-data-dir {folders} --analysis-dir {tmp_path}/out',
            capsys,
        )
    assert found[5] == pytest.approx(found[24], abs=1e-3)
    assert 0 < found[5]['ood_train_odin_auroc'] < 100 and 'ood_class1_softmax_tnr95' in found[5]
    told = json.loads((tmp_path / 'out' / 'ood.json').read_text())
    (settings,) = (report['settings'] for report in told.values())
    assert (settings['images'], settings['images_train'], settings['images_class1']) == (16, 16, 8)
    assert (tmp_path / 'out' / 'ood.png').exists() and (tmp_path / 'out' / 'spectrum.png').exists()
