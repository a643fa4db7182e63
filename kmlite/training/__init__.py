"""From refined data to gradients."""
