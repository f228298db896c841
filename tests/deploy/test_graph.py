"""JAX functions as ONNX graphs: every primitive that policies use, and refusal of the rest."""

import importlib
import sys

import jax
import jax.numpy as jnp
import numpy as np
import onnx
import pytest

from jaxmec.deploy.graph import NotTranslatable, to_onnx
from jaxmec.deploy.onnx import session
from jaxmec.networks.mlp import ACTIVATIONS

SIZE = 6
WEIGHTS = np.random.default_rng(7).normal(size=(4, SIZE, 5)).astype(np.float32)
TABLE = jnp.asarray(np.random.default_rng(8).normal(size=(11, 3)), jnp.float32)


def both(function, count=64):
    """The results of a function in JAX and in ONNX Runtime, [count, ...]."""
    model = to_onnx(function, SIZE, "told", "decision")
    rows = np.random.default_rng(0).normal(size=(count, SIZE)).astype(np.float32)
    got = session(model).run(None, {"told": rows})[0]
    return np.asarray(jax.jit(jax.vmap(function))(rows)), got


def scanned(x):
    def step(carry, row):
        return carry * 0.5 + row, carry.sum() + row

    return jnp.concatenate([v.reshape(-1) for v in jax.lax.scan(step, x[:2], x.reshape(3, 2))])


def scanned_without_rows(x):
    return jax.lax.fori_loop(0, 3, lambda i, carry: carry * 0.5 + x + i, jnp.zeros(SIZE))


def scanned_rows_alone(x):
    return jax.lax.scan(lambda carry, row: (carry, row * x), None, x)[1].ravel()


def scanned_twice(x):
    def step(carry, row):
        return jax.lax.scan(lambda c, r: (c * r + x[0], None), carry, row)[0], row.sum()

    last, sums = jax.lax.scan(step, (x[1]), x.reshape(3, 2))
    return jnp.concatenate([last[None], sums])


@jax.custom_jvp
def doubled(x):
    return 2 * x


@jax.custom_vjp
def halved(x):
    return x / 2


doubled.defjvp(lambda primals, tangents: (doubled(*primals), 2 * tangents[0]))
halved.defvjp(lambda x: (halved(x), None), lambda _, t: (t / 2,))


def attention(x):
    """Three tokens of two heads of four, as a transformer has them."""
    query, key, value = (
        jax.nn.gelu(x.reshape(3, 2) @ WEIGHTS[i].reshape(2, 15)[:, :8]).reshape(3, 2, 4)
        for i in range(3)
    )
    scores = jax.nn.softmax(jnp.einsum("qhd,khd->hqk", query, key) / 2)
    return jnp.einsum("hqk,khd->qhd", scores, value).ravel()


FUNCTIONS = {
    **{f"activation {name}": function for name, function in ACTIVATIONS.items()},
    "matrix": lambda x: x @ WEIGHTS[0],
    "matrix from the left": lambda x: WEIGHTS[0].T @ x,
    "rows times matrix": lambda x: (x.reshape(3, 2) @ WEIGHTS[0][:2]).ravel(),
    "stack of matrices": lambda x: jnp.einsum("i,kio->ko", x, WEIGHTS).ravel(),
    "batched matrices": lambda x: jnp.einsum("ki,kio->ko", jnp.tile(x, (4, 1)), WEIGHTS).ravel(),
    "product with itself": lambda x: (x.reshape(2, 3) @ x.reshape(3, 2)).ravel(),
    "attention": attention,
    "constant rows": lambda x: (WEIGHTS[:, :, 0] * x + 1).sum(axis=0),
    "softmax": jax.nn.softmax,
    "log-softmax": lambda x: jax.nn.log_softmax(x.reshape(2, 3), axis=-1).ravel(),
    "logsumexp": lambda x: jax.nn.logsumexp(x.reshape(2, 3), axis=0),
    "mean and variance": lambda x: jnp.stack([x.mean(), x.var(), x.std()]),
    "extremes": lambda x: jnp.stack([x.max(), x.min(), jnp.prod(x)]),
    "argmax": lambda x: jnp.argmax(x.reshape(2, 3), axis=1).astype(jnp.float32),
    "where of booleans": lambda x: jnp.where(jnp.any(x > 1), x > 0, x < 0).astype(jnp.float32),
    "where": lambda x: jnp.where(x > 0, x, -2 * x),
    "comparisons": lambda x: ((x >= 0) & ~(x == 1) | (x != x)).astype(jnp.float32),
    "clip": lambda x: jnp.clip(x, -0.5, 0.25),
    "powers": lambda x: jnp.abs(x) ** 0.3 + x**2 + x**3,
    "roots": lambda x: jnp.sqrt(jnp.abs(x)) + jax.lax.rsqrt(1 + x * x),
    "small logarithms": lambda x: jnp.log1p(1e-5 * jnp.abs(x)) * 1e5 + jnp.expm1(1e-5 * x) * 1e5,
    "large exponentials": lambda x: jnp.expm1(3 * x) + jnp.log1p(jnp.exp(5 * x)) + jnp.exp2(x),
    "concatenate": lambda x: jnp.concatenate([x[2:], jnp.ones(2), x[:1]]),
    "stack": lambda x: jnp.stack([x[:3], x[3:], jnp.zeros(3)], axis=1).ravel(),
    "slices": lambda x: x[1::2] - x[::2] + x[::-1][:3],
    "split": lambda x: jnp.concatenate(jnp.split(x, [1, 4])[::-1]),
    "set a row": lambda x: jnp.zeros((3, SIZE)).at[1].set(x).sum(axis=1),
    "a row of a table": lambda x: TABLE[jnp.abs(100 * x[0]).astype(jnp.int32) % 11],
    "an entry at a computed place": lambda x: x[jnp.argmax(x)] - x[jnp.argmin(x[:3])] + x,
    "an entry at a place that may be outside": lambda x: jax.lax.dynamic_slice(
        x, ((100 * x[0]).astype(jnp.int32),), (1,)
    ),
    "entries at computed places": lambda x: x[(jnp.argmax(x) + jnp.arange(3)) % SIZE],
    "entries set at computed places": lambda x: (
        jnp.full(SIZE, 7.0).at[(jnp.argmax(x) + jnp.arange(2)) % SIZE].set(x[:2])
    ),
    "the largest": lambda x: jnp.concatenate(jax.lax.top_k(jnp.floor(x), 4)).astype(jnp.float32),
    "bits": lambda x: ((jnp.floor(9 * x).astype(jnp.int32) >> jnp.arange(SIZE)) & 3).astype(
        jnp.float32
    ),
    "any and all": lambda x: jnp.stack([jnp.any(x > 1.5), jnp.all(x > -1.5)]).astype(jnp.float32),
    "reductions put back": lambda x: x - jnp.max(x)[None] + jnp.sum(x).reshape(1, 1)[0],
    "remainder": lambda x: (jnp.floor(10 * x).astype(jnp.int32) % 4).astype(jnp.float32),
    "transposes": lambda x: jnp.transpose(x.reshape(1, 2, 3), (2, 0, 1)).ravel(),
    "broadcast": lambda x: (x[:, None] - x[None, :]).ravel(),
    "cumulated": lambda x: jnp.cumsum(x),
    "finite": lambda x: jnp.where(jnp.isfinite(1 / jnp.maximum(x, 0)), 1.0, -1.0),
    "sines": lambda x: jnp.sin(x) + jnp.cos(x) + jax.lax.erf(x) + jax.scipy.special.erfc(x),
    "scan": scanned,
    "scan without rows": scanned_without_rows,
    "scan of rows alone": scanned_rows_alone,
    "scan of scans": scanned_twice,
    "scans side by side": lambda x: jax.vmap(scanned, in_axes=1)(x + jnp.eye(SIZE)).ravel(),
    "derivatives of one's own": lambda x: doubled(x) + jax.checkpoint(halved)(x),
    "noise": lambda x: x + jax.random.normal(jax.random.key(3), (SIZE,)),
    "nothing": lambda x: jnp.arange(3.0),
    "itself": lambda x: x,
    "zeros added": lambda x: 0.0 + (x - jnp.zeros(SIZE)) * 1.0 / jnp.ones(SIZE),
    "vmapped": lambda x: jax.vmap(lambda row: row @ x)(WEIGHTS[:, :, 1]),
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_translated_functions_compute_the_same(name):
    wanted, got = both(FUNCTIONS[name])
    assert got.shape == wanted.shape
    np.testing.assert_allclose(got, wanted, rtol=2e-5, atol=2e-6)


def test_a_batch_of_one_is_no_special_case():
    _, got_many = both(FUNCTIONS["batched matrices"], 5)
    one, got_one = both(FUNCTIONS["batched matrices"], 1)
    assert got_many.shape == (5, 20) and got_one.shape == (1, 20)
    np.testing.assert_allclose(got_one, one, rtol=1e-5)


@pytest.mark.parametrize(
    ("function", "primitive"),
    [
        (lambda x: jnp.sort(x), "sort"),
        (lambda x: jax.lax.while_loop(lambda v: v.sum() < 9, lambda v: v + 1, x), "while"),
        (lambda x: jnp.fft.fft(x).real, "fft"),
    ],
)
def test_an_unknown_primitive_is_refused_by_name(function, primitive):
    with pytest.raises(NotTranslatable, match=f"primitive '{primitive}'"):
        to_onnx(function, SIZE, "told", "decision")


def test_what_does_not_depend_on_the_input_is_computed_now():
    def heavy(x):
        noise = jax.random.normal(jax.random.key(0), (500, 5))
        return x[:5] + jnp.sort(noise, axis=0).mean(axis=0)

    model = onnx.load_from_string(to_onnx(heavy, SIZE, "told", "decision"))
    assert len(model.graph.node) <= 3
    wanted, got = both(heavy)
    np.testing.assert_allclose(got, wanted, atol=1e-6)


def test_mish_is_few_nodes():
    model = onnx.load_from_string(to_onnx(ACTIVATIONS["mish"], SIZE, "told", "decision"))
    assert [node.op_type for node in model.graph.node] == ["Softplus", "Tanh", "Mul", "Identity"]
    wide = np.linspace(-40, 40, 64, dtype=np.float32)[:, None] + np.zeros(SIZE, np.float32)
    got = session(model.SerializeToString()).run(None, {"told": wide})[0]
    np.testing.assert_allclose(got, ACTIVATIONS["mish"](wide), rtol=2e-6, atol=1e-12)


def test_weights_in_half_precision_take_half_the_place_and_are_computed_with_in_single():
    weights = np.random.default_rng(0).normal(size=(SIZE, 200)).astype(np.float32)
    half = weights.astype(np.float16).astype(np.float32)
    bias = np.float32(1) + np.float32(1e-6)  # one number stays what it is

    def function(x):
        return x @ jnp.asarray(weights) + bias

    small = to_onnx(function, SIZE, "told", "decision", half=True)
    assert len(small) < 0.6 * len(to_onnx(function, SIZE, "told", "decision"))
    rows = np.random.default_rng(1).normal(size=(5, SIZE)).astype(np.float32)
    got = session(small).run(None, {"told": rows})[0]
    np.testing.assert_allclose(got, rows @ half + bias, rtol=1e-5, atol=1e-6)
    assert np.abs(got - rows @ weights - bias).max() > 1e-5


def test_the_model_says_what_it_is():
    model = onnx.load_from_string(to_onnx(lambda x: x, SIZE, "told", "decision"))
    assert model.producer_name == "jaxmec"
    (dimension, size) = model.graph.input[0].type.tensor_type.shape.dim
    assert dimension.dim_param == "n" and size.dim_value == SIZE
    assert {entry.domain for entry in model.opset_import} == {""}


def test_without_onnx_the_extra_is_named(monkeypatch):
    monkeypatch.delitem(sys.modules, "jaxmec.deploy.graph")
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(ImportError, match=r"needs ONNX .*pip install 'jaxmec\[onnx\]'"):
        importlib.import_module("jaxmec.deploy.graph")
