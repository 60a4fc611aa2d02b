"""Occlusion curves: masks drawn by hand, a classifier whose curve is known, shares that add up."""

import pytest
import timm
import torch
from torch import nn

from keepaug.evaluation.draw import uniform_per_image
from keepaug.evaluation.occlusion import (
    GRID,
    OCCLUDERS,
    STEPS,
    boundary,
    center_hole,
    hide_and_seek,
    interpolate,
    occlusion,
)
from tests.evaluation.subjects import make_batches, make_subject

CPU = torch.device('cpu')


class Centre(nn.Module):
    """The second class wins while the middle pixel is bright, the first otherwise."""

    def forward(self, x):
        middle = x[:, 0, x.shape[2] // 2, x.shape[3] // 2] - 0.5
        return torch.stack([-middle, middle], 1)


def picture(mask):
    return [''.join('#' if hidden else '.' for hidden in row) for row in mask[0, 0].tolist()]


def test_a_hole_of_half_the_edge():
    assert picture(center_hole((8, 8), [0], 4, 0, CPU)) == ['........'] * 2 + ['..####..'] * 4 + ['........'] * 2
    assert picture(boundary((8, 8), [0], 4, 0, CPU)) == ['########'] * 2 + ['##....##'] * 4 + ['########'] * 2
    assert picture(center_hole((4, 8), [0], 2, 0, CPU)) == ['........', '...##...', '........', '........']


@pytest.mark.parametrize('occlude', OCCLUDERS.values(), ids=OCCLUDERS)
@pytest.mark.parametrize('size', [(32, 32), (30, 17)])
def test_from_nothing_to_everything(occlude, size):
    shares = [occlude(size, range(40), step, 3, CPU).double().mean().item() for step in range(STEPS + 1)]
    assert shares[0] == 0 and shares[-1] == 1
    assert shares == sorted(shares) and len(set(shares)) == len(shares)


def test_cells_are_hidden_as_often_as_asked():
    images = range(10_000)
    for step in (1, 4, 7):
        hidden = hide_and_seek((8, 8), images, step, 0, CPU)[:, 0, ::2, ::2].double()  # a pixel of each cell
        share = step / STEPS
        spread = (share * (1 - share) / len(images)) ** 0.5
        assert (hidden.mean(0) - share).abs().max() < 4.5 * spread  # 16 cells
        counts = hidden.sum((1, 2))
        assert counts.var().item() == pytest.approx(GRID**2 * share * (1 - share), rel=0.08)  # independent draws


def test_what_is_hidden_stays_hidden():
    fewer, more = (hide_and_seek((16, 16), range(50), step, 0, CPU) for step in (3, 5))
    assert (more | ~fewer).all() and (more & ~fewer).any()


def test_a_classifier_of_the_middle():
    subject = make_subject(Centre())
    x = torch.ones(6, 3, 16, 16)
    report = occlusion(subject, make_batches(x, torch.ones(6, dtype=torch.long)))
    shares, errors = report.panels[0].curves['center']
    assert errors == [0] + [100] * STEPS
    assert shares == pytest.approx([(step / STEPS) ** 2 for step in range(STEPS + 1)])
    # The line from 0 to 100 % over the first step, then 100 %.
    assert report.values['center_auc'] == pytest.approx(100 * (1 - shares[1] / 2))
    assert report.values['boundary_auc'] == pytest.approx(100 * shares[1] / 2)
    assert report.panels[0].curves['boundary'][1] == [0] * STEPS + [100]
    values = [report.values[name] for name in ('clean_error', 'center_half', 'boundary_half')]
    assert values == [0, 100, 0]


def test_as_one_image_at_a_time():
    torch.manual_seed(0)
    x, target = torch.randn(7, 3, 32, 32), torch.randint(10, (7,))
    model = timm.create_model('test_resnet', num_classes=10).eval()
    report = occlusion(make_subject(model, seed=5), make_batches(x, target, 3))
    for name, occlude in OCCLUDERS.items():
        for step in (0, 3, STEPS):
            wrong = 0
            for number in range(7):
                image = x[number : number + 1].clone()
                image[occlude((32, 32), [number], step, 5, CPU).expand_as(image)] = 0
                wrong += model(image).argmax().item() != target[number]
            assert report.panels[0].curves[name.replace('_', ' ')][1][step] == pytest.approx(100 * wrong / 7)


def test_between_places():
    places, values = torch.tensor([0.0, 0.25, 1.0]).double(), torch.tensor([0.0, 10.0, 40.0]).double()
    assert interpolate(0.25, places, values) == 10
    assert interpolate(0.5, places, values) == pytest.approx(20)
    assert (
        interpolate(0.5, torch.tensor([0.0, 0.5, 0.5, 1.0]).double(), torch.tensor([0.0, 1.0, 2.0, 3.0]).double()) == 1
    )


def test_draws_belong_to_the_image():
    together = uniform_per_image([4, 9, 2], 3, seed=1)
    assert torch.equal(together[1:2], uniform_per_image([9], 3, seed=1))
    assert not torch.equal(together, uniform_per_image([4, 9, 2], 3, seed=2))
    draws = uniform_per_image(range(20_000), 1, seed=0)[:, 0]
    assert draws.mean().item() == pytest.approx(0.5, abs=4 * (1 / 12 / 20_000) ** 0.5)
    neighbours = torch.corrcoef(torch.stack([draws[:-1], draws[1:]]))[0, 1].item()
    assert abs(neighbours) < 4 / 20_000**0.5
