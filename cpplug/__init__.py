"""cpplug builds, verifies and certifies the calibrations of CCD cameras."""

__version__ = "0.1.0"
