"""Products in fewer bits: L-Mul (arXiv 2410.00907), which adds mantissas instead of multiplying them, and float8.

L-Mul of x = +-(1 + x_m) 2^x_e and y = +-(1 + y_m) 2^y_e, both rounded to m bits of mantissa, is

    +-(1 + x_m + y_m + 2^-l(m)) 2^(x_e + y_e),    l(m) = m for m <= 3, 3 for m = 4, 4 above.

With P(x) = +-2^x_e, the power of two below x, this is x P(y) + P(x) y - (1 - 2^-l) P(x) P(y): three exact matrix
products emulate a matrix of L-Mul products, summed in float32. It emulates numbers, not speed, and follows the formula:
hardware that adds the bits of whole numbers differs where the mantissas' sum passes one and carries into the exponent.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal, Protocol

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from ctsft.errors import UserError

Where = Literal["attention", "linear", "everywhere"]
WHERE: tuple[Where, ...] = ("attention", "linear", "everywhere")


class Arithmetic(Protocol):
    """A way to multiply matrices: `matmul(a [.., N, K], b [.., K, M])`, and element by element, `multiply(a, b)`.

    `tops` are the greatest magnitudes of the two tensors that a and b are entries of; their own where it is None.
    """

    name: str

    def matmul(self, a: Tensor, b: Tensor) -> Tensor: ...

    def multiply(self, a: Tensor, b: Tensor, tops: tuple[Tensor, Tensor] | None = None) -> Tensor: ...


@dataclass(frozen=True)
class LMul:
    """L-Mul with `bits` bits of mantissa; exponents are not bounded."""

    bits: int

    @property
    def name(self) -> str:
        return f"L-Mul, {self.bits} bits"

    @property
    def offset(self) -> float:
        """2^-l(m)"""
        return 2.0 ** -(self.bits if self.bits <= 3 else 3 if self.bits == 4 else 4)

    def matmul(self, a: Tensor, b: Tensor) -> Tensor:
        a, b = rounded(a, self.bits), rounded(b, self.bits)
        low_a, low_b = power_below(a), power_below(b)
        return a @ low_b + low_a @ b - (1 - self.offset) * (low_a @ low_b)

    def multiply(self, a: Tensor, b: Tensor, tops: tuple[Tensor, Tensor] | None = None) -> Tensor:
        a, b = rounded(a, self.bits), rounded(b, self.bits)
        low_a, low_b = power_below(a), power_below(b)
        return a * low_b + low_a * b - (1 - self.offset) * low_a * low_b


@dataclass(frozen=True)
class Float8:
    """Exact products of operands rounded to float8, each tensor scaled by a power of two into the format's range."""

    kind: Literal["e4m3", "e5m2"]

    @property
    def name(self) -> str:
        return f"float8 {self.kind}"

    def round(self, x: Tensor, top: Tensor | None = None) -> Tensor:
        """`top`: the greatest magnitude of the tensor that x is a part of."""
        dtype = torch.float8_e4m3fn if self.kind == "e4m3" else torch.float8_e5m2
        top = (x.abs().max() if top is None else top).clamp(min=1e-20)  # a tensor of zeros has no scale
        scale = torch.exp2(torch.floor(torch.log2(torch.finfo(dtype).max / top)))
        return (x * scale).to(dtype).float() / scale

    def matmul(self, a: Tensor, b: Tensor) -> Tensor:
        return self.round(a) @ self.round(b)

    def multiply(self, a: Tensor, b: Tensor, tops: tuple[Tensor, Tensor] | None = None) -> Tensor:
        top_a, top_b = tops or (None, None)
        return self.round(a, top_a) * self.round(b, top_b)


@dataclass(frozen=True)
class Exact:
    """float32, as the model computes by itself."""

    name: str = "float32"

    def matmul(self, a: Tensor, b: Tensor) -> Tensor:
        return a @ b

    def multiply(self, a: Tensor, b: Tensor, tops: tuple[Tensor, Tensor] | None = None) -> Tensor:
        return a * b


ARITHMETICS: tuple[Arithmetic, ...] = (Exact(), Float8("e4m3"), Float8("e5m2"), LMul(4), LMul(3))


def rounded(x: Tensor, bits: int) -> Tensor:
    """x to the nearest number with `bits` bits of mantissa behind the leading one; a tie goes to the even one."""
    mantissa, exponent = torch.frexp(x)  # mantissa in [1/2, 1)
    return torch.ldexp(torch.round(mantissa * 2 ** (bits + 1)) / 2 ** (bits + 1), exponent)


def power_below(x: Tensor) -> Tensor:
    """The power of two at or below |x|, with the sign of x; 0 for 0."""
    mantissa, exponent = torch.frexp(x)
    return torch.ldexp(mantissa.sign(), exponent - 1)


class _InPlace(TorchFunctionMode):
    """Answers the matrix products of attention (torch.matmul) and of linear layers in another arithmetic."""

    def __init__(self, arithmetic: Arithmetic, where: Where):
        super().__init__()
        self.arithmetic, self.where = arithmetic, where
        self.calls = {"attention": 0, "linear": 0}

    def __torch_function__(self, function, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if function is torch.matmul and self.where != "linear":
            return self._count("attention", self.arithmetic.matmul(*args))
        if function is nn.functional.linear and self.where != "attention":
            x, weight, bias = (*args, kwargs.get("bias"))[:3]
            return self._count("linear", _plus(self.arithmetic.matmul(x, weight.T), bias))
        if function is torch.addmm and self.where != "attention":  # the linear layers of GPT-2
            bias, x, weight = args
            return self._count("linear", _plus(self.arithmetic.matmul(x, weight), bias))
        return function(*args, **kwargs)

    def _count(self, part: str, out: Tensor) -> Tensor:
        self.calls[part] += 1
        return out


def _plus(out: Tensor, bias: Tensor | None) -> Tensor:
    return out if bias is None else out + bias


@contextmanager
def eager_attention(model: nn.Module) -> Iterator[None]:
    """Attention as plain matrix products, which can be counted and answered otherwise; fused kernels hide theirs."""
    before = model.config._attn_implementation
    model.set_attn_implementation("eager")
    try:
        yield
    finally:
        model.set_attn_implementation(before)


@contextmanager
def computing_in(model: nn.Module, arithmetic: Arithmetic, where: Where) -> Iterator[dict[str, int]]:
    """Run `model` with the products of `where` in `arithmetic`; yields how many matrix products were answered so.

    For inference. Rotary angles, norms, softmax and activations stay exact. A model whose products cannot be found is
    refused: it would look perfect.
    """
    with torch.no_grad(), eager_attention(model), _InPlace(arithmetic, where) as mode:
        yield mode.calls
    if not any(mode.calls.values()):
        raise UserError("no matrix product of this model was found, so nothing was emulated.")


@dataclass(frozen=True)
class Pairs:
    """Operands [N] that meet in a product; `tops` are the greatest magnitudes of the tensors that they come from."""

    a: Tensor
    b: Tensor
    tops: tuple[Tensor, Tensor] | None = None


def relative_error(arithmetic: Arithmetic, products: Sequence[Pairs]) -> float:
    """Mean of |product - a b| / |a b| over all pairs of operands; pairs with a zero are left out."""
    wrong = []
    for pairs in products:
        exact = pairs.a.double() * pairs.b.double()
        real = exact != 0
        found = arithmetic.multiply(pairs.a, pairs.b, pairs.tops).double()
        wrong.append((found - exact).abs()[real] / exact.abs()[real])
    return float(torch.cat(wrong).mean())


class Operands(TorchFunctionMode):
    """Collects operands, at most `each` pairs a product, that a model multiplies in attention and linear layers."""

    def __init__(self, each: int = 2048):
        super().__init__()
        self.each, self.generator = each, torch.Generator().manual_seed(0)
        self.pairs: dict[str, list[Pairs]] = {"attention": [], "linear": []}

    def __torch_function__(self, function, types, args=(), kwargs=None):
        if function is torch.matmul:
            self._keep("attention", args[0], args[1].transpose(-1, -2))
        elif function is nn.functional.linear:
            self._keep("linear", args[0].reshape(-1, args[0].shape[-1]), args[1])
        elif function is torch.addmm:  # the linear layers of GPT-2
            self._keep("linear", args[1], args[2].T)
        return function(*args, **(kwargs or {}))

    def _keep(self, part: str, rows: Tensor, columns: Tensor) -> None:
        """Random entries of `rows` [.., N, K] and `columns` [.., M, K] that meet: of one batch entry, and one k."""
        rows, columns = (x.detach().reshape(-1, *x.shape[-2:]).cpu() for x in (rows, columns))

        def random(size: int) -> Tensor:
            return torch.randint(size, (self.each,), generator=self.generator)

        batch, k = random(len(rows)), random(rows.shape[-1])
        one, other = rows[batch, random(rows.shape[1]), k], columns[batch, random(columns.shape[1]), k]
        self.pairs[part].append(Pairs(one, other, (rows.abs().max(), columns.abs().max())))
