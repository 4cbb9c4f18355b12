"""The first minutes on a GPU, ``python -m benchmarks.gpu``: see docs/gpu.md.

``__main__`` and ``running`` need no torch: they watch over a ``worker``, which measures one stage of ``stages`` after
the other, and write down each number as it comes (``lines``). So nothing that a GPU can do to a process loses a number.
"""
