"""Predictions on images and videos, with pictures and files that other tools read.

- ``inputs``: the images that the arguments name;
- ``predictor``: a trained model of any host, from images to data samples;
- ``tiles``: images larger than the model was trained for;
- ``detection``, ``panoptic``, ``segmentation``, ``classification``: what is written, one file a task.
"""
