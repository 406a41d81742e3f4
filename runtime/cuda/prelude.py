"""What every generated CUDA file begins with: the scalar functions of graphc.ir.expr, reductions of lane groups.

The text knows nothing but CUDA C++ and a handful of `GC_` names, so that the host emulator of the tests can give
those names a meaning of its own: checked memory. The mathematics is CUDA's accurate library (at most 2 ulp in
float32, CUDA C++ Programming Guide, "Mathematical Functions"); nothing of it is the fast, inexact kind.
"""

from __future__ import annotations

PRELUDE = r"""
#ifndef GC_EMULATOR
#define GC_READ(T) const T* __restrict__
#define GC_WRITE(T) T* __restrict__
#define GC_ALIASED(T) T*
#define GC_SHARED(T, name, size) __shared__ T name[size]
#define GC_LOCAL(T, name, size) T name[size]
#define GC_INFINITY __longlong_as_double(0x7ff0000000000000LL)
#define GC_NAN __longlong_as_double(0x7ff8000000000000LL)
#endif
typedef long long gc_i64;
typedef unsigned long long gc_u64;
typedef unsigned int gc_u32;
#define GC_FUNCTION static __device__ __forceinline__
#define GC_MEMBER static __device__ __forceinline__

// Wrap-around arithmetic: overflow of signed integers is undefined in C++, and wraps in NumPy.
GC_FUNCTION int gc_add(int a, int b) { return (int)((gc_u32)a + (gc_u32)b); }
GC_FUNCTION int gc_sub(int a, int b) { return (int)((gc_u32)a - (gc_u32)b); }
GC_FUNCTION int gc_mul(int a, int b) { return (int)((gc_u32)a * (gc_u32)b); }
GC_FUNCTION gc_i64 gc_add(gc_i64 a, gc_i64 b) { return (gc_i64)((gc_u64)a + (gc_u64)b); }
GC_FUNCTION gc_i64 gc_sub(gc_i64 a, gc_i64 b) { return (gc_i64)((gc_u64)a - (gc_u64)b); }
GC_FUNCTION gc_i64 gc_mul(gc_i64 a, gc_i64 b) { return (gc_i64)((gc_u64)a * (gc_u64)b); }
GC_FUNCTION float gc_add(float a, float b) { return a + b; }
GC_FUNCTION double gc_add(double a, double b) { return a + b; }
GC_FUNCTION bool gc_add(bool a, bool b) { return a || b; }
GC_FUNCTION int gc_abs(int a) { return a < 0 ? gc_sub(0, a) : a; }
GC_FUNCTION gc_i64 gc_abs(gc_i64 a) { return a < 0 ? gc_sub(0LL, a) : a; }

// Towards minus infinity; a division by zero gives 0, as in NumPy.
template <class T> GC_FUNCTION T gc_floordiv_integer(T a, T b) {
  if (b == 0) return 0;
  if (b == -1) return gc_sub((T)0, a);
  T q = a / b;
  return (a % b != 0 && (a < 0) != (b < 0)) ? q - 1 : q;
}
template <class T> GC_FUNCTION T gc_mod_integer(T a, T b) {
  if (b == 0 || b == -1) return 0;
  T r = a % b;
  return (r != 0 && (r < 0) != (b < 0)) ? r + b : r;
}
GC_FUNCTION int gc_floordiv(int a, int b) { return gc_floordiv_integer<int>(a, b); }
GC_FUNCTION int gc_mod(int a, int b) { return gc_mod_integer<int>(a, b); }
GC_FUNCTION gc_i64 gc_floordiv(gc_i64 a, gc_i64 b) { return gc_floordiv_integer<gc_i64>(a, b); }
GC_FUNCTION gc_i64 gc_mod(gc_i64 a, gc_i64 b) { return gc_mod_integer<gc_i64>(a, b); }

// npy_divmod of NumPy: the remainder takes the divisor's sign, the quotient is the floor of the exact one.
#define GC_FLOAT_DIVISION(T, FMOD, FLOOR, COPYSIGN)                                   \
  GC_FUNCTION T gc_mod(T a, T b) {                                                    \
    T r = FMOD(a, b);                                                                 \
    if (b == 0) return r;                                                             \
    if (r == 0) return COPYSIGN((T)0, b);                                             \
    return (b < 0) != (r < 0) ? r + b : r;                                            \
  }                                                                                   \
  GC_FUNCTION T gc_floordiv(T a, T b) {                                               \
    if (b == 0) return a / b;                                                         \
    T r = FMOD(a, b), q = (a - r) / b;                                                \
    if (r != 0 && (b < 0) != (r < 0)) q -= 1;                                         \
    if (q == 0) return COPYSIGN((T)0, a / b);                                         \
    T f = FLOOR(q);                                                                   \
    return q - f > (T)0.5 ? f + 1 : f;                                                \
  }
GC_FLOAT_DIVISION(float, fmodf, floorf, copysignf)
GC_FLOAT_DIVISION(double, fmod, floor, copysign)

// NaN propagates (fmaxf and fminf would drop it); the sign of NaN is NaN, that of -0.0 is 0.0 (as in NumPy).
GC_FUNCTION float gc_max(float a, float b) { return a > b || a != a ? a : b; }
GC_FUNCTION float gc_min(float a, float b) { return a < b || a != a ? a : b; }
GC_FUNCTION double gc_max(double a, double b) { return a > b || a != a ? a : b; }
GC_FUNCTION double gc_min(double a, double b) { return a < b || a != a ? a : b; }
GC_FUNCTION int gc_max(int a, int b) { return a > b ? a : b; }
GC_FUNCTION int gc_min(int a, int b) { return a < b ? a : b; }
GC_FUNCTION gc_i64 gc_max(gc_i64 a, gc_i64 b) { return a > b ? a : b; }
GC_FUNCTION gc_i64 gc_min(gc_i64 a, gc_i64 b) { return a < b ? a : b; }
GC_FUNCTION bool gc_max(bool a, bool b) { return a || b; }
GC_FUNCTION bool gc_min(bool a, bool b) { return a && b; }
GC_FUNCTION float gc_sign(float a) { return a > 0 ? 1.0f : a < 0 ? -1.0f : a == 0 ? 0.0f : a; }
GC_FUNCTION double gc_sign(double a) { return a > 0 ? 1.0 : a < 0 ? -1.0 : a == 0 ? 0.0 : a; }
GC_FUNCTION int gc_sign(int a) { return (a > 0) - (a < 0); }
GC_FUNCTION gc_i64 gc_sign(gc_i64 a) { return (a > 0) - (a < 0); }

// Wrapping; for a negative power what truncation of the exact result is: 0, 1 or -1.
template <class T> GC_FUNCTION T gc_pow_integer(T a, T n) {
  if (n < 0) return a == 1 || a == -1 ? (n % 2 ? a : 1) : 0;
  T result = 1;
  for (; n > 0; n >>= 1) {
    if (n & 1) result = gc_mul(result, a);
    a = gc_mul(a, a);
  }
  return result;
}
GC_FUNCTION int gc_pow(int a, int n) { return gc_pow_integer<int>(a, n); }
GC_FUNCTION gc_i64 gc_pow(gc_i64 a, gc_i64 n) { return gc_pow_integer<gc_i64>(a, n); }

// Philox4x32-10: Salmon, Moraes, Dror, Shaw, "Parallel random numbers: as easy as 1, 2, 3" (SC 2011).
GC_FUNCTION void gc_philox(gc_i64 seed, gc_i64 draw, gc_i64 element, gc_u32& word0, gc_u32& word1) {
  gc_u32 c0 = (gc_u32)element, c1 = (gc_u32)((gc_u64)element >> 32);
  gc_u32 c2 = (gc_u32)draw, c3 = (gc_u32)((gc_u64)draw >> 32);
  gc_u32 k0 = (gc_u32)seed, k1 = (gc_u32)((gc_u64)seed >> 32);
#pragma unroll
  for (int round = 0; round < 10; round++) {
    gc_u32 high0 = __umulhi(0xD2511F53u, c0), low0 = 0xD2511F53u * c0;
    gc_u32 high1 = __umulhi(0xCD9E8D57u, c2), low1 = 0xCD9E8D57u * c2;
    c0 = high1 ^ c1 ^ k0, c1 = low1, c2 = high0 ^ c3 ^ k1, c3 = low0;
    k0 += 0x9E3779B9u, k1 += 0xBB67AE85u;
  }
  word0 = c0, word1 = c1;
}
GC_FUNCTION float gc_philox32(gc_i64 seed, gc_i64 draw, gc_i64 element) {
  gc_u32 word0, word1;
  gc_philox(seed, draw, element, word0, word1);
  return (float)(word0 >> 8) * 0x1p-24f;
}
GC_FUNCTION double gc_philox64(gc_i64 seed, gc_i64 draw, gc_i64 element) {
  gc_u32 word0, word1;
  gc_philox(seed, draw, element, word0, word1);
  return (double)((gc_u64)(word0 >> 5) << 26 | word1 >> 6) * 0x1p-53;
}

// Folding the lanes of a group: all lanes bring a value, all get the same result, in one fixed order.
struct gc_sum { template <class T> GC_MEMBER T fold(T a, T b) { return gc_add(a, b); } };
struct gc_maximum { template <class T> GC_MEMBER T fold(T a, T b) { return gc_max(a, b); } };
struct gc_minimum { template <class T> GC_MEMBER T fold(T a, T b) { return gc_min(a, b); } };
GC_FUNCTION float gc_exchange(float v, int distance) { return __shfl_xor_sync(0xffffffffu, v, distance); }
GC_FUNCTION double gc_exchange(double v, int distance) { return __shfl_xor_sync(0xffffffffu, v, distance); }
GC_FUNCTION int gc_exchange(int v, int distance) { return __shfl_xor_sync(0xffffffffu, v, distance); }
GC_FUNCTION gc_i64 gc_exchange(gc_i64 v, int distance) { return __shfl_xor_sync(0xffffffffu, v, distance); }
GC_FUNCTION bool gc_exchange(bool v, int distance) { return __shfl_xor_sync(0xffffffffu, (int)v, distance) != 0; }
template <class T, class Op> GC_FUNCTION T gc_fold_warp(T v) {
#pragma unroll
  for (int distance = 16; distance > 0; distance >>= 1) v = Op::template fold<T>(v, gc_exchange(v, distance));
  return v;
}
template <class T, class Op, int width> GC_FUNCTION T gc_fold_block(T v) {
  GC_SHARED(T, partial, width / 32);
  const int lane = threadIdx.x % 32;
  v = gc_fold_warp<T, Op>(v);
  if (lane == 0) partial[threadIdx.x / 32] = v;
  __syncthreads();
  v = partial[lane % (width / 32)];
#pragma unroll
  for (int distance = width / 64; distance > 0; distance >>= 1) v = Op::template fold<T>(v, gc_exchange(v, distance));
  __syncthreads();  // nobody overwrites `partial` before all have read it
  return v;
}

#ifndef GC_EMULATOR
GC_FUNCTION void gc_atomic_add(float* p, float v) { atomicAdd(p, v); }
GC_FUNCTION void gc_atomic_add(double* p, double v) { atomicAdd(p, v); }
GC_FUNCTION void gc_atomic_add(int* p, int v) { atomicAdd(p, v); }
GC_FUNCTION void gc_atomic_add(gc_i64* p, gc_i64 v) { atomicAdd((gc_u64*)p, (gc_u64)v); }
GC_FUNCTION void gc_report(int* error, int code) { atomicCAS(error, 0, code); }  // the first one wins
#endif
"""
