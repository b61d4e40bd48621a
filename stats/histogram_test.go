package stats_test

import (
	"maps"
	"slices"
	"testing"
	"time"

	"github.com/vhost-user-vsock/vhost-user-vsock/stats"
)

// A bound belongs to its bucket, and what is a nanosecond longer to the next one.
func TestHistogramBounds(t *testing.T) {
	var empty stats.Histogram
	_, _, within := empty.Load()
	bounds := slices.Sorted(maps.Keys(within))
	if bounds[0] != 1e-6 || bounds[len(bounds)-1] < 10 {
		t.Errorf("bounds %v", bounds)
	}
	for i, bound := range bounds {
		d := time.Duration(bound * 1e9)
		for _, observed := range []time.Duration{d - 1, d, d + 1} {
			var h stats.Histogram
			h.Observe(observed)
			count, sum, within := h.Load()
			if count != 1 || sum != observed.Seconds() {
				t.Errorf("%v: count %d, sum %v", observed, count, sum)
			}
			for j, b := range bounds {
				want := uint64(0)
				if j > i || j == i && observed <= d {
					want = 1
				}
				if within[b] != want {
					t.Errorf("%v: %d within %v s", observed, within[b], b)
				}
			}
		}
	}
}

func TestHistogramAddsUp(t *testing.T) {
	var h stats.Histogram
	for _, d := range []time.Duration{0, 1, 3 * time.Microsecond, 900 * time.Millisecond, time.Hour} {
		h.Observe(d)
	}
	count, sum, within := h.Load()
	if count != 5 || sum != 3600.900003001 || within[1e-6] != 2 || within[4e-6] != 3 || within[1.048576] != 4 || within[16.777216] != 4 {
		t.Errorf("count %d, sum %v, %v", count, sum, within)
	}
}

func BenchmarkHistogram(b *testing.B) {
	var h stats.Histogram
	for d := time.Duration(0); b.Loop(); d += 100 {
		h.Observe(d)
	}
}
