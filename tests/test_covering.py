"""The few pairs that stand for a table of methods and modes."""

from tests.covering import covering_pairs

METHODS = ['a', 'b', 'c', 'd']
MODES = ['1', '2', '3']


def test_every_name_stands_twice():
    pairs = covering_pairs(METHODS, MODES, {})
    methods, modes = zip(*pairs)
    assert len(pairs) == len(set(pairs)) == 8
    assert all(methods.count(method) == 2 for method in METHODS) and all(modes.count(mode) >= 2 for mode in MODES)


def test_every_kind_meets_every_mode_where_it_may():
    kinds = {'x': ('a', 'b'), 'y': ('c',)}
    refused = {('a', '1'), ('b', '1'), ('a', '2'), ('c', '3')}
    pairs = covering_pairs(METHODS, MODES, kinds, without=refused)
    assert not refused & set(pairs)
    assert {('b', '2'), ('c', '1'), ('c', '2')} <= set(pairs)
    assert {('a', '3'), ('b', '3')} & set(pairs)


def test_a_mode_apart_meets_as_many_methods_as_any_name():
    kinds = {method: (method,) for method in METHODS}
    modes = [mode for _, mode in covering_pairs(METHODS, MODES, kinds, apart=['3'])]
    assert [modes.count(mode) for mode in MODES] == [4, 4, 2]


def test_what_is_rarely_possible_stands_as_often_as_it_may():
    assert covering_pairs(['a', 'b'], ['1', '2'], {}, without={('a', '1'), ('a', '2'), ('b', '1')}) == [('b', '2')]
