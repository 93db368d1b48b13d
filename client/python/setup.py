"""What pyproject.toml cannot say: parts in C, without which the client works too."""

from setuptools import Extension, setup

setup(ext_modules=[Extension("seismo._speedups", ["seismo/_speedups.c"], optional=True)])
