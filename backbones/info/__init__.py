"""Size, multiply-accumulates and training memory of a model, counted without computing it.

- ``counting``: counters of multiply-accumulates and of allocations;
- ``model``: the parts of a model, on the meta device;
- ``memory``: a training step of a backbone in each of its memory modes.
"""
