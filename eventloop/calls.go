package eventloop

import (
	"errors"
	"os"
	"sync"

	"golang.org/x/sys/unix"
)

// calls brings functions of other goroutines onto the loop's. The loop's
// thread must not wait for a channel, so they queue behind a mutex and an
// eventfd ends the wait.
type calls struct {
	wake int // eventfd, polled by the loop

	mu     sync.Mutex
	queued []func() // guarded by mu
	closed bool     // guarded by mu

	running []func() // taken from queued, the loop's alone
}

func (c *calls) open(l *Loop) error {
	wake, err := unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK)
	if err != nil {
		return os.NewSyscallError("eventfd2", err)
	}
	// Edge-triggered, so that its count needs no read: one might take a later signal.
	if err := l.Add(wake, unix.EPOLLIN|unix.EPOLLET, c); err != nil {
		unix.Close(wake)
		return err
	}
	c.wake = wake
	return nil
}

func (c *calls) close() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.closed = true
	c.queued = nil
	return os.NewSyscallError("close", unix.Close(c.wake))
}

// HandleEvents has nothing to do: run has preceded it in this turn.
func (c *calls) HandleEvents(uint32) {}

// Do runs f on the loop's goroutine in this turn or the next one. It is safe
// for concurrent use. f does not run when the loop stops first.
func (l *Loop) Do(f func()) {
	c := &l.calls
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return
	}
	c.queued = append(c.queued, f)
	if len(c.queued) == 1 {
		c.signal()
	}
}

// Stop makes Run return after the turn in which it takes effect; what was
// queued by Do before runs first. It is safe for concurrent use.
func (l *Loop) Stop() { l.Do(func() { l.stopped = true }) }

// signal ends the loop's wait. The only way to fail is a full counter, and
// then the loop is awake anyway.
func (c *calls) signal() {
	one := [8]byte{1} // host-endian one on both of our architectures
	for {
		if _, err := unix.Write(c.wake, one[:]); !errors.Is(err, unix.EINTR) {
			return
		}
	}
}

// run calls what was queued before it began; what those queue waits for the
// next turn, so that a function that queues itself starves nobody.
func (c *calls) run() {
	c.mu.Lock()
	c.running, c.queued = c.queued, c.running[:0]
	c.mu.Unlock()
	for i, f := range c.running {
		c.running[i] = nil // lets go of what f holds
		f()
	}
}
