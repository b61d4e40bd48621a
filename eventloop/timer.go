package eventloop

import (
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// timer ends the loop's wait when a deadline has come. Deadlines move much more often
// than they come, and to set a timer of the kernel costs more than to be woken for
// nothing now and then, above all in a virtual machine. So it is set only where it
// would ring too late, and left alone where it rings too early.
type timer struct {
	fd int           // timerfd, polled by the loop
	at time.Duration // when it rings, by the loop's clock; 0: never
}

func (t *timer) open(l *Loop) error {
	fd, err := unix.TimerfdCreate(unix.CLOCK_MONOTONIC, unix.TFD_CLOEXEC|unix.TFD_NONBLOCK)
	if err != nil {
		return os.NewSyscallError("timerfd_create", err)
	}
	// Edge-triggered, so that what it has counted needs no read.
	if err := l.Add(fd, unix.EPOLLIN|unix.EPOLLET, t); err != nil {
		unix.Close(fd)
		return err
	}
	t.fd = fd
	return nil
}

func (t *timer) close() error { return os.NewSyscallError("close", unix.Close(t.fd)) }

// HandleEvents notes that the timer rang. Whether a deadline has come is seen later
// in the turn.
func (t *timer) HandleEvents(uint32) { t.at = 0 }

// ring has the timer ring at a reading of the clock, which shows now, or earlier.
func (t *timer) ring(at, now time.Duration) error {
	spec := unix.ItimerSpec{Value: unix.NsecToTimespec(int64(at - now))}
	if err := unix.TimerfdSettime(t.fd, 0, &spec, nil); err != nil {
		return os.NewSyscallError("timerfd_settime", err)
	}
	t.at = at
	return nil
}

// prepareSleep sets the timer for the worker's deadline at a reading of the clock, and
// reports whether the loop may sleep: the deadline is not here yet.
func (l *Loop) prepareSleep(now time.Duration) (bool, error) {
	at, ok := l.worker.Deadline()
	if !ok || l.timer.at != 0 && l.timer.at <= at {
		return true, nil
	}
	if at <= now {
		return false, nil
	}
	return true, l.timer.ring(at, now)
}
