"""Faults of data sets: found before training, and refused, repaired by a stated rule, or noted."""
