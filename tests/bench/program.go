package main

import (
	"runtime"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// readBuffer is what a program that reads offers at once.
const readBuffer = 64 << 10

// program is a host program that reads a socket or writes one, on a thread of its own.
type program struct {
	fd    int
	check bool // the bytes are those of pattern
	chunk int  // of a writer's

	bytes  atomic.Uint64 // that it has moved in all its runs
	paused atomic.Bool   // a writer's run is to end
	broken atomic.Bool   // what was read is not what was sent
	clock  int32         // of its processor time; set when it runs
	done   chan struct{} // closed at the end of its run
}

// startReader starts a program that reads fd until the end of the stream, or of tb.
func startReader(tb testing.TB, fd int, check bool) *program {
	tb.Helper()
	p := &program{fd: fd, check: check}
	p.start(p.read)
	tb.Cleanup(func() {
		unix.Shutdown(fd, unix.SHUT_RDWR) //nolint:errcheck // the other end may be gone
		<-p.done
	})
	return p
}

// newWriter returns a program that is to write chunks to fd.
func newWriter(fd, chunk int, check bool) *program {
	return &program{fd: fd, chunk: chunk, check: check}
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

func (p *program) read() {
	buf := make([]byte, readBuffer)
	for {
		n, err := unix.Read(p.fd, buf)
		if err == unix.EINTR {
			continue
		}
		if n <= 0 {
			return
		}
		at := p.bytes.Load()
		if p.check && !matches(buf[:n], at) {
			p.broken.Store(true)
		}
		p.bytes.Store(at + uint64(n))
	}
}

// write writes until the program is paused.
func (p *program) write() {
	buf := make([]byte, p.chunk)
	for !p.paused.Load() {
		at := p.bytes.Load()
		if p.check {
			fill(buf, at)
		}
		n, err := unix.Write(p.fd, buf)
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			return
		}
		p.bytes.Store(at + uint64(n))
	}
}

// resume has writers write.
func resume(writers []*program) {
	for _, w := range writers {
		w.start(w.write)
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
