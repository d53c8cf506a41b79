// Enough of CUDA C++ for g++ to compile the kernels that CuPy generates, and ours.
//
// A kernel becomes a function that does the work of one thread; runtime.cpp calls it for each, and
// has what is declared extern here.  What a kernel uses and this file lacks is an error of g++.
#pragma once

#include <math.h>
#include <cassert>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <initializer_list>
#include <limits>
#include <type_traits>
#include <utility>

#define __CUDACC_VER_MAJOR__ 12
#define __device__
#define __host__
#define __global__
#define __constant__ static
#define __shared__ static __attribute__((section("shared")))  // blocks run one after another
#define __forceinline__ inline
#define __noinline__ __attribute__((noinline))
#define __launch_bounds__(...)
#define __align__(n) __attribute__((aligned(n)))

// ---- threads, and the memory that a block shares ------------------------------------------------

struct Index { unsigned x, y, z; };
extern Index threadIdx, blockIdx, blockDim, gridDim;
static const int warpSize = 32;
extern char dynamic_shared[];  // what `extern __shared__ T name[]` names
void __syncthreads();
void __syncwarp(unsigned mask = 0xFFFFFFFF);

// What a block finds in shared memory is what another left there, or NaN.
extern char __start_shared[] __attribute__((weak, visibility("hidden")));  // the linker's
extern char __stop_shared[] __attribute__((weak, visibility("hidden")));
#define NEW_BLOCK                                                        \
  extern "C" void new_block() {                                          \
    __builtin_memset(__start_shared, -1, __stop_shared - __start_shared); \
  }

// One thread runs at a time and stops only at barriers, so any update is atomic.
template <class T> T atomic_exchange(T* p, T value) { T old = *p; *p = value; return old; }
#define ATOMIC(name, T, value) \
  static inline T name(T* p, T v) { return atomic_exchange(p, (T)(value)); }
#define ATOMIC_NUMBER(T) ATOMIC(atomicAdd, T, *p + v) ATOMIC(atomicExch, T, v)
#define ATOMIC_INTEGER(T)                                               \
  ATOMIC_NUMBER(T)                                                      \
  ATOMIC(atomicSub, T, *p - v)                                          \
  ATOMIC(atomicMax, T, *p > v ? *p : v)                                 \
  ATOMIC(atomicMin, T, *p < v ? *p : v)                                 \
  ATOMIC(atomicAnd, T, *p & v)                                          \
  ATOMIC(atomicOr, T, *p | v)                                           \
  ATOMIC(atomicXor, T, *p ^ v)                                          \
  static inline T atomicCAS(T* p, T compare, T v) {                     \
    return atomic_exchange(p, *p == compare ? v : *p);                  \
  }
ATOMIC_NUMBER(float)
ATOMIC_NUMBER(double)
ATOMIC_INTEGER(int)
ATOMIC_INTEGER(unsigned)
ATOMIC_INTEGER(unsigned long long)

// ---- functions that CUDA has and C++ has not, or not by this name -------------------------------

template <class To, class From> static inline To bits_of(From from) {
  To to;
  __builtin_memcpy(&to, &from, sizeof to);
  return to;
}
static inline int __float_as_int(float x) { return bits_of<int>(x); }
static inline float __int_as_float(int x) { return bits_of<float>(x); }
static inline long long __double_as_longlong(double x) { return bits_of<long long>(x); }
static inline double __longlong_as_double(long long x) { return bits_of<double>(x); }

static inline int __popc(unsigned x) { return __builtin_popcount(x); }
static inline int __popcll(unsigned long long x) { return __builtin_popcountll(x); }
static inline int __clz(int x) { return x ? __builtin_clz(x) : 32; }
static inline int __clzll(long long x) { return x ? __builtin_clzll(x) : 64; }
static inline int __ffs(int x) { return __builtin_ffs(x); }

template <class A, class B> static inline std::common_type_t<A, B> min(A a, B b) {
  return b < a ? b : a;
}
template <class A, class B> static inline std::common_type_t<A, B> max(A a, B b) {
  return a < b ? b : a;
}
static inline float rsqrtf(float x) { return 1 / sqrtf(x); }
static inline float rsqrt(float x) { return 1 / sqrtf(x); }
static inline double rsqrt(double x) { return 1 / sqrt(x); }
static inline float exp10(float x) { return exp10f(x); }  // of double it is glibc's
#define __expf expf  // the fast forms; glibc has these names for itself
#define __logf logf
static inline float __fdividef(float a, float b) { return a / b; }
template <class T> static inline T __ldg(const T* p) { return *p; }

// float16 is stored; to compute, it is made a float.  F16C instructions, to the nearest.
typedef float float4_of __attribute__((vector_size(16)));
typedef short short8_of __attribute__((vector_size(16)));
static inline unsigned short __float2half_rn(float x) {
  return (unsigned short)__builtin_ia32_vcvtps2ph(float4_of{x, 0, 0, 0}, 0)[0];
}
static inline float __half2float(unsigned short x) {
  return __builtin_ia32_vcvtph2ps(short8_of{(short)x, 0, 0, 0, 0, 0, 0, 0})[0];
}

// ---- how runtime.cpp calls a kernel: with a pointer to each of its arguments ----------------------

template <class... A, size_t... I>
static void call(void (*kernel)(A...), void** p, std::index_sequence<I...>) {
  kernel(*(std::remove_cv_t<std::remove_reference_t<A>>*)p[I]...);
}
template <class... A> static void call(void (*kernel)(A...), void** p) {
  call(kernel, p, std::index_sequence_for<A...>{});
}

// Those of the arguments that may begin with an address, as pointers and CuPy's arrays do.
template <class... A> static int addresses(void (*)(A...), void** p, char** found) {
  int n = 0, i = 0;
  ((sizeof(A) < sizeof(char*) ? void(i++) : void(found[n++] = *(char**)p[i++])), ...);
  return n;
}

#define ENTRIES(kernel)                                            \
  extern "C" void thread_of_##kernel(void** p) { call(&kernel, p); } \
  extern "C" int addresses_of_##kernel(void** p, char** found) {     \
    return addresses(&kernel, p, found);                             \
  }
