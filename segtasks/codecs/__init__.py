"""Bytes to arrays and back: images, palette masks, run-length masks. Pure NumPy on top of ISA-L, libjpeg-turbo and Pillow."""
