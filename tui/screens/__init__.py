"""The screens: they draw what the view-model says."""
