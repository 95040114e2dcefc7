"""A GPU through pycuda or cuda-core, behind one interface; what it is, what it draws, and what it could reach."""

from .driver import Driver, Resource, open_driver

__all__ = ['Driver', 'Resource', 'open_driver']
