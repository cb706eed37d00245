"""Model files for other programs: ONNX, and programs of ``torch.export``.

``outputs`` makes a network of images and tensors of any model, ``program`` traces and compares it; each file format has
a module with ``SUFFIX``, ``PACKAGES``, ``save`` and ``load``.
"""
