"""What a model folder is: found, checked, loaded, extended, adapted, merged."""
