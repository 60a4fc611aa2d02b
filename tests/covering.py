"""A few pairs of methods and modes that stand for all of them."""

from collections import Counter
from collections.abc import Collection, Iterable, Mapping


def covering_pairs(
    methods: Iterable[str],
    modes: Iterable[str],
    kinds: Mapping[str, Collection[str]],
    without: Collection[tuple[str, str]] = (),
    times: int = 2,
    apart: Collection[str] = (),
) -> list[tuple[str, str]]:
    """Pairs in which every method and every mode stands a few times, and every kind of method meets every mode.

    Greedy, and always the same for the same tables: the pair that fills most gaps, of those the one whose method
    stands in the fewest pairs so far, of those the first.

    Args:
        methods: Names of methods.
        modes: Names of modes.
        kinds: The methods of each kind, by its name.
        without: Pairs that are left out, say since one refuses the other.
        times: In how many pairs each method and each mode stands at least, where it has as many.
        apart: Modes that need not meet every kind.
    """
    open_pairs = {
        (method, mode): [method, mode, *((kind, mode) for kind in kinds if method in kinds[kind] and mode not in apart)]
        for method in methods
        for mode in modes
        if (method, mode) not in without
    }
    wanted: Counter = Counter()
    for needs in open_pairs.values():
        for need in needs:
            wanted[need] = min(wanted[need] + 1, times if isinstance(need, str) else 1)
    used: Counter = Counter()
    chosen = []
    while any(wanted.values()):
        pair = max(open_pairs, key=lambda pair: (sum(wanted[need] > 0 for need in open_pairs[pair]), -used[pair[0]]))
        wanted.subtract(need for need in open_pairs.pop(pair) if wanted[need])
        used[pair[0]] += 1
        chosen.append(pair)
    return chosen
