package vhostuser

import (
	"errors"

	"golang.org/x/sys/unix"
)

// notifier is a descriptor through which the two sides wake each other: mostly
// an eventfd, with UML one end of a socket pair. It is non-blocking, unless its frontend
// changes that and has its own device stand still.
type notifier struct {
	fd       int      // owned, -1 if there is none
	declined bool     // the frontend said that there is none: one side polls
	due      bool     // the latest signal was not sent for want of memory
	counts   [64]byte // what drain reads, here so that it is not allocated each time
}

func (n *notifier) present() bool { return n.fd >= 0 }

// set takes ownership of fd, which may be -1, and closes the former one.
func (n *notifier) set(fd int) {
	n.drop()
	n.fd, n.declined = fd, fd < 0
}

// drop closes the descriptor, and forgets what was said of it.
func (n *notifier) drop() {
	n.declined = false
	if n.present() {
		unix.Close(n.fd)
		n.fd = -1
	}
}

// signal writes what every kind of descriptor takes, a host-endian one of eight
// bytes. When there is no room the other side has not yet seen the last one.
// A descriptor whose other side is gone is dropped. One that the kernel has no
// memory for, as a socket or a pipe may need some, leaves the signal due.
func (n *notifier) signal() {
	n.due = false
	if !n.present() {
		return
	}
	for {
		switch _, err := unix.Write(n.fd, one[:]); {
		case errors.Is(err, unix.EINTR):
			continue
		case err == nil, errors.Is(err, unix.EAGAIN):
		case noMemory(err):
			n.due = true
		default:
			n.drop()
		}
		return
	}
}

// drain takes signals. It returns false when there will be none any more. Not
// all of them need to go at once: the loop comes back for the others.
func (n *notifier) drain() bool {
	for {
		switch got, err := unix.Read(n.fd, n.counts[:]); {
		case errors.Is(err, unix.EINTR):
			continue
		case err != nil:
			return errors.Is(err, unix.EAGAIN)
		default:
			return got > 0
		}
	}
}

var one = [8]byte{1} // little endian like every host we run on
