"""What a checkpoint holds of its optimizer, looked at before and after an optimizer takes it over.

torch takes over anything under any name, and stumbles over it in the first step.
"""

from collections.abc import Iterator, Mapping
from typing import Any

import torch

from keepaug.files.checkpoints import damaged, in_words, is_weight
from keepaug.ranges import Range

# Any that single precision holds.
NUMBER = Range(least=-3e38, most=3e38)
# Hyper-parameters that are below 0 in no run.
NOT_NEGATIVE = ('lr', 'initial_lr', 'momentum', 'weight_decay')
# What has a value for each of its parameter's, or one for all.
MOMENTUM = 'momentum_buffer'
OF_EACH_WEIGHT = (MOMENTUM, 'exp_avg', 'exp_avg_sq', 'max_exp_avg_sq')
# What torch's own optimizers have of each weight, once they have any.
OF_OPTIMIZER = {torch.optim.SGD: {MOMENTUM}, torch.optim.Adam: {'step', 'exp_avg', 'exp_avg_sq'}}
# Whether Muon or AdamW steps a weight, which keep different things of it; timm's Muon notes it there.
OF_MUON = 'use_muon'
# What an optimizer has of matrices that keeps less of them than of vectors.
FACTORED = {'exp_avg_sq_row', 'exp_avg_sq_col', 'exp_avg_sq_r', 'exp_avg_sq_c'}


def check_optimizer_state(state: Any, source: str, key: str = 'optimizer') -> None:
    """Says in a sentence what a checkpoint holds as state of an optimizer that none has.

    Args:
        state: The state.
        source: Flag and file of the checkpoint, for the sentence.
        key: Where the state stands in it.

    Raises:
        ValueError: It is missing, of another form, or not finite.
    """
    if state is None:
        raise ValueError(
            f'{source} holds no optimizer state: start with a fresh one with --no-resume-opt, or load only its '
            'weights with --initial-checkpoint.'
        )
    fault = next(_faults(state), '')
    if fault:
        raise damaged(source, f'{fault} in {key}, which --no-resume-opt leaves out')


def check_scaler_state(state: Any, source: str) -> None:
    """Says in a sentence what a checkpoint holds as state of a loss scaler that none has.

    Raises:
        ValueError: It holds something else than numbers by name, or a scale that is none.
    """
    if not (isinstance(state, Mapping) and all(_is_number(value) and value >= 0 for value in state.values())):
        raise damaged(source, 'an amp_scaler that is not the state of a loss scaler, which --no-resume-opt leaves out')


def find_misfit(optimizer: torch.optim.Optimizer) -> str:
    """What an optimizer cannot go on with of the state that it has taken over, in words; empty if there is nothing."""
    optimizer = getattr(optimizer, '_base_optimizer', optimizer)  # of timm's Lookahead
    for group in optimizer.param_groups:
        for name, default in optimizer.defaults.items():
            # Switches that are newer than the checkpoint are set by the optimizers themselves.
            if not _is_alike(group[name], default) if name in group else _is_numeric(default):
                return f'it has no {name} that suits'
        if group.get('capturable') and group['params'][0].device.type == 'cpu':
            return 'it is capturable, which one on the CPU cannot be'
        states = [(parameter, state) for parameter in group['params'] if (state := optimizer.state.get(parameter))]
        common = next((of_each for kind, of_each in OF_OPTIMIZER.items() if isinstance(optimizer, kind)), set())
        kept: dict[str, set[str]] = {}
        for _, state in states:
            kept.setdefault(str(state.get(OF_MUON)), {*common}).update(state)
        for parameter, state in states:
            names = kept[str(state.get(OF_MUON))]
            missing = sorted(names - state.keys())
            if missing and not names & FACTORED:
                return f'it lacks {missing[0]} of a weight'
            for name, value in state.items():
                if name == MOMENTUM and value is None:  # of a momentum of 0
                    continue
                if name in OF_EACH_WEIGHT and not _is_shaped(value, parameter):
                    return f'it has {_kind(value)} as {name} of a weight of shape {tuple(parameter.shape)}'
                if name == 'step' and not (_is_number(value) and value >= 0):
                    return f'it has {in_words(value)} as number of steps'
    return ''


def _faults(state: Any) -> Iterator[str]:
    if not isinstance(state, Mapping) or not {'state', 'param_groups'} <= {*state}:
        yield f'{in_words(state)} without state and groups of parameters'
        return
    of_parameters, groups = state['state'], state['param_groups']
    if not (isinstance(of_parameters, Mapping) and all(map(_is_entry, of_parameters.items()))):
        yield 'no state for each parameter'
        return
    if not isinstance(groups, (list, tuple)) or not groups:
        yield 'no groups of parameters'
        return
    known: set[int] = set()
    for group in groups:
        numbers = group.get('params') if isinstance(group, Mapping) else None
        if not isinstance(numbers, (list, tuple)) or not all(type(number) is int for number in numbers):
            yield 'a group without numbers of parameters'
            return
        known.update(numbers)
        for name in NOT_NEGATIVE:
            if name in group and not (_is_number(group[name]) and group[name] >= 0):
                yield f'{in_words(group[name])} as {name}'
    if not of_parameters.keys() <= known:
        yield 'state of parameters that are in no group'
    formats = set()
    for entries in of_parameters.values():
        formats |= {
            value.dtype for name, value in entries.items() if name in OF_EACH_WEIGHT and isinstance(value, torch.Tensor)
        }
        for name, value in entries.items():
            if isinstance(value, torch.Tensor) and value.is_floating_point() and value.isnan().any():
                yield f'values that are not numbers as {name}'
    if torch.float64 in formats and len(formats) > 1:
        yield 'state in double precision for only some weights'


def _is_entry(item: tuple[Any, Any]) -> bool:
    number, entries = item
    return type(number) is int and isinstance(entries, Mapping) and all(isinstance(name, str) for name in entries)


def _is_number(value: Any) -> bool:
    """Whether a value is a finite number; some optimizers keep theirs in a tensor of one."""
    if isinstance(value, torch.Tensor):
        return value.numel() == 1 and bool(value.isfinite().all())
    return NUMBER.holds(value)


def _is_shaped(value: Any, parameter: torch.Tensor) -> bool:
    """Whether a value is a plain tensor of a parameter's shape, or one number for all of it, as NovoGrad has."""
    return is_weight(value) and value.shape in (parameter.shape, ())


def _kind(value: Any) -> str:
    return f'a tensor of shape {tuple(value.shape)}' if isinstance(value, torch.Tensor) else in_words(value)


def _is_numeric(default: Any) -> bool:
    return isinstance(default, (int, float, tuple)) and not isinstance(default, bool)


def _is_alike(value: Any, default: Any) -> bool:
    """Whether a hyper-parameter is of the kind of its default."""
    if isinstance(default, bool):
        return value is None or isinstance(value, bool)
    if default is None:
        return value is None or isinstance(value, (bool, str)) or _is_number(value)
    if isinstance(default, tuple):
        return isinstance(value, (list, tuple)) and len(value) == len(default) and all(map(_is_number, value))
    return _is_number(value) if _is_numeric(default) else isinstance(value, type(default))
