"""kmlite: teach MedGemma Korean medicine on one graphics card."""

__version__ = "0.1.0"
