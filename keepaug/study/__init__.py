"""A table of a paper from one file: every arm with several seeds through train.py, and a report that compares them."""
