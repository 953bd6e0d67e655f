// Plain C++: correct everywhere, and what the compiler makes of it.
#include "kernels.h"

namespace {

constexpr const char* kIsa = "portable";
constexpr int kLanes = 8;

struct Vector {
  float lane[kLanes];
};
struct Table {
  float entry[16];
};

Vector broadcast(float value) {
  Vector v;
  for (float& lane : v.lane) lane = value;
  return v;
}

Vector load(const float* from) {
  Vector v;
  for (int i = 0; i < kLanes; ++i) v.lane[i] = from[i];
  return v;
}

void store(float* to, const Vector& v) {
  for (int i = 0; i < kLanes; ++i) to[i] = v.lane[i];
}

Vector add(const Vector& a, const Vector& b) {
  Vector v;
  for (int i = 0; i < kLanes; ++i) v.lane[i] = a.lane[i] + b.lane[i];
  return v;
}

Vector mul(const Vector& a, const Vector& b) {
  Vector v;
  for (int i = 0; i < kLanes; ++i) v.lane[i] = a.lane[i] * b.lane[i];
  return v;
}

Table make_table(const float weight[4]) {
  Table table;
  for (int m = 0; m < 16; ++m) {
    float sum = 0.0f;
    for (int j = 0; j < 4; ++j) sum += (m >> j & 1) != 0 ? weight[j] : 0.0f;
    table.entry[m] = sum;
  }
  return table;
}

Vector look_up(const Table& table, const uint8_t* bytes) {
  Vector v;
  for (int i = 0; i < kLanes; ++i) v.lane[i] = table.entry[bytes[i]];
  return v;
}

}  // namespace

#include "kernels.inl"

const spiketicket::Kernels& spiketicket::portable_kernels() { return kKernels; }
