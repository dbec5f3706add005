#include "core/kernels/basic.h"
#include "core/launch.h"
#include "core/ops/loss.h"
#include "tests/op_case.h"

namespace tpo::optest {

void add_cross_entropy_cases(CaseList&);

namespace {

struct Dims {
  int64_t n, c, v, r;
  int ignore;  // one target in `ignore` is set, 0: all, -1: none
  Size size = Size::kSmall;
};

Ref reference(RefInputs in, double scale) {
  const Ref &x = in[0], &w = in[1], &t = in[2];
  Ref loss({1});
  for (int64_t n = 0; n < x.rows(); ++n) {
    if (t[n] == kIgnoreTarget) continue;
    std::vector<double> logits(static_cast<size_t>(w.rows()));
    double sum = 0;
    for (int64_t v = 0; v < w.rows(); ++v) {
      double& l = logits[static_cast<size_t>(v)];
      for (int64_t c = 0; c < x.cols(); ++c) l += x.at(n, c) * w.at(v, c);
      if (in.size() > 3)
        for (int64_t c = 0; c < in[3].cols(); ++c) l += in[3].at(n, c) * in[4].at(v, c);
      sum += std::exp(l);
    }
    loss[0] += scale * (std::log(sum) - logits[static_cast<size_t>(t[n])]);
  }
  return loss;
}

// One part that is the whole; several stand in tests/parallel/tensor_loss_test.cpp.
Tensor in_phases(Inputs v, int64_t vocabulary) {
  const VocabPart whole{
      .vocabulary = vocabulary, .widest = vocabulary, .gather = [](const Tensor& mine, const Tensor& all) {
        launch(CopyBytes{all.raw(), mine.raw(), mine.nbytes()});
      }};
  const bool low = v.size() > 3;
  return vocab_cross_entropy_part(v[0], v[1], v[2], 0.25f, whole, low ? v[3] : Tensor(), low ? v[4] : Tensor());
}

OpCase make(Rand& r, const Dims d, bool phases) {
  std::vector<int32_t> targets;
  for (int64_t n = 0; n < d.n; ++n) {
    const bool keep = d.ignore == 0 || (d.ignore > 0 && r.below(static_cast<uint64_t>(d.ignore)) == 0);
    targets.push_back(keep ? static_cast<int32_t>(r.below(static_cast<uint64_t>(d.v))) : kIgnoreTarget);
  }
  std::vector<Tensor> in = {r.normal({d.n, d.c}), r.normal({d.v, d.c}, 0.2f), r.of(targets)};
  if (d.r > 0) in.push_back(r.normal({d.n, d.r})), in.push_back(r.normal({d.v, d.r}, 0.2f));
  return OpCase{.in = in,
                .run =
                    [=](Inputs v) {
                      if (phases) return in_phases(v, d.v);
                      return vocab_cross_entropy(v[0], v[1], v[2], 0.25f, d.r ? v[3] : Tensor(), d.r ? v[4] : Tensor());
                    },
                .ref = [](RefInputs v) { return reference(v, 0.25); },
                .grads = d.r ? std::vector<int>{0, 1, 3, 4} : std::vector<int>{0, 1},
                .tol = sum_tolerance(d.c) + 1e-6,  // logits of c terms, then exp and log of fp32
                .bf16_stores = 0,                  // logits and loss are fp32
                .bf16_grad_stores = 2};            // the gradient of the logits, and what is made of it
}

}  // namespace

void add_cross_entropy_cases(CaseList& list) {
  for (const Dims d : {Dims{1, 1, 1, 0, 0},
                       {1, 3, 7, 0, 0},
                       {13, 5, 17, 3, 2},
                       {6, 4, 9, 2, -1},
                       {0, 4, 9, 0, 0},
                       {140, 4, 8209, 2, 0, Size::kLarge},  // several chunks
                       {290, 4, 8209, 0, 2, Size::kLarge},
                       {1024, 256, 512, 0, 0, Size::kBench},
                       {1024, 256, 512, 8, 3, Size::kBench},
                       {256, 256, 32000, 0, 0, Size::kBench}})
    for (const bool phases : {false, true})
      list.add(
          cat(phases ? "vocab_cross_entropy_part/" : "vocab_cross_entropy/", d.n, "x", d.c, "x", d.v, "_r", d.r,
              d.ignore < 0 ? "_none" : cat("_1in", d.ignore)),
          [=](Rand& r) { return make(r, d, phases); }, d.size);
}

}  // namespace tpo::optest
