package stats

import (
	"sync/atomic"
	"time"
)

// Stopwatch adds up how long something lasts that may happen many times at once:
// two that last a second make two. One goroutine may call Start and Stop; Seconds
// is safe for concurrent use, and waits for nobody.
type Stopwatch struct {
	version atomic.Uint32
	laps    [2]lap       // that of the version, and the next one
	shown   atomic.Int64 // the most that was ever read, in microseconds
}

// lap is what a Stopwatch knows: base + running × now is the time by now, in
// microseconds. Of nanoseconds a busy VM has too many for 64 bits within weeks.
type lap struct{ running, base atomic.Int64 }

// Start begins one more, at a reading of the clock.
func (s *Stopwatch) Start(now time.Duration) { s.change(1, now) }

// Stop ends one of those that were started.
func (s *Stopwatch) Stop(now time.Duration) { s.change(-1, now) }

func (s *Stopwatch) change(n int64, now time.Duration) {
	v := s.version.Load()
	was, next := &s.laps[v%2], &s.laps[(v+1)%2]
	next.running.Store(was.running.Load() + n)
	next.base.Store(was.base.Load() - n*now.Microseconds())
	s.version.Store(v + 1)
}

// Seconds returns the time so far, what is running included. clock tells the time
// that Start and Stop are given. The result never goes back, though the writer's
// reading of the clock may be older than the reader's: it is then ahead by as much.
func (s *Stopwatch) Seconds(clock func() time.Duration) float64 {
	running, base := s.current()
	read := base + running*clock().Microseconds()
	for {
		shown := s.shown.Load()
		if read <= shown {
			return float64(shown) / 1e6
		}
		if s.shown.CompareAndSwap(shown, read) {
			return float64(read) / 1e6
		}
	}
}

// current returns a lap as it was at one moment. The writer works on the other
// one, and so may be interrupted for as long as it likes.
func (s *Stopwatch) current() (running, base int64) {
	for {
		v := s.version.Load()
		l := &s.laps[v%2]
		running, base = l.running.Load(), l.base.Load()
		if s.version.Load() == v {
			return running, base
		}
	}
}
