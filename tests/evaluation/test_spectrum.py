"""Spectra of features: known covariances, NumPy's singular values, sums merged in any order, many families."""

import threading

import numpy as np
import pytest
import timm
import torch
from torch import nn

import keepaug  # noqa: F401  registers our networks with timm
from keepaug.evaluation.spectrum import GroupedMoments, describe, penultimate, singular_values, spectrum
from tests.evaluation.subjects import make_batches, make_subject


class Given(nn.Module):
    """The images are the features."""

    num_classes = 3

    def forward_features(self, x):
        return x

    def forward_head(self, x, pre_logits=False):
        return x.flatten(1) if pre_logits else x.flatten(1)[:, :3]


@pytest.fixture
def features():
    torch.manual_seed(0)
    return torch.randn(60, 8) * torch.arange(1.0, 9), torch.randint(3, (60,))


def moments_of(x, group, groups=3, batch_size=7):
    moments = GroupedMoments(groups, x.shape[1])
    for rows, labels in zip(x.split(batch_size), group.split(batch_size)):
        moments.update(rows, labels)
    return moments


def scatter_of(x):
    deviation = np.asarray(x, dtype=np.float64) - np.asarray(x, dtype=np.float64).mean(0)
    return deviation.T @ deviation


@pytest.mark.parametrize('batch_size', [1, 7, 60])
def test_moments_as_numpy(batch_size, features):
    x, group = features
    moments = moments_of(x, group, groups=4, batch_size=batch_size)
    assert moments.count.tolist() == [*group.bincount().tolist(), 0]
    for label in range(3):
        np.testing.assert_allclose(moments.mean[label], x[group == label].double().mean(0))
    np.testing.assert_allclose(moments.scatter, sum(scatter_of(x[group == label]) for label in range(3)))
    np.testing.assert_allclose(moments.scatter + moments.between(), scatter_of(x))


def test_a_far_mean_loses_nothing(features):
    """Sums of squares subtracted from each other would lose all sixteen digits here."""
    x, group = features
    far = moments_of(x.double() + 1e8, group)
    np.testing.assert_allclose(far.scatter, moments_of(x, group).scatter, rtol=1e-6, atol=1e-4)


def test_processes_are_merged(features):
    x, group = features
    parts = [moments_of(x[:35], group[:35]), moments_of(x[35:], group[35:]), GroupedMoments(3, 8)]
    barrier, sums = threading.Barrier(3), []

    def total(value):
        sums.append(value)
        barrier.wait()
        result = sum(sums)
        barrier.wait()
        sums.clear()
        barrier.wait()
        return result

    threads = [threading.Thread(target=part.merge, args=(total,)) for part in parts]
    [thread.start() for thread in threads]
    [thread.join() for thread in threads]
    whole = moments_of(x, group)
    for part in parts:
        assert torch.equal(part.count, whole.count)
        torch.testing.assert_close(part.mean, whole.mean)
        torch.testing.assert_close(part.scatter, whole.scatter)


def test_singular_values_as_numpy(features):
    x, _ = features
    wanted = np.linalg.svd(x.double().numpy() - x.double().numpy().mean(0), compute_uv=False) ** 2 / 59
    np.testing.assert_allclose(singular_values(torch.from_numpy(scatter_of(x) / 59)), wanted)
    np.testing.assert_allclose(
        singular_values(torch.from_numpy(scatter_of(x))), np.linalg.svd(scatter_of(x), compute_uv=False)
    )
    with pytest.raises(ValueError, match='not finite'):
        singular_values(torch.full((2, 2), torch.nan))


def test_a_drawn_covariance_is_found():
    """2e4 vectors of known variances, turned: each value within five standard errors, var sqrt(2 / n)."""
    torch.manual_seed(0)
    variances = torch.tensor([100.0, 30.0, 10.0, 1.0])
    turn, _ = torch.linalg.qr(torch.randn(4, 4))
    x = torch.randn(20000, 4) * variances.sqrt() @ turn.T + 50
    found = singular_values(moments_of(x, torch.zeros(20000).long(), 1, 1000).scatter / 19999)
    np.testing.assert_allclose(found, variances, rtol=5 * (2 / 20000) ** 0.5)


def test_a_spectrum_in_numbers():
    assert describe(torch.ones(4).double()) == pytest.approx(dict(rank=4, effective_rank=4, top10=100, log10_largest=0))
    assert describe(torch.tensor([100.0, 1.0, 0.99, 0]).double())['rank'] == 1, 'above 1 %, not at it'
    assert describe(torch.tensor([1000.0, 0, 0]).double()) == pytest.approx(
        dict(rank=1, effective_rank=1, top10=100, log10_largest=3)
    )
    long = describe(torch.tensor([4.0] * 99 + [2.0] * 101).double())
    assert long['100th'] == 50 and long['top10'] == pytest.approx(100 * 40 / (99 * 4 + 101 * 2))
    assert describe(torch.zeros(3).double()) == {}


def test_report_of_given_features(features):
    x, target = features
    images = x.view(60, 8, 1, 1)
    reports = [spectrum(make_subject(Given()), make_batches(images, target, size), [1]) for size in (4, 60)]
    for name, value in reports[0].values.items():
        assert value == pytest.approx(reports[1].values[name])
    values = reports[0].values
    largest = np.linalg.svd(scatter_of(x) / 59, compute_uv=False)[0]
    assert values['all_log10_largest'] == pytest.approx(np.log10(largest))
    ones = x[target == 1]
    of_class = np.linalg.svd(scatter_of(ones) / (len(ones) - 1), compute_uv=False)
    places, curve = reports[0].panels[1].curves[f'{len(ones)} images']
    np.testing.assert_allclose(curve, of_class, rtol=1e-5)
    assert places == list(range(1, 9)) and reports[0].panels[1].title == 'class 1'
    within = sum(scatter_of(x[target == label]) for label in range(3)) / 57
    share = np.linalg.svd(within, compute_uv=False) / np.trace(within)
    assert values['within_log10_largest'] == pytest.approx(np.log10(np.linalg.svd(within, compute_uv=False)[0]))
    assert values['within_effective_rank'] == pytest.approx(np.exp(-(share * np.log(share)).sum()), rel=1e-5)
    assert reports[0].settings['images_of_classes'] == [len(ones)]


def test_several_classes_are_as_each_by_itself(features):
    x, target = features
    several, *single = (
        spectrum(make_subject(Given()), make_batches(x.view(60, 8, 1, 1), target, 7), classes)
        for classes in ([2, 0], [2], [0])
    )
    assert several.values == single[0].values | single[1].values
    assert [panel.title for panel in several.panels] == ['all classes', 'class 2', 'class 0', 'within classes, pooled']
    assert several.settings['classes'] == [2, 0]
    assert several.settings['images_of_classes'] == [int((target == number).sum()) for number in (2, 0)]


def test_as_numpy_on_a_network():
    torch.manual_seed(0)
    x, target = torch.randn(20, 3, 32, 32), torch.arange(20) % 4
    subject = make_subject(timm.create_model('test_resnet', num_classes=4))
    report = spectrum(subject, make_batches(x, target, 6))
    with torch.no_grad():
        stacked = subject.bare.global_pool(subject.bare.forward_features(x)).double().numpy()
    wanted = np.linalg.svd(stacked - stacked.mean(0), compute_uv=False) ** 2 / 19
    curve = np.array(report.panels[0].curves['20 images'][1])
    np.testing.assert_allclose(curve[:19], wanted[:19], rtol=1e-4, atol=1e-9 * wanted[0])
    assert (curve[19:] < 1e-12 * curve[0]).all(), 'twenty images span nineteen directions'


@pytest.mark.parametrize(
    'name',
    [
        'test_resnet',
        'test_vit',
        'test_vit4',
        'test_efficientnet',
        'test_convnext',
        'test_convnext3',
        'test_nfnet',
        'test_mambaout',
        'test_byobnet',
        'mobilenetv3_small_050',
        'cifar_preact_resnet18',
    ],
)
def test_families_give_what_their_last_layer_sees(name):
    torch.manual_seed(0)
    size = 160 if name.startswith('test_') and 'vit' in name else 64
    subject = make_subject(timm.create_model(name, num_classes=5))
    x = torch.randn(2, 3, size, size)
    found = penultimate(subject, x)
    assert found.shape == (2, getattr(subject.bare, 'head_hidden_size', None) or subject.bare.num_features)
    classifier = subject.bare.get_classifier()
    with torch.no_grad():
        seen = found[..., None, None] if isinstance(classifier, nn.Conv2d) else found
        torch.testing.assert_close(classifier(seen).flatten(1), subject.bare(x))


@pytest.mark.parametrize(
    'model,size,target,message',
    [
        (Given(), 1, [1, 1, 1, 0], '--spectrum-class 0 has 1 of the 4'),
        (nn.Flatten(), 32, [0, 0, 1, 1], 'forward_features'),
        (timm.create_model('test_resnet', num_classes=3, global_pool=''), 64, [0, 0, 1, 1], '--gp avg'),
    ],
)
def test_what_has_no_spectrum_is_refused(model, size, target, message):
    model.num_classes = 3
    with pytest.raises(ValueError, match=message):
        spectrum(make_subject(model), make_batches(torch.randn(4, 3, size, size), torch.tensor(target)))
