package stats_test

import (
	"sync"
	"testing"
	"time"

	"github.com/vhost-user-vsock/vhost-user-vsock/stats"
)

// at returns a clock that stands still.
func at(d time.Duration) func() time.Duration { return func() time.Duration { return d } }

func TestStopwatchAddsUpWhatRuns(t *testing.T) {
	var s stats.Stopwatch
	reads := func(now, want time.Duration) {
		t.Helper()
		if got := s.Seconds(at(now)); got != want.Seconds() {
			t.Errorf("at %v: %v s, want %v", now, got, want)
		}
	}
	reads(time.Hour, 0)
	s.Start(10 * time.Second)
	reads(10*time.Second, 0)
	reads(13*time.Second, 3*time.Second)
	s.Start(14 * time.Second)
	reads(16*time.Second, (6+2)*time.Second)
	s.Stop(16 * time.Second)
	reads(20*time.Second, (10+2)*time.Second)
	s.Stop(20 * time.Second)
	reads(time.Hour, 12*time.Second)
}

// A reader may have looked later than the writer, by the writer's own clock, ends.
func TestStopwatchNeverGoesBack(t *testing.T) {
	var s stats.Stopwatch
	s.Start(0)
	s.Seconds(at(1001 * time.Millisecond))
	s.Stop(time.Second)
	if got := s.Seconds(at(time.Minute)); got != 1.001 {
		t.Errorf("%v s after 1.001 s", got)
	}
	s.Start(time.Minute)
	if got := s.Seconds(at(time.Minute + time.Second)); got != 2 {
		t.Errorf("%v s, want the 2 s that are true", got)
	}
}

// A daemon's limit of connections may all be stalled for a year.
func TestStopwatchHoldsManyYears(t *testing.T) {
	const conns, year = 1 << 16, 365 * 24 * time.Hour
	var s stats.Stopwatch
	for range conns {
		s.Start(100 * year)
	}
	if got := s.Seconds(at(101 * year)); got != conns*year.Seconds() {
		t.Errorf("%v s", got)
	}
	for range conns {
		s.Stop(101 * year)
	}
	s.Start(101 * year)
	if got := s.Seconds(at(102 * year)); got != (conns+1)*year.Seconds() {
		t.Errorf("%v s", got)
	}
}

// Readers see a lap whole: with one running at most, and started when the clock
// stood still, time is never more than what the clock has moved on.
func TestStopwatchIsReadWhole(t *testing.T) {
	var s stats.Stopwatch
	stop := make(chan struct{})
	var readers sync.WaitGroup
	for range 2 {
		readers.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				if got := s.Seconds(at(time.Hour)); got != 0 {
					t.Errorf("read %v s", got)
					return
				}
			}
		})
	}
	for range 100_000 { // no time passes between Start and Stop
		s.Start(time.Hour)
		s.Stop(time.Hour)
	}
	close(stop)
	readers.Wait()
}

func BenchmarkStopwatch(b *testing.B) {
	var s stats.Stopwatch
	for b.Loop() {
		s.Start(time.Second)
		s.Stop(2 * time.Second)
	}
}
