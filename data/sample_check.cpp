#include <cmath>

#include "core/error.h"
#include "data/dataset.h"

namespace tpo {
namespace {

int count_marks(std::string_view text, std::string_view mark) {
  int n = 0;
  for (size_t at = text.find(mark); at != std::string_view::npos; at = text.find(mark, at + mark.size())) ++n;
  return n;
}

// Throws DataError that starts with the sample's id.
class Checker {
 public:
  explicit Checker(const data::Sample& sample) : sample_(sample) {}

  void run(uint64_t media_bytes) const {
    must(!sample_.id().empty(), "id is empty");
    must(sample_.turns_size() > 0, "it has no turns");
    check_media(media_bytes);
    for (int i = 0; i < sample_.boxes_size(); ++i) check_box(sample_.boxes(i), cat("boxes[", i, "]"));
    for (int i = 0; i < sample_.masks_size(); ++i) check_mask(sample_.masks(i), cat("masks[", i, "]"));
    for (int i = 0; i < sample_.tracks_size(); ++i) {
      const std::string where = cat("tracks[", i, "]");
      for (const data::Box& b : sample_.tracks(i).boxes()) check_box(b, where);
      for (const data::Mask& m : sample_.tracks(i).masks()) check_mask(m, where);
    }
    for (int i = 0; i < sample_.spans_size(); ++i) {
      const data::Span& s = sample_.spans(i);
      must(s.start_s() >= 0 && s.start_s() <= s.end_s() && std::isfinite(s.end_s()), "spans[", i, "] is ", s.start_s(),
           " to ", s.end_s(), " s, expected 0 <= start <= end");
      check_place(s.media(), 0, cat("spans[", i, "]"));
    }
    check_turns();
  }

 private:
  template <class... Parts>
  void must(bool ok, const Parts&... parts) const {
    check<DataError>(ok, "sample '", sample_.id(), "': ", parts...);
  }

  void check_media(uint64_t media_bytes) const {
    uint64_t sum = 0;
    for (int i = 0; i < sample_.media_size(); ++i) {
      const data::Media& m = sample_.media(i);
      const bool picture = m.kind() == data::Media::JPEG || m.kind() == data::Media::PNG;
      must(picture || m.kind() == data::Media::JPEG_FRAMES, "media[", i, "].kind is ", static_cast<int>(m.kind()),
           ", expected JPEG, PNG or JPEG_FRAMES");
      must(m.width() > 0 && m.height() > 0, "media[", i, "] has size ", m.width(), " x ", m.height());
      must(picture ? m.frame_bytes_size() == 1 : m.frame_bytes_size() >= 1, "media[", i, "].frame_bytes has ",
           m.frame_bytes_size(), " entries, expected one per frame");
      for (uint32_t n : m.frame_bytes()) {
        must(n > 0, "media[", i, "] has an empty frame");
        sum += n;
      }
    }
    must(sum == media_bytes, "frame_bytes add up to ", sum, " but the media field has ", media_bytes, " bytes");
  }

  void check_place(int media, int frame, const std::string& where) const {
    must(media >= 0 && media < sample_.media_size(), where, ".media is ", media, " but the sample has ",
         sample_.media_size());
    const int frames = sample_.media(media).frame_bytes_size();
    must(frame >= 0 && frame < frames, where, ".frame is ", frame, " but that media has ", frames);
  }

  void check_box(const data::Box& b, const std::string& where) const {
    // Written so that NaN fails.
    must(b.x1() >= 0 && b.y1() >= 0 && b.x1() <= b.x2() && b.y1() <= b.y2() && b.x2() <= 1 && b.y2() <= 1, where,
         " is (", b.x1(), ", ", b.y1(), ", ", b.x2(), ", ", b.y2(),
         "), expected 0 <= x1 <= x2 <= 1 and 0 <= y1 <= y2 <= 1 (fractions of the picture)");
    check_place(b.media(), b.frame(), where);
  }

  void check_mask(const data::Mask& m, const std::string& where) const {
    must(m.height() > 0 && m.width() > 0, where, " has a mask of size ", m.width(), " x ", m.height());
    uint64_t sum = 0;
    for (uint32_t n : m.counts()) sum += n;
    must(sum == static_cast<uint64_t>(m.height()) * static_cast<uint64_t>(m.width()), where, ": mask runs cover ", sum,
         " pixels of ", m.height(), " x ", m.width());
    check_place(m.media(), m.frame(), where);
  }

  void check_turns() const {
    int media_marks = 0;
    for (int i = 0; i < sample_.turns_size(); ++i) {
      const data::Turn& t = sample_.turns(i);
      must(data::Turn::Role_IsValid(t.role()), "turns[", i, "].role is unknown");
      const bool answer = t.role() == data::Turn::ASSISTANT;
      const int boxes = count_marks(t.text(), "<box>"), inputs = count_marks(t.text(), "<track_box>");
      must(boxes == 0 || answer, "turns[", i, "] holds <box>, which stands in answers only");
      must(inputs == 0 || !answer, "turns[", i, "] holds <track_box>, which stands in questions only");
      must(t.boxes_size() == boxes + inputs, "turns[", i, "] has ", boxes + inputs, " marks (",
           answer ? "<box>" : "<track_box>", ") but ", t.boxes_size(), " boxes");
      for (int b : t.boxes()) must(b >= 0 && b < sample_.boxes_size(), "turns[", i, "].boxes names box ", b);
      for (int s : t.spans()) must(s >= 0 && s < sample_.spans_size(), "turns[", i, "].spans names span ", s);
      for (int k : t.tracks()) must(k >= 0 && k < sample_.tracks_size(), "turns[", i, "].tracks names track ", k);
      if (!answer) media_marks += count_marks(t.text(), "<image>") + count_marks(t.text(), "<video>");
    }
    must(media_marks == 0 || media_marks == sample_.media_size(), "its questions hold ", media_marks,
         " <image>/<video> marks but it has ", sample_.media_size(), " media");
  }

  const data::Sample& sample_;
};

}  // namespace

void check_sample(const data::Sample& sample, uint64_t media_bytes) { Checker(sample).run(media_bytes); }

}  // namespace tpo
