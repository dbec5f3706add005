// The whole model over the tensor axis under mpirun, against one rank; started by run_mpi.sh through ctest.
#include <cstdio>
#include <stdexcept>

#include "parallel/comm/mpi.h"
#include "tests/model/tensor_parallel_fixture.h"

namespace tpo::testing {
namespace {

void check(const std::string& wrong, const std::string& what) {
  if (!wrong.empty()) throw std::runtime_error(what + ": " + wrong);
}

void equals_one_rank(const ModelCase& m, bool sequence, Recompute recompute, ProcessGroup& tp) {
  const std::string what = cat(m.name, sequence ? ", cut sequences" : "", ", recompute ", static_cast<int>(recompute));
  const auto alone = make_single();
  const ModelRun whole(m, config_of(m, false, Recompute::kNone), *alone),
      part(m, config_of(m, sequence, recompute), tp);
  check(other_bits(tp, {static_cast<float>(part.loss)}, "loss"), what);
  check(other_bits(tp, part.states, "states"), what);
  if (std::abs(part.loss - whole.loss) > 1e-5 * whole.loss) check(cat(part.loss, " is not ", whole.loss), what);
  check(other_parts(tp, part.store, part.gradients, whole.store, whole.gradients, kModelTolerance), what);
  if (tp.rank() == 0) std::printf("ok %d ranks %s\n", tp.size(), what.c_str());
}

}  // namespace
}  // namespace tpo::testing

int main(int argc, char** argv) {
  using namespace tpo::testing;
  tpo::MpiWorld mpi(&argc, &argv);
  try {
    const auto world = tpo::make_mpi_world({.verify = true});
    for (const ModelCase& m : kModels)
      for (const bool sequence : {false, true})
        for (const auto recompute : {tpo::Recompute::kNone, tpo::Recompute::kSelective, tpo::Recompute::kFull})
          equals_one_rank(m, sequence, recompute, *world);
    world->barrier("end").wait_host();
  } catch (const std::exception& e) {
    std::fprintf(stderr, "rank %d: %s\n", mpi.rank(), e.what());
    tpo::MpiWorld::abort(7);
  }
  return 0;
}
