#pragma once
// Which frames are taken of a clip, and how texts tell their times.
//
// A text names the middle of each interval, also where training takes a random frame of it (CollateOptions::Frames).
// Then a sample has the same tokens whenever it is drawn, so that the length index is right; times of the frames drawn
// would not: "9.5" and "10.5" need not be as many tokens. The times told are those of evaluation and prediction, and in
// training off by half an interval at most.
#include <string>
#include <vector>

#include "data/sample.pb.h"

namespace tpo {

// The frame in the middle of each of `count` equal intervals of n frames; the last one again when the clip is too
// short.
std::vector<int> middle_frames(int n, int count);

// Times of these frames of medium `m`, as "0.5, 1.5, 2.5": index / fps in seconds, rounded to 0.1. Throws DataError
// that names the sample if the frame rate is not known.
std::string frame_times(const data::Sample& sample, int m, int count);

}  // namespace tpo
