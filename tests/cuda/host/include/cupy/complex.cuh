// In place of CuPy's: our numbers are real, and complex ones are most of what g++ would have to read.
#pragma once

template <class T> struct complex {
  T parts[2];
  T real() const { return parts[0]; }
  T imag() const { return parts[1]; }
};
template <class T> static inline T norm(complex<T> x) {
  return x.real() * x.real() + x.imag() * x.imag();
}
static inline float norm(float x) { return x * x; }
static inline double norm(double x) { return x * x; }
