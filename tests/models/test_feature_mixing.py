"""Mixing inside the backbone: the features that go on are the mixed ones, in every layout, and nothing else changes."""

import copy
import gc

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import keepaug
from keepaug.augment.feature_mixing import FeatureMixer
from keepaug.models.early_exit import stage_info
from keepaug.models.feature_mixing import Plan, Stage, StageMixing, find_stages, mix_features
from tests.functional.backbones import (
    BACKBONES,
    CLASSES,
    SIZE,
    assert_untouched,
    create_backbone,
    everything,
    leave_marks,
)
from tests.functional.reference import SIGNIFICANT, rate_p, uniform_p
from tests.functional.toys import small_cnn

METHODS = ('feature-cutmix', 'manifold-mixup')
TOKENS = {'vit', 'mixer', 'levit'}
NHWC = {'swin', 'swinv2'}


def _generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def _create(method: str, model: nn.Module, num_classes: int = CLASSES, **settings) -> FeatureMixer:
    return keepaug.create_augment(method, model=model, num_classes=num_classes, **settings)


def _batch(batch: int = 4, edge: int = SIZE) -> tuple[Tensor, Tensor]:
    return torch.randn(batch, 3, edge, edge, generator=_generator(1)), torch.arange(batch) % CLASSES


def _hooks_alone(model: nn.Module) -> nn.Module:
    """Training mode for the modules whose hooks mix, eval mode for all others, so that a pass can be repeated."""
    model.eval()
    for entry in stage_info(model):
        model.get_submodule(entry['module']).training = True
    return model


def outputs_of(model: nn.Module, name: str, x: Tensor) -> tuple[Tensor, Tensor]:
    """What a module gives out in a forward pass, and the logits."""
    seen = []
    handle = model.get_submodule(name).register_forward_hook(lambda module, inputs, output: seen.append(output))
    logits = model(x)
    handle.remove()
    return seen[0], logits


# Finding stages.


@pytest.mark.parametrize('name', BACKBONES)
def test_layouts_of_every_family(name):
    stages = find_stages(create_backbone(name), torch.zeros(1, 3, SIZE, SIZE))
    layout = 'tokens' if name in TOKENS else 'NHWC' if name in NHWC else 'NCHW'
    assert {stage.layout for stage in stages} == {layout}


@pytest.mark.parametrize('name', BACKBONES)
def test_looking_for_stages_is_pure(name):
    model = create_backbone(name)
    leave_marks(model)
    before = everything(model)
    find_stages(model, torch.zeros(1, 3, SIZE, SIZE))
    assert_untouched(before, model)
    assert not any(module._forward_hooks for module in model.modules())


def test_module_that_runs_twice_is_no_stage():
    class Twice(type(small_cnn())):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(self[2](x) if x.shape[1] == 8 else x) + 0 * self[6](x).mean()

    model = Twice(*small_cnn())
    assert [stage is not None for stage in find_stages(model, torch.zeros(1, 3, 16, 16))] == [True, False]
    with pytest.raises(ValueError, match='must be among 0, 1'):
        _create('manifold-mixup', model, stages=(0, 2)).check_images(torch.zeros(1, 3, 16, 16))


def test_model_without_stages_is_refused_by_name():
    with pytest.raises(ValueError, match='Sequential has no stages'):
        _create('feature-cutmix', nn.Sequential(nn.Flatten(), nn.Linear(12, 3))).check_images(torch.zeros(1, 3, 2, 2))


# Mixing.


def test_token_grid_by_hand():
    """A class token and a grid of 2 x 2: the token follows the label, the cells the box."""
    tokens = torch.stack([torch.zeros(5, 1), torch.ones(5, 1)])
    boxes = torch.tensor([[1, 0, 2, 2], [0, 0, 1, 1]])
    lam = torch.tensor([0.5, 0.75])
    mixed = mix_features(tokens, Stage('', 'tokens', (2, 2)), torch.tensor([1, 0]), lam, torch.ones(2), boxes)
    assert mixed[..., 0].tolist() == [[0.5, 0.0, 1.0, 0.0, 1.0], [0.75, 0.0, 1.0, 1.0, 1.0]]


@pytest.mark.parametrize('layout', ['NCHW', 'NHWC', 'tokens'])
@pytest.mark.parametrize('outside', [1.0, 0.25])
def test_mixing_agrees_with_a_loop(layout, outside):
    features = torch.randn(3, 2, 4, 5, generator=_generator())
    partner = torch.tensor([2, 0, 1])
    boxes = torch.tensor([[0, 0, 5, 1], [2, 1, 4, 4], [0, 0, 0, 0]])
    to_layout = {
        'NCHW': lambda maps: maps,
        'NHWC': lambda maps: maps.permute(0, 2, 3, 1),
        'tokens': lambda maps: maps.flatten(2).mT,
    }
    weights = torch.full((3,), outside, dtype=torch.float64)
    mixed = mix_features(to_layout[layout](features), Stage('', layout, (4, 5)), partner, weights, weights, boxes)
    wanted = torch.empty_like(features)
    for i, (x0, y0, x1, y1) in enumerate(boxes.tolist()):
        for row in range(4):
            for column in range(5):
                own = 0.0 if y0 <= row < y1 and x0 <= column < x1 else outside
                other = features[partner[i], :, row, column]
                wanted[i, :, row, column] = own * features[i, :, row, column] + (1 - own) * other
    torch.testing.assert_close(mixed, to_layout[layout](wanted))


def test_copies_of_a_batch_are_mixed_alike():
    """A batch that is doubled behind the mixer, whole and occluded, say."""
    features = torch.randn(6, 2, 4, 4)
    args = Stage('', 'NCHW', (4, 4)), torch.tensor([1, 2, 0]), torch.rand(3), torch.rand(3), torch.zeros(3, 4).long()
    halves = [mix_features(half, *args) for half in features.chunk(2)]
    assert torch.equal(mix_features(features, *args), torch.cat(halves))


@pytest.mark.parametrize('method', METHODS)
@pytest.mark.parametrize('name', BACKBONES)
@torch.no_grad()
def test_what_goes_on_is_mixed(name, method):
    model = _hooks_alone(create_backbone(name))
    x, target = _batch()
    stages = find_stages(model, x)
    for number in {1, len(stages) - 1}:
        stage = stages[number - 1]
        before, plain = outputs_of(model, stage.module, x)
        mixer = _create(method, model, stages=(number,), mixing='elem')
        out, soft = mixer(x, target, _generator(number))
        assert out is x
        partner, lam, boxes = (mixer.last[key] for key in ('partner', 'lam', 'boxes'))
        after, logits = outputs_of(model, stage.module, out)
        outside = lam if method == 'manifold-mixup' else torch.ones_like(lam)
        torch.testing.assert_close(after, mix_features(before, stage, partner, lam, outside, boxes[:, 0]))
        if method == 'feature-cutmix':
            assert torch.equal(lam, 1 - mixer.last['mask'].double().mean((1, 2, 3)))
            assert mixer.last['mask'].shape[2:] == stage.size
        if (lam < 1).any():
            assert not torch.equal(plain, logits)
        own = soft[torch.arange(4), target]
        torch.testing.assert_close(own, lam.float())
        del mixer
        gc.collect()
        assert torch.equal(plain, model(x)), 'the hooks go with the mixer'


@pytest.mark.parametrize('method', METHODS)
def test_stage_zero_is_the_image(method):
    model = _hooks_alone(create_backbone('resnet'))
    x, target = _batch()
    mixer = _create(method, model, stages=(0,))
    out, soft = mixer(x, target, _generator())
    partner, lam, mask = (mixer.last[key] for key in ('partner', 'lam', 'mask'))
    weight = lam[:, None, None, None].float() if method == 'manifold-mixup' else (~mask).float()
    torch.testing.assert_close(out, x * weight + x[partner] * (1 - weight))
    logits = model(out)
    del mixer
    assert torch.equal(logits, model(out)), 'nothing is mixed a second time inside'


@pytest.mark.parametrize('method', METHODS)
def test_only_training_mode_mixes_and_only_while_on(method):
    model = _hooks_alone(create_backbone('resnet'))
    x, target = _batch()
    plain = model(x)
    mixer = _create(method, model, stages=(1,), alpha=100.0)
    mixer(x, target, _generator())
    assert not torch.allclose(model(x), plain)
    model.eval()
    torch.testing.assert_close(model(x), plain)
    _hooks_alone(model)
    mixer.enabled = False
    assert mixer(x, target)[1] is target
    assert torch.equal(model(x), plain), 'the plan of the last batch does not go on'


@pytest.mark.parametrize('method', METHODS)
def test_state_of_the_model_stays_as_it_is(method):
    model = create_backbone('vit')
    leave_marks(model)
    before = everything(model)
    mixer = _create(method, model)
    mixer(*_batch(), _generator())
    for name in everything(model):
        if 'cached' not in name:  # hooks are what is added
            assert name in before
    assert model.state_dict().keys() == create_backbone('vit').state_dict().keys()
    frozen = [value for name, value in before.items() if 'requires_grad' in name]
    assert [parameter.requires_grad for parameter in model.parameters()] == frozen


def test_average_of_the_weights_is_not_mixed():
    """A copy of the model takes the hooks along."""
    model = _hooks_alone(create_backbone('resnet'))
    x, target = _batch()
    mixer = _create('manifold-mixup', model, stages=(1,))
    mixer.check_images(x)
    average = copy.deepcopy(model).eval()
    plain = average(x)
    mixer(x, target)
    model(x)
    assert torch.equal(average(x), plain)


@pytest.mark.parametrize('name', ['vit', 'resnet'])
def test_gradient_checkpointing_mixes_the_same_twice(name):
    gradients = []
    for checkpointing in (False, True):
        model = create_backbone(name)
        model.set_grad_checkpointing(checkpointing)
        x, target = _batch()
        mixer = _create('feature-cutmix', model, stages=(2,))
        mixer.check_images(x)
        model.eval()
        model.get_submodule(mixer.inside.stages(x)[1].module).training = True
        out, soft = mixer(x, target, _generator(3))
        F.cross_entropy(model(out), soft).backward()
        gradients.append([parameter.grad for parameter in model.parameters()])
    for first, second in zip(*gradients):
        torch.testing.assert_close(first, second)


# Compiled: one graph serves all stages.


@torch.no_grad()
def test_compiled_stage_that_images_of_this_size_cannot_be_mixed_at(monkeypatch):
    model = _hooks_alone(small_cnn())
    x, _ = _batch()
    mixing = StageMixing(model)
    stages = mixing.stages(x)
    before = model(x)
    mixing._known[x.shape[-2:]] = [None] * len(stages)
    weights = torch.ones(len(x))
    plan = Plan(0, torch.zeros(len(stages), dtype=torch.bool), torch.arange(len(x)), weights, weights, torch.zeros(0))
    mixing.set_plan(plan, x)
    monkeypatch.setattr(torch.compiler, 'is_compiling', lambda: True)
    assert torch.equal(model(x), before)


@pytest.mark.parametrize(
    'method, create',
    [('manifold-mixup', small_cnn), ('feature-cutmix', small_cnn), ('feature-cutmix', lambda: create_backbone('vit'))],
    ids=['manifold-cnn', 'cutmix-cnn', 'cutmix-vit'],
)
@torch.no_grad()
def test_compiled_model_mixes_as_the_eager_one(method, create):
    torch.compiler.reset()
    model = _hooks_alone(create())
    x, target = _batch(edge=64)
    classes = model(x).shape[1]
    mixer = _create(method, model, num_classes=classes, mixing='elem')
    mixer.check_images(x)
    graphs = []

    def count(graph, inputs):
        graphs.append(graph)
        return graph.forward

    forward = torch.compile(model, backend=count)
    seen = set()
    for seed in range(8):
        out, soft = mixer(x, target % classes, _generator(seed))
        seen.add(mixer.last['stage'])
        torch.testing.assert_close(forward(out), model(out))
    assert len(seen) > 1 and len(graphs) == 1
    torch.compiler.reset()


@pytest.mark.parametrize('method', METHODS)
def test_compiled_training_step(method):
    torch.compiler.reset()
    gradients = []
    for compiled in (False, True):
        model = _hooks_alone(small_cnn())
        x, target = _batch(edge=16)
        mixer = _create(method, model, num_classes=5, stages=(1,))
        out, soft = mixer(x, target % 5, _generator(2))
        forward = torch.compile(model, backend='aot_eager') if compiled else model
        F.cross_entropy(forward(out), soft).backward()
        gradients.append([parameter.grad for parameter in model.parameters()])
    for first, second in zip(*gradients):
        torch.testing.assert_close(first, second)
    torch.compiler.reset()


# Statistical.


def test_stages_are_drawn_alike_to_the_last_of_them():
    model = small_cnn()
    mixer = _create('manifold-mixup', model, num_classes=5, stages=(0, 1, 2))
    x, target = torch.zeros(1, 3, 4, 4), torch.zeros(1, dtype=torch.long)
    generator = _generator()
    drawn = []
    for _ in range(1000):
        mixer(x, target, generator)
        drawn.append(mixer.last['stage'])
    assert uniform_p(torch.tensor(drawn), 3) > SIGNIFICANT


def test_default_stages_are_all_but_the_last():
    assert _create('feature-cutmix', create_backbone('resnet')).choices(_batch()[0]) == [0, 1, 2, 3, 4]


@pytest.mark.parametrize('method', METHODS)
def test_probability_is_applied_once_and_each_sample_draws(method):
    mixer = _create(method, small_cnn(), num_classes=5, stages=(1,), mixing='elem', prob=0.3)
    mixer(torch.zeros(10_000, 3, 16, 16), torch.zeros(10_000, dtype=torch.long), _generator())
    lam = mixer.last['lam']
    mixed = int((lam < 1).sum())
    # A region of no height or width leaves the features as they are: lambda above 1 - (1 / 16)^2, about 1 in 256.
    rate = 0.3 if method == 'manifold-mixup' else 0.3 * (1 - 1 / 256)
    assert rate_p(mixed, 10_000, rate) > SIGNIFICANT
    assert len(lam.unique()) > 60


def test_fading_lowers_the_probability_of_cutmix_and_the_alpha_of_mixup():
    lams = {}
    for method in METHODS:
        mixer = _create(method, small_cnn(), num_classes=5, stages=(1,), mixing='elem')
        mixer.strength = 0.25
        mixer(torch.zeros(10_000, 3, 16, 16), torch.zeros(10_000, dtype=torch.long), _generator())
        lams[method] = mixer.last['lam']
    assert rate_p(int((lams['feature-cutmix'] < 1).sum()), 10_000, 0.25 * (1 - 1 / 256)) > SIGNIFICANT
    # Variance of Beta(a, a): 1 / (4 (2 a + 1)).
    assert lams['manifold-mixup'].var().item() == pytest.approx(1 / (4 * (2 * 0.25 + 1)), rel=0.05)


@pytest.mark.parametrize('settings', [dict(stages=()), dict(stages=(0, 0)), dict(stages=(-1,)), dict(alpha=0.0)])
def test_refusals(settings):
    with pytest.raises(ValueError):
        _create('manifold-mixup', small_cnn(), **settings)
    with pytest.raises(ValueError, match='model='):
        keepaug.create_augment('manifold-mixup', num_classes=3)
