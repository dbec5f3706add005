#pragma once
// What a state holds of each tensor, checked: the part of save() and load() that looks at StateTensors.
#include <map>
#include <string>
#include <vector>

#include "checkpoint/checkpointer.h"
#include "checkpoint/part.h"

namespace tpo {

// The StateTensors of one name.
struct HeldTensor {
  struct Block {
    Part part;                           // normalised; of 0 elements too
    Tensor value;                        // undefined where there are bytes
    std::shared_ptr<TensorBytes> bytes;  // of the whole tensor
  };
  Shape full;
  DType dtype = DType::kF32;
  std::vector<Block> blocks;
};

// By name. Throws ConfigError for an illegal name, an undefined value, a part outside its tensor, and StateTensors of
// one name that differ in shape or type or have an element in common; DeviceError for one outside host memory.
std::map<std::string, HeldTensor> held_tensors(const TrainState& state);

}  // namespace tpo
