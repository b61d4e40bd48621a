package eventloop

import (
	"os"

	"golang.org/x/sys/unix"
)

// slot is what the loop knows of one descriptor number. The kernel reuses
// numbers at once, so each Add begins a generation; an event of an
// older one, still in the batch, is dropped.
type slot struct {
	handler    Handler // nil: nothing registered
	generation uint32
}

// Add serves fd by h for the EPOLL* events in interest. The caller keeps fd
// and calls Remove before closing it. It fails with EPERM for a descriptor
// that cannot be polled, such as a regular file's.
func (l *Loop) Add(fd int, interest uint32, h Handler) error {
	if fd < 0 {
		return os.NewSyscallError("epoll_ctl", unix.EBADF)
	}
	if fd >= len(l.slots) {
		grown := make([]slot, max(fd+1, 2*len(l.slots)))
		copy(grown, l.slots)
		l.slots = grown
	}
	generation := l.slots[fd].generation + 1
	if err := l.control(unix.EPOLL_CTL_ADD, fd, interest, generation); err != nil {
		return err
	}
	l.slots[fd] = slot{handler: h, generation: generation}
	return nil
}

// Modify replaces the interest in fd.
func (l *Loop) Modify(fd int, interest uint32) error {
	if !l.registered(fd) {
		return os.NewSyscallError("epoll_ctl", unix.ENOENT)
	}
	return l.control(unix.EPOLL_CTL_MOD, fd, interest, l.slots[fd].generation)
}

// Remove ends the service of fd. Its handler is not called again, not even
// for events that this turn's wait has already returned.
func (l *Loop) Remove(fd int) error {
	if !l.registered(fd) {
		return os.NewSyscallError("epoll_ctl", unix.ENOENT)
	}
	l.slots[fd].handler = nil
	return l.control(unix.EPOLL_CTL_DEL, fd, 0, 0)
}

// Drop is Remove for a descriptor that the caller closes next, the only one of its
// file: with that the kernel stops watching of its own accord, which saves a call.
func (l *Loop) Drop(fd int) {
	if l.registered(fd) {
		l.slots[fd].handler = nil
	}
}

func (l *Loop) registered(fd int) bool {
	return fd >= 0 && fd < len(l.slots) && l.slots[fd].handler != nil
}

func (l *Loop) control(op, fd int, interest, generation uint32) error {
	event := unix.EpollEvent{Events: interest, Fd: int32(fd), Pad: int32(generation)}
	return os.NewSyscallError("epoll_ctl", unix.EpollCtl(l.epoll, op, fd, &event))
}

// dispatch calls the handlers of the events that are still current.
func (l *Loop) dispatch(events []unix.EpollEvent) {
	for i := range events {
		event := &events[i]
		// Looked up for each event: a handler may have added descriptors.
		s := l.slots[event.Fd]
		if s.handler == nil || s.generation != uint32(event.Pad) {
			continue
		}
		s.handler.HandleEvents(event.Events)
	}
}
