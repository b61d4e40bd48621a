package main

import (
	"testing"

	"golang.org/x/sys/unix"
)

// epoll is what a host program with several sockets waits by.
type epoll int

// newEpoll returns one that is open until the end of tb.
func newEpoll(tb testing.TB) epoll {
	tb.Helper()
	fd, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	if err != nil {
		tb.Fatal("epoll_create1:", err)
	}
	tb.Cleanup(func() { unix.Close(fd) })
	return epoll(fd)
}

// add has wait tell of events of fd as a number of the caller's.
func (e epoll) add(fd int, events uint32, number int) error {
	return unix.EpollCtl(int(e), unix.EPOLL_CTL_ADD, fd, &unix.EpollEvent{Events: events, Fd: int32(number)})
}

// wait calls ready with the numbers of those that have events, over and over, until it
// returns false.
func (e epoll) wait(ready func(number int) bool) {
	events := make([]unix.EpollEvent, 64)
	var y yields
	for {
		y.round()
		n, err := unix.EpollWait(int(e), events, -1)
		if err != nil && err != unix.EINTR {
			return
		}
		for i := range max(n, 0) {
			if !ready(int(events[i].Fd)) {
				return
			}
		}
	}
}
