"""The prototype: real requests over HTTP, and a real diffusion model on unequal nodes.

Beside ``jaxmec``, which knows nothing of it. ``pip install 'jaxmec[testbed]'`` brings what it
needs. The application is :mod:`jaxmec_testbed.painter`.
"""
