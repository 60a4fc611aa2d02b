"""Attentive CutMix: the partner's best patches, at their place, by a teacher that is left as it is."""

import pytest
import timm
import torch
from torch import Tensor, nn

import keepaug
from keepaug.functional import attention_grid, top_patches_mask
from tests.functional.backbones import assert_untouched, create_backbone, everything, leave_marks
from tests.functional.reference import SIGNIFICANT, independent_p, rate_p, uniform_p


class Brightness(nn.Module):
    """A teacher whose last feature map is the image in cells of a size, and which notes what it was shown."""

    def __init__(self, cell: int = 1):
        super().__init__()
        self.pool = nn.AvgPool2d(cell)
        self.shown: Tensor | None = None

    def forward_intermediates(self, x: Tensor, **kwargs) -> tuple[Tensor, list[Tensor]]:
        self.shown = x
        return self.pool(x), [self.pool(x)]


def _generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def _create(teacher: nn.Module | None = None, num_classes: int = 8, **settings):
    teacher = Brightness(4) if teacher is None else teacher
    return keepaug.create_augment('attentive-cutmix', num_classes=num_classes, teacher=teacher, **settings)


def _images(batch: int = 8, edge: int = 28) -> Tensor:
    return torch.rand(batch, 3, edge, edge, generator=_generator(1)) + 1


# Exact.


def test_bright_patch_moves_to_the_same_place():
    x = torch.zeros(2, 1, 28, 28)
    x[0, :, 4:8, 20:24] = 5.0
    x[1, :, 24:28, 0:4] = 3.0
    mixed, soft = _create(num_classes=2, patches=1)(x, torch.tensor([0, 1]))
    both = x[0] + x[1]
    assert torch.equal(mixed[0], both) and torch.equal(mixed[1], both)
    assert torch.allclose(soft, torch.tensor([[48.0, 1.0], [1.0, 48.0]]) / 49)


def test_lambda_is_the_receivers_share():
    """Inverted, six patches would carry 43 / 49 of the label."""
    mixer = _create(num_classes=2)
    soft = mixer(_images(2), torch.tensor([0, 1]))[1]
    assert torch.allclose(soft.diagonal(), torch.tensor(43 / 49))
    assert torch.allclose(mixer.last['lam'], torch.tensor(43 / 49, dtype=torch.float64))


@pytest.mark.parametrize('edge', [28, 30, 33])
@pytest.mark.parametrize('mixing', ['batch', 'pair', 'elem'])
@pytest.mark.parametrize('batch', [1, 2, 7])
def test_agrees_with_a_loop(edge, mixing, batch):
    mixer = _create(mixing=mixing, patches=5, prob=0.7)
    x, target = _images(batch, edge), torch.arange(batch)
    given = x.clone()
    for seed in range(4):
        mixed, soft = mixer(x, target, _generator(seed))
        grid, partner, mask, lam = (mixer.last[name] for name in ('grid', 'partner', 'mask', 'lam'))
        attention = attention_grid(mixer.teacher, x, mixer.grid)
        assert grid is None or torch.equal(grid, attention[partner]), 'the attention that chose the mask'
        for i in range(batch):
            j = partner[i].item()
            assert batch == 1 or j != i
            if mask[i].any():
                assert torch.equal(mask[i], top_patches_mask(attention[j : j + 1], 5, (edge, edge))[0])
            wanted = x[i].clone()
            wanted[:, mask[i, 0]] = x[j][:, mask[i, 0]]
            assert torch.equal(mixed[i], wanted)
            assert lam[i].item() == pytest.approx(1 - mask[i].double().mean().item(), abs=1e-12)
            label = torch.zeros(8)
            label[i] += lam[i]
            label[j] += 1 - lam[i]
            assert torch.allclose(soft[i], label)
    assert torch.equal(x, given)


def test_class_ids_beyond_halfs_whole_numbers():
    """257 and 999 are no bfloat16."""
    x, target = _images(2).bfloat16(), torch.tensor([257, 999])
    mixer = _create(num_classes=1000, patches=1)
    mixed, soft = mixer(x, target)
    assert mixed.dtype == torch.bfloat16
    assert torch.equal(soft.argmax(1), target) and soft[0, 999] > 0 and soft[1, 257] > 0


def test_soft_targets_and_smoothing():
    soft = torch.tensor([[0.5, 0.5], [1.0, 0.0]])
    mixed = _create(num_classes=2, smoothing=0.1)(_images(2), soft)[1]
    assert torch.allclose(mixed[0], soft[0] * 43 / 49 + soft[1] * 6 / 49)
    smoothed = _create(num_classes=2, smoothing=0.1)(_images(2), torch.tensor([0, 1]))[1]
    assert torch.allclose(smoothed[0], torch.tensor([0.95 * 43 + 0.05 * 6, 0.05 * 43 + 0.95 * 6]) / 49)


# Statistical.


def test_every_cell_is_taken_as_often_and_for_itself():
    x = torch.rand(10_000, 1, 3, 3, generator=_generator())
    mixer = _create(Brightness(), grid=3, patches=1, num_classes=2)
    mixer(x, torch.zeros(10_000, dtype=torch.long), _generator())
    cells = mixer.last['mask'].flatten(1).long().argmax(1)
    assert uniform_p(cells, 9) > SIGNIFICANT and independent_p(cells, 9) > SIGNIFICANT


@pytest.mark.parametrize('strength', [1.0, 0.25])
def test_probability_is_applied_once_and_fades(strength):
    mixer = _create(Brightness(), grid=2, patches=1, num_classes=2, mixing='elem', prob=0.3)
    mixer.strength = strength
    mixer(torch.rand(10_000, 1, 2, 2), torch.zeros(10_000, dtype=torch.long), _generator())
    assert rate_p(int(mixer.last['mask'].flatten(1).any(1).sum()), 10_000, 0.3 * strength) > SIGNIFICANT


# The teacher.


def test_teacher_sees_its_own_normalisation_and_size():
    teacher = Brightness(8)
    mixer = _create(
        teacher,
        teacher_size=(56, 56),
        normalisation=((0.5, 0.4, 0.3), (0.2, 0.2, 0.5)),
        teacher_normalisation=((0.1, 0.1, 0.1), (0.5, 0.25, 0.5)),
    )
    pixels = torch.tensor([0.7, 0.6, 0.2])[:, None, None]
    x = (pixels - torch.tensor([0.5, 0.4, 0.3])[:, None, None]) / torch.tensor([0.2, 0.2, 0.5])[:, None, None]
    mixer(x.expand(2, 3, 28, 28), torch.tensor([0, 1]))
    assert teacher.shown.shape == (2, 3, 56, 56)
    wanted = ((pixels - 0.1) / torch.tensor([0.5, 0.25, 0.5])[:, None, None]).expand(2, 3, 56, 56)
    torch.testing.assert_close(teacher.shown, wanted)


def test_teacher_left_in_train_mode_by_its_owner_learns_nothing():
    """Batch norm in train mode would take the statistics of the run into the teacher."""
    teacher = create_backbone('resnet').train()
    leave_marks(teacher)  # a frozen layer among them
    mixer = _create(teacher)
    x, target = torch.randn(2, 3, 64, 64), torch.tensor([0, 1])
    before = everything(teacher)
    mixer(x, target, _generator())
    assert_untouched(before, teacher)
    grid = mixer.last['grid']
    mixer(x, target, _generator())
    assert torch.equal(grid, mixer.last['grid']), 'no dropout'


@pytest.mark.parametrize('amp', [False, True])
def test_model_that_teaches_itself_trains_as_without(amp):
    """Neither gradients nor statistics of the student come from its own attention."""
    gradients = []
    for grid in (True, False):
        model = create_backbone('resnet').eval()
        mixer = keepaug.create_augment('attentive-cutmix', model=model, num_classes=7)
        with torch.autocast('cpu', dtype=torch.bfloat16, enabled=amp):
            if grid:
                mixer(torch.randn(2, 3, 64, 64), torch.tensor([0, 1]))
            model(torch.ones(2, 3, 64, 64)).float().sum().backward()
        gradients.append([parameter.grad for parameter in model.parameters()])
    assert all(torch.equal(a, b) for a, b in zip(*gradients))


def test_teacher_runs_in_half_precision_under_amp():
    teacher = create_backbone('resnet').requires_grad_(False)
    types = []
    teacher.layer4.register_forward_hook(lambda module, inputs, output: types.append(output.dtype))
    with torch.autocast('cpu', dtype=torch.bfloat16):
        _create(teacher)(torch.randn(2, 3, 64, 64), torch.tensor([0, 1]))
    assert types == [torch.bfloat16]


def test_teacher_is_not_run_for_a_batch_that_is_not_mixed():
    teacher = Brightness(4)
    mixer = _create(teacher, prob=0.0)
    x, target = _images(), torch.arange(8)
    mixed, soft = mixer(x, target)
    assert teacher.shown is None and torch.equal(mixed, x) and torch.equal(soft, torch.eye(8))
    assert mixer.last['grid'] is None and not mixer.last['mask'].any()


def test_a_line_of_the_log_holds_no_tensors():
    statistics = dict(normalisation=((0.5,) * 3, (0.5,) * 3), teacher_normalisation=((0.4,) * 3, (0.2,) * 3))
    told = repr(_create(teacher_size=(32, 32), **statistics))
    assert 'tensor' not in told and 'teacher_size=(32, 32)' in told and 'patches=' in told


def test_teacher_without_a_classifier_or_with_other_classes():
    for classes in (0, 1000):
        teacher = timm.create_model('test_resnet', num_classes=classes)
        assert _create(teacher)(torch.randn(2, 3, 64, 64), torch.tensor([0, 1]))[1].shape == (2, 8)


@pytest.mark.parametrize(
    'teacher, edge, says', [('resnet', 32, 'as a single cell'), ('mixer', 48, 'can run at.* got 48 x 48')]
)
def test_images_the_teacher_has_no_use_for_are_refused(teacher, edge, says):
    mixer = _create(create_backbone(teacher))
    with pytest.raises(ValueError, match=says):
        mixer.check_images(torch.zeros(1, 3, edge, edge))


def test_a_grid_finer_than_the_image_is_refused():
    images = torch.zeros(1, 3, 32, 20)
    _create(grid=20).check_images(images)
    with pytest.raises(ValueError, match='grid must be at most 20 for images of 32 x 20 pixels, got 21'):
        _create(grid=21).check_images(images)


@pytest.mark.parametrize(
    'settings',
    [dict(patches=0), dict(patches=50), dict(grid=0), dict(normalisation=((0.0,), (1.0,))), dict(num_classes=None)],
)
def test_refusals(settings):
    with pytest.raises(ValueError):
        _create(**settings)
    with pytest.raises(ValueError, match='teacher='):
        keepaug.create_augment('attentive-cutmix', num_classes=3)
