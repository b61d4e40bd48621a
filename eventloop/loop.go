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

// yieldInterval is how often the loop passes Go's scheduler. To that, a goroutine that
// has not done so for 10 ms hogs a processor, also where it has slept in between: it
// looks for such ones every 20 µs then, takes their processor away in a system call, and
// costs a busy loop a tenth of its speed.
const yieldInterval = 5 * time.Millisecond

// Handler is told that its descriptor is ready.
type Handler interface {
	HandleEvents(events uint32) // EPOLL* bits
}

// Worker is served between two waits. What one of its methods leaves undone for now, such
// as to tell others of what it did, it can rely on the next to do: after Work that reports
// no more, either an event was there at once, and there is another turn, or Look or Rest
// is called.
type Worker interface {
	// Work does a bounded piece of work. While there is more the loop looks
	// for events without sleeping.
	Work() (more bool)
	// Rest is called before the loop sleeps: of whatever comes from now on an event
	// must tell. It reports whether something has come already.
	Rest() (more bool)
	// Look is called while the loop polls instead of sleeping and has found no event. It
	// reports whether something has come of which none tells.
	Look() (more bool)
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
	timer   timer
}

// New returns a loop without descriptors and with a worker that never has
// anything to do. Deadlines are readings of clock. The caller must Close it.
func New(clock Clock) (*Loop, error) {
	epoll, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	if err != nil {
		return nil, os.NewSyscallError("epoll_create1", err)
	}
	l := &Loop{epoll: epoll, worker: idle{}, clock: clock, turns: new(stats.Histogram)}
	l.SetPoll(Poll{})
	if err := l.calls.open(l); err != nil {
		unix.Close(epoll)
		return nil, err
	}
	if err := l.timer.open(l); err != nil {
		return nil, multierror.Append(err, l.calls.close(), unix.Close(epoll))
	}
	return l, nil
}

// Close releases the loop's own descriptors. It must not run beside Run; the
// descriptors that were added stay with their owners.
func (l *Loop) Close() error {
	return multierror.Append(nil,
		l.calls.close(),
		l.timer.close(),
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

// ReadClock returns what the clock tells by now: a turn may have lasted.
func (l *Loop) ReadClock() time.Duration { return l.clock() }

// Run serves until Stop. An access to memory that its file no longer backs panics
// there with a runtime.Error that has an Addr method, instead of ending the process.
func (l *Loop) Run() error {
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))

	l.now = l.clock()
	more := true // until the worker was asked
	var yielded time.Duration
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
		l.calls.run() // first: who asked for something may have sent an event after it
		l.dispatch(l.ready[:n])
		if at, ok := l.worker.Deadline(); ok && at <= l.now {
			l.worker.Expire(l.now)
		}
		more = l.worker.Work()
		if l.now-yielded >= yieldInterval {
			runtime.Gosched()
			yielded = l.now
		}
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

// sleep is wait at a reading of the clock, until an event or the worker's deadline
// comes.
func (l *Loop) sleep(now time.Duration) (int, error) {
	may, err := l.prepareSleep(now)
	switch {
	case err != nil:
		return 0, err
	case may:
		return l.wait(-1)
	}
	return l.wait(0)
}

// wait returns how many entries of l.ready are filled in. A signal counts as an
// empty wait: the runtime interrupts long waits routinely to preempt the thread.
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
func (idle) Rest() bool                      { return false }
func (idle) Look() bool                      { return false }
func (idle) Deadline() (time.Duration, bool) { return 0, false }
func (idle) Expire(time.Duration)            {}
