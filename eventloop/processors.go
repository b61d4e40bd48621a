package eventloop

import (
	"bytes"
	"io"
	"os"
	"runtime"
)

// Processors tells whether the machine's processors are in demand. Nil has some to spare
// at any time.
type Processors struct {
	loadavg *os.File
	n       int // that this process may use, perhaps not all of the machine's
}

// OpenProcessors returns the machine's processors. The caller must Close them.
func OpenProcessors() (*Processors, error) {
	f, err := os.Open("/proc/loadavg")
	if err != nil {
		return nil, err
	}
	return &Processors{loadavg: f, n: runtime.NumCPU()}, nil
}

// Close releases them, after which none is taken for waiting. It is safe for concurrent
// use with Crowded.
func (p *Processors) Close() error {
	if p == nil {
		return nil
	}
	return p.loadavg.Close()
}

// Crowded reports whether more than one thread waits for a processor: one may be whom the
// caller has just woken. Threads count wherever they run, so that a process that may use
// some of the processors finds them crowded too early rather than too late. Where there is
// one processor only, whoever is to make an event waits while the caller looks for it. It
// is safe for concurrent use and takes some 2 µs.
func (p *Processors) Crowded() bool {
	switch {
	case p == nil:
		return false
	case p.n == 1:
		return true
	}
	var text [64]byte
	n, err := p.loadavg.ReadAt(text[:], 0)
	return (err == nil || err == io.EOF) && runnable(text[:n]) > p.n+1
}

// runnable returns how many threads run or wait for a processor: in proc(5) the fourth
// field of loadavg begins with it, and a slash follows.
func runnable(loadavg []byte) (threads int) {
	before, _, _ := bytes.Cut(loadavg, []byte{'/'})
	for _, digit := range before[bytes.LastIndexByte(before, ' ')+1:] {
		threads = 10*threads + int(digit-'0')
	}
	return threads
}
