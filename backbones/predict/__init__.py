"""Predictions for images, folders and videos: pictures, label maps and one JSON file for each run.

A module of ``tasks`` says how the results of a task are written; the models, pipelines and visualizers are the hosts'.
"""
