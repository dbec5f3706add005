// Which tokenizer a run has, and whether it is that of a checkpoint.
#include "data/tokenizer/load_tokenizer.h"
#include "launcher/build.h"

namespace tpo {

std::unique_ptr<Tokenizer> make_tokenizer(const config::RunConfig& config) {
  const auto& d = config.data();
  const bool any = config.checkpoint().allow_other_tokenizer();
  return load_tokenizer(d.tokenizer(), {.more_tokens = {},
                                        .vocab_size = any ? 0 : d.tokenizer_tokens(),
                                        .fingerprint = any ? 0 : d.tokenizer_fingerprint()});
}

void resolve_tokenizer(const Tokenizer& tokenizer, const Tokenizer* of_connector, config::RunConfig& config) {
  config.mutable_data()->set_tokenizer_tokens(tokenizer.vocab_size());
  config.mutable_data()->set_tokenizer_fingerprint(tokenizer.fingerprint());
  if (of_connector != nullptr) config.mutable_data()->set_connector_tokenizer_fingerprint(of_connector->fingerprint());
}

void check_tokenizer(const std::string& saved, const std::string& checkpoint, const config::RunConfig& config) {
  if (config.checkpoint().allow_other_tokenizer()) return;
  const config::Data then = read_saved(saved).data();
  const config::Data& now = config.data();
  const auto must_be_equal = [&](const char* field, uint64_t was, uint64_t is, const auto& named) {
    if (was == 0 || is == 0 || was == is) return;
    throw OtherTokenizer(cat(checkpoint, " was trained with the tokenizer ", named(then), ", but data.", field, " is ",
                             named(now), ", which gives other ids; to take it all the same set ",
                             "checkpoint.allow_other_tokenizer=true"));
  };
  must_be_equal("tokenizer", then.tokenizer_fingerprint(), now.tokenizer_fingerprint(), [](const config::Data& d) {
    return cat(d.tokenizer(), " (", d.tokenizer_tokens(), " tokens, fingerprint ", d.tokenizer_fingerprint(), ")");
  });
  must_be_equal("connector_tokenizer", then.connector_tokenizer_fingerprint(), now.connector_tokenizer_fingerprint(),
                [](const config::Data& d) {
                  return cat(d.connector_tokenizer(), " (fingerprint ", d.connector_tokenizer_fingerprint(), ")");
                });
}

}  // namespace tpo
