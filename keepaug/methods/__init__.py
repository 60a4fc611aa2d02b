"""One file per method: all that the command line must know of it."""
