package eventloop

import "time"

// Clock tells the time since a moment of its own. It never goes back. The loop
// asks it on the goroutine that runs the loop.
type Clock func() time.Duration

// Monotonic returns the system's clock, which is 0 now.
func Monotonic() Clock {
	start := time.Now()
	return func() time.Duration { return time.Since(start) }
}
