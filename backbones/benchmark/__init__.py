"""Measures time and memory of the backbones; each section of docs/BENCHMARKS.md has a module."""
