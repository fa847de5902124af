"""The programs around a training; nothing else of the package imports them."""
