"""YAML that may be anybody's: read in bounded time and memory."""

from collections.abc import Hashable, Iterator
from typing import Any

import yaml

# The args.yaml of a run has 8 KB, and lists of lists are three deep.
MOST_BYTES = 2**18
MOST_DEPTH = 20
# Values after every alias is written out.
MOST_VALUES = 20_000


def parse_yaml(text: str, twice: list[str] | None = None) -> Any:
    """A value from YAML, plain values only.

    Args:
        text: The text.
        twice: Takes up the sentences of keys that a mapping has twice, of which the last one counts; None: they raise.

    Raises:
        ValueError: It is too large, nested too deep, has a key twice or a value that cannot be; the message follows its
            source.
        yaml.YAMLError: It is no YAML.
    """
    if len(text) > MOST_BYTES:
        raise ValueError(f'is larger than {MOST_BYTES // 2**10} KB')
    depth = 0
    for event in yaml.parse(text, yaml.SafeLoader):  # as it comes, so that depth is known before anything nests
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if depth > MOST_DEPTH:
            raise ValueError(f'is nested more than {MOST_DEPTH} deep')
    loader = yaml.SafeLoader(text)
    try:
        node = loader.get_single_node()
        if node is None:
            return None
        if _count(node, {}) > MOST_VALUES:
            raise ValueError(f'holds more than {MOST_VALUES} values, or one within itself')
        repeated = list(_repeated_keys(node, set()))
        if repeated and twice is None:
            raise ValueError(repeated[0])
        if twice is not None:
            twice.extend(repeated)
        return loader.construct_document(node)
    except yaml.YAMLError:
        raise
    except (ValueError, OverflowError) as error:  # of a date in the thirteenth month, say
        reason = str(error)
        raise ValueError(
            reason if reason.startswith('holds') else f'holds a value that cannot be ({reason})'
        ) from error
    finally:
        loader.dispose()


def _count(node: yaml.Node, known: dict[Hashable, int]) -> int:
    """Values in a node with every alias written out; far too many where it holds itself."""
    if isinstance(node, yaml.ScalarNode):
        return 1
    if id(node) not in known:
        known[id(node)] = MOST_VALUES + 1  # until it is known to end
        inner = [part for pair in node.value for part in pair] if isinstance(node, yaml.MappingNode) else node.value
        known[id(node)] = 1 + sum(_count(part, known) for part in inner)
    return known[id(node)]


def _repeated_keys(node: yaml.Node, seen: set[int]) -> Iterator[str]:
    """What is to be said of keys that a mapping has twice, of which yaml takes the last one without a word."""
    if isinstance(node, yaml.ScalarNode) or id(node) in seen:
        return
    seen.add(id(node))
    lines: dict[tuple[str, str], int] = {}
    for key, _ in node.value if isinstance(node, yaml.MappingNode) else ():
        if not isinstance(key, yaml.ScalarNode):
            continue
        known, line = (key.tag, key.value), key.start_mark.line + 1
        if known in lines:
            yield f'holds the key {key.value[:100]} twice, in lines {lines[known]} and {line}'
        lines[known] = line
    for part in node.value:
        for inner in part if isinstance(part, tuple) else (part,):
            yield from _repeated_keys(inner, seen)
