package stats

import (
	"math/bits"
	"time"
)

// bounded is how many buckets of a Histogram have a bound.
const bounded = 13

// Histogram counts durations by how long they are: up to 1 µs, and up to four times
// as much in each further bucket, the last of which has no bound. One goroutine may
// call Observe; Load is safe for concurrent use.
type Histogram struct {
	buckets [bounded + 1]Counter
	sum     Counter // in nanoseconds
}

// bound returns the largest duration that a bucket counts.
func bound(bucket int) time.Duration { return time.Microsecond << (2 * bucket) }

// Observe counts a duration.
func (h *Histogram) Observe(d time.Duration) {
	beyond := max(d-1, 0) / time.Microsecond // whole microseconds, 0 for up to 1 µs
	bucket := (bits.Len64(uint64(beyond)) + 1) / 2
	h.buckets[min(bucket, bounded)].Inc()
	h.sum.Add(uint64(d))
}

// Load returns how many durations there were, how many seconds they are together,
// and how many were at most as long as each bound, in seconds.
func (h *Histogram) Load() (count uint64, sum float64, within map[float64]uint64) {
	sum = float64(h.sum.Load()) / 1e9
	within = make(map[float64]uint64, bounded)
	for i := range bounded {
		count += h.buckets[i].Load()
		within[bound(i).Seconds()] = count
	}
	return count + h.buckets[bounded].Load(), sum, within
}
