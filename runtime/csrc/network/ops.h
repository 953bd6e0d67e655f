// The operations without weights.
#pragma once
#include <memory>
#include <vector>

#include "forms/layout.h"
#include "network/value.h"

namespace spiketicket {

// Of an integrator without spikes: v = keep v + gain x.
struct Leak {
  float keep, gain;
};

std::unique_ptr<Operation> make_neurons(const std::vector<Value>& values, int input, const LifParameters& lif);
std::unique_ptr<Operation> make_integrators(const std::vector<Value>& values, int input, const Leak& leak);
std::unique_ptr<Operation> make_unroll(const std::vector<Value>& values, int input);
std::unique_ptr<Operation> make_pooling(const std::vector<Value>& values, int input, const Geometry& geometry, bool max,
                                        int height, int width);
std::unique_ptr<Operation> make_addition(const std::vector<Value>& values, int a, int b);
// Of spikes: where both fire, or (negated) where a fires and b does not.
std::unique_ptr<Operation> make_conjunction(const std::vector<Value>& values, int a, int b, bool negated);
// The channels of all parts, one part behind the other: spikes if all are, otherwise real.
std::unique_ptr<Operation> make_concatenation(const std::vector<Value>& values, std::vector<int> parts);
// An image as a vector, [C][H][W] in this order.
std::unique_ptr<Operation> make_flat(const std::vector<Value>& values, int input);

}  // namespace spiketicket
