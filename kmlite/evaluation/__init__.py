"""What a model is measured by, before and after."""
