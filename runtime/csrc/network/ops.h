// The operations without weights.
#pragma once
#include <memory>
#include <vector>

#include "layouts/padded_plane.h"
#include "network/value.h"

namespace spiketicket {

// The factors of an integrator, which never fires: v = keep * v + gain * x.
struct Leak {
  float keep, gain;
};

std::unique_ptr<Operation> make_neurons(const std::vector<Value>& values, int input, const LifParameters& lif);
std::unique_ptr<Operation> make_integrators(const std::vector<Value>& values, int input, const Leak& leak);
std::unique_ptr<Operation> make_unroll(const std::vector<Value>& values, int input);
std::unique_ptr<Operation> make_pooling(const std::vector<Value>& values, int input, const Geometry& geometry, bool max,
                                        int height, int width);
std::unique_ptr<Operation> make_addition(const std::vector<Value>& values, int a, int b);
// Combines spikes: fires where both fire or, if negated, where a fires and b does not.
std::unique_ptr<Operation> make_conjunction(const std::vector<Value>& values, int a, int b, bool negated);
// Concatenates the channels of all parts. The result is spikes if all parts are, otherwise real.
std::unique_ptr<Operation> make_concatenation(const std::vector<Value>& values, std::vector<int> parts);
// Flattens an image to a vector in the order [C][H][W].
std::unique_ptr<Operation> make_flat(const std::vector<Value>& values, int input);

}  // namespace spiketicket
