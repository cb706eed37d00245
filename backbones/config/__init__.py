"""Configs: the shipped ones, the stock ones of the hosts, ``--cfg-options``, and exchanging a backbone.

Hosts are the packages that train our backbones: mmdet, mmseg and mmpretrain.
"""
