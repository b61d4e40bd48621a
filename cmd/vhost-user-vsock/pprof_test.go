package main

import (
	"bytes"
	"compress/gzip"
	"io"
	"testing"

	"golang.org/x/sys/unix"
)

// The sandbox leaves what profiles need.
func TestProcessIsProfiledInside(t *testing.T) {
	inTempDir(t)
	p := startDaemon(t, nil, "--metrics-addr", "127.0.0.1:0", "--pprof", "--sandbox", "on")
	if index := p.get(t, "/debug/pprof/"); !bytes.Contains(index, []byte("goroutine?debug=1")) {
		t.Errorf("index: %s", index)
	}
	if stacks := p.get(t, "/debug/pprof/goroutine?debug=1"); !bytes.Contains(stacks, []byte("eventloop.(*Loop).Run")) {
		t.Errorf("goroutines: %s", stacks)
	}
	if trace := p.get(t, "/debug/pprof/trace?seconds=0.01"); !bytes.HasPrefix(trace, []byte("go 1.")) {
		t.Errorf("trace of %d bytes: %.20q", len(trace), trace)
	}

	// Time is spent on scrapes meanwhile.
	over, done := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(done)
		for {
			select {
			case <-over:
				return
			default:
				p.scrape(t)
			}
		}
	}()
	// Which function the clock's signal meets is chance: one that all of a scrape
	// runs under, and another profile if none was met.
	waitFor(t, func() bool {
		return bytes.Contains(p.profile(t), []byte("/prometheus/promhttp."))
	})
	close(over)
	<-done
	p.stop(t, unix.SIGTERM)
}

// profile returns a processor profile of a second, unpacked.
func (p *process) profile(t *testing.T) []byte {
	t.Helper()
	z, err := gzip.NewReader(bytes.NewReader(p.get(t, "/debug/pprof/profile?seconds=1")))
	if err != nil {
		t.Fatal(err)
	}
	functions, err := io.ReadAll(z)
	if err != nil {
		t.Fatal(err)
	}
	return functions
}
