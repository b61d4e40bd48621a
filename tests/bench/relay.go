package main

import (
	"encoding/binary"
	"runtime"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// relay is the least that a round trip through another thread takes: an eventfd wakes a
// thread that writes to a socket, whose reader writes back; that thread writes another
// eventfd. All three sleep meanwhile.
type relay struct {
	kick, call int
}

func newRelay(tb testing.TB, size int) *relay {
	tb.Helper()
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		tb.Fatal("socketpair:", err)
	}
	r := &relay{kick: eventfd(tb), call: eventfd(tb)}
	for _, fd := range pair {
		tb.Cleanup(func() { unix.Close(fd) })
	}
	startThread(tb, r.kick, func() { r.serve(pair[0], size) })
	startEcho(tb, pair[1], size) // ends before it
	return r
}

// eventfd returns one that is open until the end of tb. It blocks.
func eventfd(tb testing.TB) int {
	tb.Helper()
	fd, err := unix.Eventfd(0, unix.EFD_CLOEXEC)
	if err != nil {
		tb.Fatal("eventfd:", err)
	}
	tb.Cleanup(func() { unix.Close(fd) })
	return fd
}

// startThread runs f on a thread of its own until the end of tb, when it is to see that
// quit was written to.
func startThread(tb testing.TB, quit int, f func()) {
	tb.Helper()
	done := make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		f()
	}()
	tb.Cleanup(func() {
		signal(quit)
		<-done
	})
}

func (r *relay) serve(sock, size int) {
	buf := make([]byte, size)
	var y yields
	for {
		y.round()
		await(r.kick)
		if _, err := unix.Write(sock, buf); err != nil {
			return // the echo has ended
		}
		for have := 0; have < size; {
			n, err := unix.Read(sock, buf[have:])
			if n <= 0 && err != unix.EINTR {
				return
			}
			have += max(n, 0)
		}
		signal(r.call)
	}
}

// measure goes round and round for a while.
func (r *relay) measure(stretch time.Duration) round {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	var times []time.Duration
	var y yields
	for until := time.Now().Add(stretch); ; {
		y.round()
		begun := time.Now()
		signal(r.kick)
		await(r.call)
		now := time.Now()
		times = append(times, now.Sub(begun))
		if !now.Before(until) {
			return percentiles(times)
		}
	}
}

var one = [8]byte{1} // little endian

// signal adds one to an eventfd.
func signal(fd int) { unix.Write(fd, one[:]) } //nolint:errcheck // it is open and far from full

// await waits until an eventfd is not zero, makes it so, and returns what it was.
func await(fd int) uint64 {
	var count [8]byte
	for {
		switch _, err := unix.Read(fd, count[:]); err {
		case nil:
			return binary.NativeEndian.Uint64(count[:])
		case unix.EINTR:
		default:
			panic(err)
		}
	}
}
