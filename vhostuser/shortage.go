package vhostuser

import (
	"errors"
	"time"

	"golang.org/x/sys/unix"
)

// shortageRetry is when a frontend is told again what the kernel had no memory for.
const shortageRetry = 100 * time.Millisecond

// noMemory reports whether a write failed for want of kernel memory, as those to
// sockets and pipes may: nothing has left, and no event tells when there is some.
func noMemory(err error) bool {
	return errors.Is(err, unix.ENOBUFS) || errors.Is(err, unix.ENOMEM)
}

// awaitMemory has all that could not be sent tried again after a while: a lost
// notification would stop the driver for ever, a lost reply the frontend.
func (s *session) awaitMemory() {
	if s.retryAt == 0 {
		s.retryAt = s.server.loop.Now() + shortageRetry
		s.server.stats.MemoryStalls.Inc()
	}
}

// retry sends what waited for memory.
func (s *session) retry() error {
	s.retryAt = 0
	for _, r := range s.rings {
		r.retry()
	}
	s.backend.flush()
	return s.serve()
}
