"""From a trained policy to decisions at the edge.

`export` writes a bundle (:mod:`jaxmec.core.bundle`), `runtime` decides with one, in terms of named
quantities; `onnx` opens a bundle with NumPy and ONNX Runtime alone and `xla` with JAX; `server`
and `client` put a scheduler behind HTTP. What a box at the edge needs (`schema`, `runtime`,
`onnx`, `server`, `client`) imports neither JAX nor any part of jaxmec that does, and importing
this package imports none of them.
"""
