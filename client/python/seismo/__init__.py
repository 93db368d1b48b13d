"""seismo: watch a training run from outside of it.

`seismo.Run` streams a step's statistics to the daemon, `seismo.torch.watch` measures them in a
PyTorch loop, `seismo.trace` reads and writes recorded traces. None of the calls made from a
training loop blocks or raises.
"""

from seismo._run import Run

__version__ = "0.1.0"
__all__ = ["Run"]
