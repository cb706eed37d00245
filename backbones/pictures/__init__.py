"""Pictures of predictions, mistakes and training curves."""
