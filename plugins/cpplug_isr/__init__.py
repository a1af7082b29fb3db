"""Corrections of the raw frame: saturation, overscan, assembly and variance.

They take a frame as it was read, amplifier by amplifier, to an image of the whole detector in
which the level of the electronics is gone and the noise of every pixel is known. Each module of
this package is a plugin of its own.
"""
