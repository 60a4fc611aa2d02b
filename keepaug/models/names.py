"""Whether timm knows a model by its name, and which one was meant."""

import difflib
from collections.abc import Iterable

import timm
from timm.models import parse_model_name

from keepaug.ranges import any_of

# Places that timm has models from besides itself, as it calls them; a name may spell them in other ways.
HUB, FOLDER = 'hf-hub', 'local-dir'


def unknown_model(name: str) -> str:
    """What is wrong with a model's name, and the way out, to follow the name; empty if timm may know it.

    The tag behind the dot is timm's to judge.
    """
    try:
        source, architecture = parse_model_name(name)
    except ValueError:
        return (
            'is a path or has an unknown source: put hf-hub: before a repository of the Hub, local-dir: before a '
            'folder.'
        )
    if source is not None or timm.is_model(architecture):
        return ''
    return f'is unknown to timm: {nearest_names(architecture.split(".")[0], timm.list_models())}'


def model_source(name: str) -> tuple[str, str]:
    """Where timm has a model from, `HUB` or `FOLDER`, and what it is called there; '' and the name for timm's own."""
    try:
        source, place = parse_model_name(name)
    except ValueError:
        return '', name
    return source or '', place


def nearest_names(name: str, known: Iterable[str]) -> str:
    """The way out for a misspelt name, as the end of a sentence."""
    nearest = difflib.get_close_matches(name, list(known), n=3)
    return f'try {any_of(nearest)}.' if nearest else 'no known name is close, so look it up in timm.'
