"""The flags that keepaug adds to stock's."""

import argparse

from keepaug.methods.registry import all_methods
from keepaug.options.argv import stock_first


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the flags of keepaug to a parser that already holds those of stock's training script.

    Every command line that the parser understood before keeps its meaning: a prefix that was unique among its flags
    stays theirs, and none of ours takes the path of the data set for its value.

    Raises:
        argparse.ArgumentError: A flag stands on the parser already.
    """
    stock_first(parser)
    groups, added = {}, set()
    for method in all_methods():
        for flag in method.flags:
            if flag.dest not in added:  # several methods may share it
                if method.title not in groups:
                    groups[method.title] = parser.add_argument_group(method.title)
                flag.add_to(groups[method.title])
                added.add(flag.dest)
