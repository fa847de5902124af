"""Tests; a package of its own, because installed packages bring a `tests` folder too."""
