// Division by numbers that are known before the launch.
#pragma once
#include "common.cuh"

// For n < 2^k and l = ceil(log2 d): n / d = (n · (floor(2^(k + l) / d) + 1)) >> (k + l) (T. Granlund, P. Montgomery, "Division by
// Invariant Integers using Multiplication", PLDI 1994). `factor` is the number in brackets and `shift` is l; k is 31 where I has
// 32 bits and 63 where it has 64, which is the host's choice as well.
struct Divisor { u64 value, factor, shift; };

__device__ __forceinline__ u32 divide(u32 n, const Divisor& d) { return __umulhi(n + n, (u32)d.factor) >> (u32)d.shift; }
__device__ __forceinline__ u64 divide(u64 n, const Divisor& d) { return __umul64hi(n + n, d.factor) >> d.shift; }

// The remainder; n becomes the quotient.
template <class I> __device__ __forceinline__ I split(I& n, const Divisor& d) {
    I quotient = divide(n, d), rest = n - quotient * (I)d.value;
    n = quotient;
    return rest;
}
