"""What the splits of a data set are called."""

from collections.abc import Collection

SPLITS = {
    'train': ('train', 'training'),
    'validation': ('validation', 'val', 'valid', 'test', 'eval', 'evaluation'),
}


# Where an archive calls something else so.
NO_TEST = ('test',)


def names_of_splits(without: Collection[str] = ()) -> tuple[str, ...]:
    """All names that splits may have, but for some that would mislead."""
    return tuple(name for names in SPLITS.values() for name in names if name not in without)


def to_split(split: str, without: Collection[str] = ()) -> str:
    """Name a split by its first name.

    Args:
        split: Any name that timm has for it, such as `val` or `training`.
        without: Names that would mislead in this data set.

    Returns:
        `train` or `validation`.

    Raises:
        ValueError: If the name is none of them.
    """
    known = {synonym: name for name, synonyms in SPLITS.items() for synonym in synonyms if synonym not in without}
    if split not in known:
        raise ValueError(f'{split = } is not a split of this data set: use one of {", ".join(known)}.')
    return known[split]
