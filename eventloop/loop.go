package eventloop

import (
	"errors"
	"os"
	"runtime"
	"runtime/debug"
	"time"

	"github.com/hashicorp/go-multierror"
	"golang.org/x/sys/unix"

	"github.com/vhost-user-vsock/vhost-user-vsock/stats"
)

// batch is how many ready descriptors one wait returns at most. The others
// stay ready in the kernel and come with the next turn.
const batch = 256

// Handler is told that its descriptor is ready.
type Handler interface {
	HandleEvents(events uint32) // EPOLL* bits
}

// Worker is served between two waits.
type Worker interface {
	// Work does a bounded piece of work. While there is more the loop looks
	// for events without sleeping.
	Work() (more bool)
	// Deadline says when Expire must run next, by the clock of Loop.Now.
	Deadline() (at time.Duration, ok bool)
	// Expire runs when the deadline has come.
	Expire(now time.Duration)
}

// Loop waits for descriptors and serves their handlers. Its methods belong to
// the goroutine that calls Run, before and after Run to the one that owns the
// Loop; Do and Stop are safe for concurrent use.
type Loop struct {
	epoll   int
	slots   []slot // by descriptor
	ready   [batch]unix.EpollEvent
	worker  Worker
	clock   Clock
	now     time.Duration
	turns   *stats.Histogram
	polling polling
	stopped bool
	calls   calls
}

// New returns a loop without descriptors and with a worker that never has
// anything to do. Deadlines are readings of clock. The caller must Close it.
func New(clock Clock) (*Loop, error) {
	epoll, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	if err != nil {
		return nil, os.NewSyscallError("epoll_create1", err)
	}
	l := &Loop{epoll: epoll, worker: idle{}, clock: clock, turns: new(stats.Histogram)}
	if err := l.calls.open(l); err != nil {
		unix.Close(epoll)
		return nil, err
	}
	return l, nil
}

// Close releases the loop's own descriptors. It must not run beside Run; the
// descriptors that were added stay with their owners.
func (l *Loop) Close() error {
	return multierror.Append(nil,
		l.calls.close(),
		os.NewSyscallError("close", unix.Close(l.epoll)),
	).ErrorOrNil()
}

// SetWorker replaces the worker.
func (l *Loop) SetWorker(w Worker) { l.worker = w }

// CountTurns has the loop count in h how long its turns take: for how long whoever
// needs it next may have to wait.
func (l *Loop) CountTurns(h *stats.Histogram) { l.turns = h }

// Now returns what the clock told after the last wait, or when Run began.
func (l *Loop) Now() time.Duration { return l.now }

// Run serves until Stop and keeps its goroutine on one thread meanwhile. An
// access to memory that its file no longer backs panics there with a
// runtime.Error that has an Addr method, instead of ending the process.
func (l *Loop) Run() error {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))

	l.now = l.clock()
	more := true // until the worker was asked
	for !l.stopped {
		n, err := l.next(more)
		if err != nil {
			return err
		}
		now := l.clock()
		if more { // the turn before ended where this one begins
			l.turns.Observe(now - l.now)
		}
		l.now = now
		l.dispatch(l.ready[:n])
		l.calls.run()
		if at, ok := l.worker.Deadline(); ok && at <= l.now {
			l.worker.Expire(l.now)
		}
		more = l.worker.Work()
	}
	return nil
}

// next returns how many entries of l.ready are filled in for the next turn. While
// the worker has more to do it only looks.
func (l *Loop) next(more bool) (int, error) {
	if more {
		return l.wait(0)
	}
	return l.await()
}

// timeout returns how many milliseconds the loop may sleep at a reading of its
// clock, -1 for ever.
func (l *Loop) timeout(now time.Duration) int {
	at, ok := l.worker.Deadline()
	if !ok {
		return -1
	}
	left := at - now
	if left <= 0 {
		return 0
	}
	const longest = time.Hour // fits every C int
	// Rounded up: a sleep that ends early would end in a turn for nothing.
	return int((min(left, longest) + time.Millisecond - 1) / time.Millisecond)
}

// wait returns how many entries of l.ready are filled in. A signal counts as
// an empty wait, so that the next one has a fresh timeout: the runtime
// interrupts long waits routinely to preempt the thread.
func (l *Loop) wait(timeout int) (int, error) {
	n, err := unix.EpollWait(l.epoll, l.ready[:], timeout)
	if errors.Is(err, unix.EINTR) {
		return 0, nil
	}
	return n, os.NewSyscallError("epoll_wait", err)
}

// idle is the worker of a loop that was given none.
type idle struct{}

func (idle) Work() bool                      { return false }
func (idle) Deadline() (time.Duration, bool) { return 0, false }
func (idle) Expire(time.Duration)            {}
