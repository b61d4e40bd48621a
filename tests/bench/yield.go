package main

import (
	"runtime"
	"time"
)

const (
	// yieldInterval is below the 10 ms after which Go's scheduler takes a goroutine that
	// it has not seen for one that hogs a processor, also where it has slept in calls of
	// the kernel: then it looks every 20 µs and takes its processor away in each of them.
	yieldInterval = 8 * time.Millisecond
	// yieldRounds is how many rounds of a loop pass between two looks at the clock.
	yieldRounds = 16
)

// yields has a thread of the bench pass Go's scheduler often enough to be left alone,
// which on two processors is a quarter of what a bare socket carries.
type yields struct {
	rounds int
	last   time.Time
}

// round is called in each round of the thread's loop.
func (y *yields) round() {
	if y.rounds++; y.rounds%yieldRounds != 0 {
		return
	}
	if now := time.Now(); now.Sub(y.last) >= yieldInterval {
		runtime.Gosched()
		y.last = now
	}
}
