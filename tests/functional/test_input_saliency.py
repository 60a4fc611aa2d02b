"""Saliency of the image: the right gradient, of the right logit, and nothing else is touched."""

import contextlib

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from keepaug.functional import input_saliency
from tests.functional.backbones import (
    BACKBONES,
    CLASSES,
    SIZE,
    assert_untouched,
    create_backbone,
    everything,
    leave_marks,
)
from tests.functional.toys import linear_model, small_cnn

CONTEXTS = {
    'plain': contextlib.nullcontext,
    'no_grad': torch.no_grad,
    'autocast': lambda: torch.autocast('cpu', dtype=torch.bfloat16),
}


@pytest.fixture
def weights() -> Tensor:
    """(4 classes, 3 channels, 5, 6)."""
    return torch.randn(4, 3, 5, 6, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def x() -> Tensor:
    return torch.randn(6, 3, 5, 6, generator=torch.Generator().manual_seed(1))


def test_planted_map():
    weights = torch.zeros(2, 3, 2, 2)
    weights[1, 0] = torch.tensor([[1.0, -2.0], [0.0, 0.5]])
    weights[1, 2] = torch.tensor([[-3.0, 1.0], [0.0, 0.25]])
    saliency = input_saliency(linear_model(weights), torch.randn(1, 3, 2, 2), torch.tensor([1]))
    # The larger channel, never negative: not the mean of channels, and not the square.
    assert saliency.tolist() == [[[[3.0, 2.0], [0.0, 0.5]]]]


def test_logit_of_the_label(weights, x):
    target = torch.tensor([0, 1, 2, 3, 0, 2])
    # The bias makes class 3 the prediction for every image.
    model = linear_model(weights, torch.tensor([0.0, 0.0, 0.0, 1e3]))
    assert (model(x).argmax(1) == 3).all()
    saliency = input_saliency(model, x, target)
    assert saliency.shape == (6, 1, 5, 6) and saliency.dtype == torch.float32
    assert torch.equal(saliency, weights[target].abs().amax(1, keepdim=True))


def test_soft_target_weighs_the_logits(weights, x):
    target = torch.rand(6, 4, generator=torch.Generator().manual_seed(2)).softmax(1)
    saliency = input_saliency(linear_model(weights), x, target)
    mixed = torch.stack([sum(share * weight for share, weight in zip(row, weights)) for row in target])
    torch.testing.assert_close(saliency, mixed.abs().amax(1, keepdim=True))


def test_one_hot_target_is_the_label(weights, x):
    target = torch.tensor([0, 1, 2, 3, 0, 2])
    model = linear_model(weights)
    assert torch.equal(input_saliency(model, x, F.one_hot(target, 4).float()), input_saliency(model, x, target))


def test_without_target_the_largest_logit(weights, x):
    model = linear_model(weights)
    predicted = model(x).argmax(1)
    assert len(predicted.unique()) > 1
    assert torch.equal(input_saliency(model, x, None), weights[predicted].abs().amax(1, keepdim=True))


def test_first_of_several_outputs(weights, x):
    class Exits(nn.Module):
        def __init__(self):
            super().__init__()
            self.main, self.early = linear_model(weights), linear_model(weights + 1.0)

        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            return self.main(x), self.early(x)

    target = torch.tensor([0, 1, 2, 3, 0, 2])
    assert torch.equal(input_saliency(Exits(), x, target), weights[target].abs().amax(1, keepdim=True))


def slow_saliency(model: nn.Module, x: Tensor, target: Tensor) -> Tensor:
    """One image, one backward pass, one pixel at a time."""
    model.eval()
    maps = torch.zeros(len(x), 1, *x.shape[-2:])
    for i, image in enumerate(x):
        image = image[None].clone().requires_grad_()
        model(image)[0, target[i]].backward()
        for row in range(x.shape[-2]):
            for column in range(x.shape[-1]):
                maps[i, 0, row, column] = max(abs(value) for value in image.grad[0, :, row, column].tolist())
    return maps


@pytest.mark.parametrize('channels', [1, 3])
def test_equals_autograd_image_by_image(channels):
    x = torch.randn(5, channels, 9, 12, generator=torch.Generator().manual_seed(3))
    target = torch.tensor([4, 0, 2, 2, 1])
    model = small_cnn(channels).train()
    saliency = input_saliency(model, x, target)
    torch.testing.assert_close(saliency, slow_saliency(model, x, target))
    assert saliency.std((1, 2, 3)).min() > 0.0


def test_size_runs_on_a_bicubic_copy():
    x = torch.randn(3, 3, 32, 24, generator=torch.Generator().manual_seed(4))
    target = torch.tensor([0, 1, 2])
    model = small_cnn()
    saliency = input_saliency(model, x, target, size=(16, 12))
    assert saliency.shape == (3, 1, 16, 12)
    copy = F.interpolate(x, size=(16, 12), mode='bicubic', antialias=True, align_corners=False)
    assert torch.equal(saliency, input_saliency(model, copy, target))
    assert torch.equal(input_saliency(model, x, target, size=(32, 24)), input_saliency(model, x, target))


@pytest.mark.parametrize('context', CONTEXTS)
@pytest.mark.parametrize('name', BACKBONES)
def test_pass_is_pure(name, context):
    model = create_backbone(name)
    leave_marks(model)
    before = everything(model)
    x, target = torch.randn(2, 3, SIZE, SIZE), torch.tensor([1, CLASSES - 1])
    image, label = x.clone(), target.clone()
    before['torch stream'] = torch.get_rng_state()

    with CONTEXTS[context]():
        saliency = input_saliency(model, x, target)
        grad_mode = torch.is_grad_enabled()

    assert_untouched(before, model)
    assert torch.equal(x, image) and torch.equal(target, label) and not x.requires_grad and x.grad is None
    assert grad_mode == (context != 'no_grad')
    assert saliency.shape == (2, 1, SIZE, SIZE) and saliency.dtype == torch.float32
    assert not saliency.requires_grad and saliency.isfinite().all() and (saliency >= 0.0).all()
    assert (saliency.amax((1, 2, 3)) > 0.0).all()


def test_pass_is_pure_where_the_model_fails():
    class Fails(nn.Sequential):
        def forward(self, x: Tensor) -> Tensor:
            super().forward(x)
            raise RuntimeError('not today')

    model = Fails(small_cnn())
    leave_marks(model)
    before = everything(model)
    with pytest.raises(RuntimeError, match='not today'):
        input_saliency(model, torch.zeros(2, 3, 9, 9), torch.tensor([0, 1]))
    assert_untouched(before, model)


def test_shared_modules_and_weights_stay_what_they_are():
    """CoaT runs one module in several places, other models one weight; both must still learn afterwards."""
    torch.manual_seed(0)
    shared, tied = nn.Conv2d(3, 3, 3, padding=1), nn.Conv2d(3, 3, 3, padding=1)
    tied.weight = shared.weight
    model = nn.Sequential(
        nn.Sequential(shared, nn.Tanh()), nn.Sequential(shared, nn.Tanh()), tied, nn.Flatten(), nn.Linear(48, 2)
    )
    x, target = torch.randn(2, 3, 4, 4), torch.tensor([0, 1])
    (expected,) = torch.autograd.grad(model(x.requires_grad_()).gather(1, target[:, None]).sum(), x)
    before = everything(model)
    saliency = input_saliency(model, x, target)
    assert_untouched(before, model)
    torch.testing.assert_close(saliency, expected.abs().amax(1, keepdim=True))
    model(x).sum().backward()
    assert shared.weight is tied.weight and all(parameter.grad is not None for parameter in model.parameters())


def test_no_graph_reaches_the_parameters():
    model = small_cnn()
    seen = []
    model[0].register_forward_pre_hook(lambda layer, inputs: seen.append(layer.weight.requires_grad))
    input_saliency(model, torch.randn(2, 3, 9, 9), torch.tensor([0, 1]))
    assert seen == [False]


def test_pass_is_pure_on_a_scripted_model():
    model = torch.jit.script(small_cnn())
    x, target = torch.randn(3, 3, 9, 9), torch.tensor([0, 1, 2])
    state = {name: value.clone() for name, value in model.state_dict().items()}
    flags = [module.training for module in model.modules()]
    saliency = input_saliency(model, x, target)
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
    assert [module.training for module in model.modules()] == flags
    assert all(parameter.grad is None for parameter in model.parameters())
    torch.testing.assert_close(saliency, input_saliency(small_cnn(), x, target))


def test_gradients_being_accumulated_survive():
    model = small_cnn()
    x, target = torch.randn(4, 3, 9, 9), torch.tensor([0, 1, 2, 3])
    model.eval()
    for _ in range(2):
        F.cross_entropy(model(x), target).backward()
    expected = [parameter.grad.clone() for parameter in model.parameters()]
    model.zero_grad()
    for _ in range(2):
        input_saliency(model, x, target)
        F.cross_entropy(model(x), target).backward()
    assert all(torch.equal(parameter.grad, grad) for parameter, grad in zip(model.parameters(), expected))


def test_training_step_under_the_same_autocast_is_untouched():
    """What autocast keeps of weights that it has cast must not come from the pass: those carry no gradient."""
    gradients = []
    for with_pass in (False, True):
        model = small_cnn().eval()
        x, target = torch.ones(2, 3, 9, 9), torch.tensor([0, 1])
        with torch.autocast('cpu', dtype=torch.bfloat16):
            if with_pass:
                input_saliency(model, x, target)
            F.cross_entropy(model(x).float(), target).backward()
        gradients.append([parameter.grad for parameter in model.parameters()])
    assert all(torch.equal(first, second) for first, second in zip(*gradients))


def test_what_eval_mode_caches_does_not_outlive_the_pass():
    # LeViT's attention keeps its biases in eval mode; evaluation after an update must not see those of the pass.
    model = create_backbone('levit')
    x = torch.randn(2, 3, SIZE, SIZE)
    input_saliency(model, x, None)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if 'attention_biases' in name:
                parameter.normal_()
    fresh = create_backbone('levit').eval()
    fresh.load_state_dict(model.state_dict())
    assert torch.equal(model.eval()(x), fresh(x))


@pytest.mark.parametrize('size', [None, (32, 32)])
@pytest.mark.parametrize('dtype', [torch.bfloat16, torch.float16])
def test_model_in_half_precision(dtype, size):
    model = create_backbone('resnet').eval()
    x, target = torch.randn(2, 3, SIZE, SIZE), torch.tensor([0, 3])
    exact = input_saliency(model, x, target, size=size).flatten(1)
    half = input_saliency(model.to(dtype), x.to(dtype), target, size=size).flatten(1)
    assert half.dtype == torch.float32
    correlation = F.cosine_similarity(exact - exact.mean(1, keepdim=True), half - half.mean(1, keepdim=True))
    assert (correlation > 0.9).all()


class HalfInside(nn.Module):
    """Two float16 layers with the gradient `step` each, and logits of a type of choice."""

    def __init__(self, step: float, logits: torch.dtype):
        super().__init__()
        self.layers = nn.Sequential(nn.Conv2d(1, 1, 1, bias=False), nn.Conv2d(1, 1, 1, bias=False)).half()
        self.logits = logits
        for layer in self.layers:
            nn.init.constant_(layer.weight, step)

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x.half()).flatten(1).to(self.logits)


@pytest.mark.parametrize('logits', [torch.float16, torch.float32])
@pytest.mark.parametrize('image', [torch.float16, torch.float32])
@pytest.mark.parametrize('gradient', [1e-7, 1e-8, 1.0])
def test_float16_does_not_flush_the_gradient(gradient, image, logits):
    # The smallest float16 is 6e-8: smaller gradients vanish, those of its size keep one digit.
    x = torch.ones(1, 1, 2, 2, dtype=image)
    saliency = input_saliency(HalfInside(gradient**0.5, logits), x, torch.tensor([2]))
    assert saliency[0, 0, 1, 0].item() == pytest.approx(gradient, rel=0.01)
    assert saliency.count_nonzero() == 1
