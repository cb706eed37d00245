"""A page that shows a model at work on images: maps, columns, attention.

- ``subject``: the model and the photographs;
- ``record``: one forward of a photograph, with everything that the sections show;
- ``levels``, ``columns``, ``attention``, ``similarity``, ``blocks``, ``class_tokens``: the sections, each of which
  yields nothing for a model that it does not concern;
- ``cka``, ``colors``: measures and pictures of maps;
- ``page``: the sections in order.
"""
