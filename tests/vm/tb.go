package vm

import "time"

// TB is the part of testing.TB that the package needs; the demo has its own.
type TB interface {
	Helper()
	Cleanup(func())
	Failed() bool
	Logf(format string, args ...any)
	Fatalf(format string, args ...any)
}

// tick is the pause between two looks at something that cannot be waited for.
const tick = 2 * time.Millisecond

// Eventually waits until done holds and fails with what after limit.
func Eventually(t TB, limit time.Duration, what string, done func() bool) {
	t.Helper()
	deadline := time.Now().Add(limit)
	for !done() {
		if time.Now().After(deadline) {
			t.Fatalf("not within %v: %s", limit, what)
		}
		time.Sleep(tick)
	}
}
