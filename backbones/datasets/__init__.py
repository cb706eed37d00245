"""The data sets of a config: finding, moving and checking them, and a generated sample."""
