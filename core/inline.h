#pragma once
// TPO_INLINE: a small function that a vectorised loop and a device kernel must see whole.
#ifdef __CUDACC__
#define TPO_INLINE __host__ __device__ __forceinline__
#else
#define TPO_INLINE [[gnu::always_inline]] inline
#endif
