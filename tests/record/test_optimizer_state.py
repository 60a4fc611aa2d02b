"""No state that an optimizer of timm writes is refused."""

import copy

import pytest
import timm.optim
import torch
from torch import nn

from keepaug.record.optimizer_state import check_optimizer_state, find_misfit

HERE = [name for name in timm.optim.list_optimizers() if not name.startswith(('bnb', 'fused'))]


def build(name: str) -> tuple[nn.Module, torch.optim.Optimizer]:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(4, 4), nn.LayerNorm(4))
    return model, timm.optim.create_optimizer_v2(model, opt=name, lr=1e-3, weight_decay=0.01)


@pytest.mark.parametrize('name', [*HERE, 'lookahead_adamw'])
def test_what_optimizers_write(name):
    model, optimizer = build(name)
    for _ in range(2):
        loss = model(torch.randn(2, 3, 3, 3)).square().sum()
        loss.backward(create_graph=getattr(optimizer, 'is_second_order', False))
        optimizer.step()
        optimizer.zero_grad()
    state = copy.deepcopy(optimizer.state_dict())
    check_optimizer_state(state, '--resume last.pth.tar')
    _, again = build(name)
    again.load_state_dict(state)
    assert find_misfit(again) == ''
