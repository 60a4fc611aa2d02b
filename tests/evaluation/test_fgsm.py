"""FGSM against a linear classifier, whose attack is known by hand, and against a slow loop."""

import pytest
import torch

from keepaug.evaluation.fgsm import SHARES, count_hits, fgsm, loss_direction, step
from keepaug.training.forward import Forward
from tests.evaluation.subjects import Difference, make_batches, make_subject, network, photographs


def test_a_step_against_a_mean():
    # Pixels 0.55 are of the second class; 12/255 below 0.508 they are of the first.
    subject = make_subject(Difference())
    x = subject.normalise(torch.full((4, 3, 2, 2), 0.55))
    target = torch.tensor([1, 1, 1, 0])
    found = {eps: fgsm(subject, make_batches(x, target), eps).values for eps in (0, 12, 13)}
    assert found[0]['top1'] == found[12]['top1'] == 75  # the last one moves up, away from its label, too
    assert found[13]['top1'] == 0
    assert found[13]['clean_top1'] == 75 and found[13]['top5'] == 100


def test_pixels_stay_in_their_range():
    subject = make_subject(Difference())
    pixels = torch.tensor([0.0, 0.01, 0.5, 0.99, 1.0]).view(1, 1, 1, 5).expand(1, 3, 1, 5)
    x = subject.normalise(pixels)
    up = subject.to_pixels(step(subject, x, torch.ones_like(x), 8 / 255))
    torch.testing.assert_close(up, (pixels + 8 / 255).clamp(max=1))
    down = subject.to_pixels(step(subject, x, -torch.ones_like(x), 8 / 255))
    torch.testing.assert_close(down, (pixels - 8 / 255).clamp(min=0))


def test_no_step_is_the_clean_accuracy():
    x, target = photographs()
    subject = network()
    with torch.no_grad():
        right = (subject.model(x).argmax(1) == target).double().mean().item()
    values = fgsm(subject, make_batches(x, target), eps=0).values
    assert values['top1'] == values['clean_top1'] == pytest.approx(100 * right)


def test_as_one_image_at_a_time():
    x, target = photographs()
    subject = network()
    hits = 0
    for image, label in zip(x, target):
        pixels = (image * 0.25 + 0.5)[None].requires_grad_()
        loss = -subject.model((pixels - 0.5) / 0.25).log_softmax(1)[0, label]
        loss.backward()
        attacked = (pixels + 8 / 255 * pixels.grad.sign()).clamp(0, 1)
        hits += subject.model((attacked - 0.5) / 0.25).argmax() == label
    for batch_size in (1, 3, 10):
        assert fgsm(subject, make_batches(x, target, batch_size)).values['top1'] == pytest.approx(10 * hits)


def test_the_curve_runs_from_clean_to_attacked():
    x, target = photographs()
    report = fgsm(network(), make_batches(x, target), eps=16)
    places, values = report.panels[0].curves['top-1']
    assert places == [16 * share for share in SHARES]
    assert (values[0], values[-1]) == (report.values['clean_top1'], report.values['top1'])


def test_a_small_gradient_does_not_vanish_in_half_precision():
    subject = make_subject(Difference(1e-4).half(), forward=Forward(dtype=torch.float16))
    x = torch.zeros(1, 3, 64, 64)
    assert loss_direction(subject, x, torch.tensor([1])).abs().min() == 1


def test_a_gradient_that_is_no_number_is_refused():
    """In float16 it overflows; its sign would be 0, the pixel would not move, and the model look robust."""
    subject = make_subject(Difference(1e3).half(), forward=Forward(dtype=torch.float16))
    with pytest.raises(ValueError, match='gradients of 2 images .*--amp'):
        loss_direction(subject, torch.full((2, 3, 2, 2), -0.1), torch.tensor([1, 1]))


def test_weights_are_left_alone():
    x, target = photographs()
    subject = network()
    before = {name: value.clone() for name, value in subject.bare.state_dict().items()}
    fgsm(subject, make_batches(x, target))
    assert all(torch.equal(before[name], value) for name, value in subject.bare.state_dict().items())
    assert all(parameter.grad is None for parameter in subject.bare.parameters())


def test_hits():
    logits = torch.tensor([[3.0, 2, 1, 0, -1, -2], [0, 1, 2, 3, 4, 5], [9, 8, 7, 6, 5, 4]])
    assert count_hits(logits, torch.tensor([0, 1, 5])).tolist() == [1, 2]
    assert count_hits(logits[:, :3], torch.tensor([0, 0, 2])).tolist() == [1, 3]
