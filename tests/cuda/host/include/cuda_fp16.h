// CUDA's half, as far as CuPy's float16 uses it.
#pragma once

struct __half_raw { unsigned short x; };

struct half {
  unsigned short bits;
  half() {}
  half(float x) : bits(__float2half_rn(x)) {}
  explicit half(const __half_raw& raw) : bits(raw.x) {}
  template <class T> explicit half(T x) : bits(__float2half_rn((float)x)) {}
  operator float() const { return __half2float(bits); }
  operator __half_raw() const { return {bits}; }
};
typedef half __half;

static inline unsigned short __half_as_ushort(half x) { return x.bits; }
static inline half __ushort_as_half(unsigned short x) { return half(__half_raw{x}); }
