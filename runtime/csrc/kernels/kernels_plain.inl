// What an instruction set supplies to kernels.inl, in plain C++ for vectors of 4 floats.

struct Table {
  float entry[16];
};

inline unsigned fires(Vector h, Vector level) {
  const auto fired = h >= level;  // -1 or 0 per lane
  return unsigned(-(fired[0] + 2 * fired[1] + 4 * fired[2] + 8 * fired[3]));
}

inline Vector add_where(Vector sum, unsigned bits, Vector addend) {
  typedef int Lanes __attribute__((vector_size(16)));
  const Lanes set = ((Lanes{} + int(bits)) & Lanes{1, 2, 4, 8}) != 0;
  return sum + Vector(Lanes(addend) & set);
}

inline uint32_t expand_word(uint64_t word, uint16_t base, uint16_t* events) {
  uint32_t total = 0;
  for (; word != 0; word &= word - 1) events[total++] = uint16_t(base + __builtin_ctzll(word));
  return total;
}

inline Table make_table(const float weight[4]) {
  Table table;
  for (int m = 0; m < 16; ++m) {
    float sum = 0.0f;
    for (int j = 0; j < 4; ++j) sum += (m >> j & 1) != 0 ? weight[j] : 0.0f;
    table.entry[m] = sum;
  }
  return table;
}

// Bytes past the last position may have any value, so only their lower four bits are used.
inline Vector look_up(const Table& table, const uint8_t* bytes) {
  return Vector{table.entry[bytes[0] & 15], table.entry[bytes[1] & 15], table.entry[bytes[2] & 15],
                table.entry[bytes[3] & 15]};
}
