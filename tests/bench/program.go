package main

import (
	"runtime"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// readBuffer is what a program that reads offers at once.
	readBuffer = 64 << 10
	// threads bounds the host programs: where there are more connections, each of them
	// has several.
	threads = 16
)

// program is a host program that reads its sockets or writes them, on a thread of its own.
type program struct {
	socks []*sock
	check bool   // the bytes are those of pattern
	chunk []byte // of a writer's
	epoll epoll  // of the sockets, if there are several

	bytes  atomic.Uint64 // that it has moved in all its runs
	paused atomic.Bool   // a writer's run is to end
	broken atomic.Bool   // what was read is not what was sent
	clock  int32         // of its processor time; set when it runs
	done   chan struct{} // closed at the end of its run
}

// sock is one socket of a program's.
type sock struct {
	fd    int
	bytes uint64 // that were moved
	at    int    // how much of the chunk was written that is being written
}

// share divides sockets among programs.
func share(fds []int) [][]int {
	parts := make([][]int, min(len(fds), threads))
	for i, fd := range fds {
		parts[i%len(parts)] = append(parts[i%len(parts)], fd)
	}
	return parts
}

// newProgram returns a program that waits for these events where it has several sockets.
func newProgram(tb testing.TB, fds []int, events uint32, check bool) *program {
	tb.Helper()
	p := &program{check: check}
	for _, fd := range fds {
		p.socks = append(p.socks, &sock{fd: fd})
	}
	if len(fds) == 1 {
		return p
	}
	p.epoll = newEpoll(tb)
	for i, fd := range fds {
		if err := p.epoll.add(fd, events, i); err != nil {
			tb.Fatal("epoll_ctl:", err)
		}
	}
	return p
}

// startReader starts a program that reads sockets until the end of the streams, or of tb.
func startReader(tb testing.TB, fds []int, check bool) *program {
	tb.Helper()
	p := newProgram(tb, fds, unix.EPOLLIN, check)
	buf := make([]byte, readBuffer)
	p.start(func() { p.each(func(s *sock) bool { return p.read(s, buf) }) })
	tb.Cleanup(func() {
		for _, fd := range fds {
			unix.Shutdown(fd, unix.SHUT_RDWR) //nolint:errcheck // the other end may be gone
		}
		<-p.done
	})
	return p
}

// startEcho starts a host program that sends back what it reads.
func startEcho(tb testing.TB, fd, size int) {
	tb.Helper()
	p := &program{}
	p.start(func() {
		buf := make([]byte, size)
		var y yields
		for {
			y.round()
			n, err := unix.Read(fd, buf)
			if err == unix.EINTR {
				continue
			}
			if n <= 0 {
				return
			}
			if _, err := unix.Write(fd, buf[:n]); err != nil {
				return
			}
		}
	})
	tb.Cleanup(func() {
		unix.Shutdown(fd, unix.SHUT_RDWR) //nolint:errcheck // the other end may be gone
		<-p.done
	})
}

// newWriter returns a program that is to write chunks to sockets.
func newWriter(tb testing.TB, fds []int, chunk int, check bool) *program {
	tb.Helper()
	p := newProgram(tb, fds, unix.EPOLLOUT, check)
	p.chunk = make([]byte, chunk)
	return p
}

// start has the program run on a thread of its own.
func (p *program) start(run func()) {
	p.done = make(chan struct{})
	p.paused.Store(false)
	began := make(chan struct{})
	go func() {
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		defer close(p.done)
		p.clock = int32(^unix.Gettid()<<3 | 6) // MAKE_THREAD_CPUCLOCK(tid, CPUCLOCK_SCHED)
		close(began)
		run()
	}()
	<-began
}

// processor returns the time that the program's thread has run; it must be running.
func (p *program) processor() time.Duration { return clock(p.clock) }

// each calls move with the one socket over and over, or with those of several that are
// ready, until it returns false.
func (p *program) each(move func(*sock) bool) {
	if len(p.socks) == 1 {
		var y yields
		for move(p.socks[0]) {
			y.round()
		}
		return
	}
	p.epoll.wait(func(i int) bool { return move(p.socks[i]) })
}

// read reads once, and reports whether there will be more.
func (p *program) read(s *sock, buf []byte) bool {
	n, err := unix.Read(s.fd, buf)
	if err == unix.EINTR {
		return true
	}
	if n <= 0 {
		return false
	}
	if p.check && !matches(buf[:n], s.bytes) {
		p.broken.Store(true)
	}
	s.bytes += uint64(n)
	p.bytes.Store(p.bytes.Load() + uint64(n))
	return true
}

// write writes once, and reports whether it is to go on.
func (p *program) write(s *sock) bool {
	if p.check {
		fill(p.chunk, s.bytes-uint64(s.at))
	}
	n, err := p.tryWrite(s)
	switch {
	case err == unix.EINTR || err == unix.EAGAIN:
		return !p.paused.Load()
	case err != nil:
		return false
	}
	s.at = (s.at + n) % len(p.chunk)
	s.bytes += uint64(n)
	p.bytes.Store(p.bytes.Load() + uint64(n))
	return !p.paused.Load()
}

// tryWrite waits for room where it has one socket only.
func (p *program) tryWrite(s *sock) (int, error) {
	if len(p.socks) == 1 {
		return unix.Write(s.fd, p.chunk[s.at:])
	}
	return unix.SendmsgN(s.fd, p.chunk[s.at:], nil, nil, unix.MSG_DONTWAIT)
}

// resume has writers write.
func resume(writers []*program) {
	for _, w := range writers {
		w.start(func() { w.each(w.write) })
	}
}

// pause ends what resume began.
func pause(writers []*program) {
	for _, w := range writers {
		w.paused.Store(true)
	}
	for _, w := range writers {
		<-w.done
	}
}

// total returns how many bytes programs have moved.
func total(programs []*program) (bytes uint64) {
	for _, p := range programs {
		bytes += p.bytes.Load()
	}
	return bytes
}

// mustHaveRead fails if one of the programs read what was not sent.
func mustHaveRead(tb testing.TB, readers []*program) {
	tb.Helper()
	for _, r := range readers {
		if r.broken.Load() {
			tb.Errorf("a host program read what was not sent")
		}
	}
}
